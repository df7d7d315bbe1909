# SPDX-License-Identifier: Apache-2.0
"""What people are asked, in which order, and the file of their answers.

SuTI (arXiv 2304.00186), section 5, asks three questions of a picture, each yes
or no: does it show the subject, does it follow the text, does it look real; a
picture is good overall if all three are yes. Or two systems' pictures of one
prompt stand side by side, and the better one is chosen.

Raters learn nothing about systems: pictures have names that say nothing, and
order and sides are shuffled for each rater by a seed.

  RATINGS.jsonl    an answer a line; of two answers to one question the later
"""

import dataclasses
import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suti.evaluation.benchmark.evaluate import picture_key, read_scores
from suti.evaluation.benchmark.tables import Row
from suti.io.files import read_json
from suti.schema import content_key

QUESTIONS = {
  "subject": "Is it the same subject as in the pictures above?",
  "text": "Does it show what the text says?",
  "photorealism": "Does it look like a real picture, without mistakes?",
}
OVERALL = "overall"
CHOICES = ("left", "right", "tie")
_MAX_REFERENCES = 6
_START = '{"rater": '  # of each line
_TOGETHER = 10  # tasks that all raters have before others


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """One thing to rate.

  Attributes:
    key: its name, which says nothing.
    systems: one, or the two that are compared.
    subject, prompt: what should be shown.
    pictures: of each system, by path.
    references: of the subject, by path.
  """

  key: str
  systems: tuple[str, ...]
  subject: str
  prompt: str
  pictures: tuple[str, ...]
  references: tuple[str, ...]


def read_tasks(folders: Sequence[Path], *, pairwise: bool) -> list[Task]:
  """All that may be asked about some evaluations.

  Args:
    folders: that `evaluate` wrote.
    pairwise: pairs of two systems' pictures instead of single ones.

  Raises:
    ValueError: a folder without scores, two systems of one name, or no pair.
  """
  rows: dict[str, list[Row]] = {}
  references: dict[str, list[str]] = {}
  for folder in folders:
    metrics, found = read_scores(folder)
    name = str(metrics["system"])
    if name in rows:
      raise ValueError(
        f"two of the folders are of a system called '{name}': score one of "
        "them again with another --name."
      )
    rows[name] = found
    references |= read_json(folder / "references.json")

  def task(systems: Sequence[str], chosen: Sequence[Row]) -> Task:
    first = chosen[0]
    return Task(
      key=content_key(*systems, *map(picture_key, chosen)),
      systems=tuple(systems),
      subject=first.subject,
      prompt=first.prompt,
      pictures=tuple(row.path for row in chosen),
      references=tuple(references[first.subject][:_MAX_REFERENCES]),
    )

  if not pairwise:
    return [task([name], [row]) for name in rows for row in rows[name]]
  if len(rows) < 2:
    raise ValueError("--pairwise needs the scores of two systems or more.")
  tasks = []
  names = list(rows)
  for i, one in enumerate(names):
    for other in names[i + 1 :]:
      theirs = _by_place(rows[other])
      tasks += [
        task([one, other], [row, theirs[place]])
        for place, row in _by_place(rows[one]).items()
        if place in theirs
      ]
  if not tasks:
    raise ValueError(
      "no prompt has pictures of two systems: give scores on one benchmark."
    )
  return tasks


def _by_place(rows: Sequence[Row]) -> dict[tuple[str, str, int], Row]:
  """Rows by subject, prompt and their order among those of the prompt."""
  found: dict[tuple[str, str, int], Row] = {}
  counts: dict[tuple[str, str], int] = {}
  for row in rows:
    group = (row.subject, row.prompt)
    counts[group] = counts.get(group, -1) + 1
    found[(*group, counts[group])] = row
  return found


def order_of(tasks: Sequence[Task], rater: str, *, seed: int) -> list[Task]:
  """The tasks as one rater gets them; the same each time.

  Ten by ten: all raters have the same ten first, each in another order, so that
  those who stop early have rated the same pictures and agreement is known.
  """
  shuffled = sorted(tasks, key=lambda task: task.key)
  random.Random(str(seed)).shuffle(shuffled)
  rng, order = random.Random(f"{seed}/{rater}"), []
  for start in range(0, len(shuffled), _TOGETHER):
    part = shuffled[start : start + _TOGETHER]
    rng.shuffle(part)
    order += part
  return order


def is_swapped(task: Task, rater: str, *, seed: int) -> bool:
  """Whether the second system stands on the left, for this rater."""
  return random.Random(f"{seed}/{rater}/{task.key}").random() < 0.5


# --- Answers -----------------------------------------------------------------


def make_rating(
  task: Task, answer: Mapping[str, Any], *, rater: str, seed: int
) -> dict[str, Any]:
  """What is written of an answer.

  Args:
    task: that was answered.
    answer: {question: bool} of all questions, or {"choice": of `CHOICES`}.
    rater: who.
    seed: of sides.

  Raises:
    ValueError: an answer is missing, or is none.
  """
  rating: dict[str, Any] = {
    "rater": rater,
    "task": task.key,
    "systems": list(task.systems),
    "subject": task.subject,
    "prompt": task.prompt,
    "pictures": list(task.pictures),
  }
  if len(task.systems) == 2:
    choice = answer.get("choice")
    if choice not in CHOICES:
      raise ValueError(f"choice is {choice!r}: expected {', '.join(CHOICES)}.")
    sides = list(task.systems)
    if is_swapped(task, rater, seed=seed):
      sides.reverse()
    better = {"left": sides[0], "right": sides[1], "tie": None}[str(choice)]
    return rating | {"better": better}
  for question in QUESTIONS:
    if not isinstance(answer.get(question), bool):
      raise ValueError(f"{question} is not answered: expected yes or no.")
  answers = {question: answer[question] for question in QUESTIONS}
  answers[OVERALL] = all(answers.values())
  return rating | {"answers": answers}


def answer_of(
  rating: Mapping[str, Any], *, task: Task, seed: int
) -> dict[str, Any]:
  """What `make_rating` was given for a rating: the other way round.

  Args:
    rating: of `make_rating`.
    task: that was answered.
    seed: of sides.
  """
  if len(task.systems) == 1:
    return {question: rating["answers"][question] for question in QUESTIONS}
  if rating["better"] is None:
    return {"choice": "tie"}
  swapped = is_swapped(task, rating["rater"], seed=seed)
  first = rating["better"] == task.systems[0]
  return {"choice": "left" if first != swapped else "right"}


def append(path: Path, rating: Mapping[str, Any]) -> None:
  """Adds an answer to the file; a line that was cut off is ended first."""
  line = json.dumps(rating, ensure_ascii=False).encode() + b"\n"
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("ab+") as file:
    size = file.seek(0, os.SEEK_END)
    if size:
      file.seek(size - 1)
      if file.read(1) != b"\n":
        line = b"\n" + line
    file.write(line)
    file.flush()
    os.fsync(file.fileno())


def read_ratings(path: Path) -> list[dict[str, Any]]:
  """The answers of a file, of those to one question the last.

  A line that begins as a rating and is no JSON was cut off when the computer
  went down, and is left out.

  Raises:
    ValueError: there is no such file, or a line is of something else.
  """
  if not path.is_file():
    raise ValueError(f"{path} does not exist: suti rate writes it.")
  found: dict[tuple[str, str], dict[str, Any]] = {}
  text = path.read_bytes().decode("utf-8-sig", errors="replace")
  for number, line in enumerate(text.split("\n"), start=1):
    try:
      rating = json.loads(line) if line else None
    except json.JSONDecodeError:
      if _START.startswith(line.strip("\0")[: len(_START)]):
        continue
      rating = {}  # a picture, say, to which answers must not be added
    if rating is None:
      continue
    if not _is_rating(rating):
      raise ValueError(
        f"{path}, line {number}, is no rating: give the file that suti rate "
        "wrote."
      )
    key = (rating["rater"], rating["task"])
    found.pop(key, None)
    found[key] = rating
  return list(found.values())


def _is_rating(rating: Any) -> bool:
  if not isinstance(rating, dict):
    return False
  texts = (rating.get(key) for key in ("rater", "task", "subject"))
  systems = rating.get("systems")
  if not all(isinstance(x, str) for x in texts) or not isinstance(
    systems, list
  ):
    return False
  if len(systems) == 2:
    return rating.get("better", "") in (*systems, None)
  answers = rating.get("answers")
  if len(systems) != 1 or not isinstance(answers, dict):
    return False
  wanted = (answers.get(q) for q in (*QUESTIONS, OVERALL))
  return all(isinstance(x, bool) for x in wanted)
