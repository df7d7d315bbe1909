# SPDX-License-Identifier: Apache-2.0
"""A language model judges the pictures of an evaluation.

  SCORES/judge-NAME/judge.json       scale, questions, model, seed, address
  SCORES/judge-NAME/answers.jsonl    each answer as it came, or why none came
  SCORES/judge-NAME/scores.json      means with intervals, what is missing

Answers are asked for once and kept whole, so that they are scored anew without
asking again, by these words or by better ones. It goes on where it was stopped;
a question that failed is asked again by the next start.
"""

import collections
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from suti.evaluation import intervals
from suti.evaluation.benchmark.evaluate import picture_key, read_scores
from suti.evaluation.benchmark.tables import Row
from suti.evaluation.language_model.client import Address, RefusedError, ask
from suti.evaluation.language_model.scales import SCALES, Question, Scale
from suti.evaluation.rating.tasks import append
from suti.io.files import read_json, write_json
from suti.io.image_files import load_image
from suti.io.paths import in_bucket
from suti.runtime.progress import progress
from suti.schema import seed_of

SIDE_PX = 512  # what is shown, as DreamBench++ does
# Of a picture of that side, at the common price of a token for 750 pixels, and
# of an answer; to tell a cost before it arises, no more.
_PICTURE_TOKENS, _ANSWER_TOKENS = SIDE_PX**2 // 750, 120
_CHARACTERS = 4  # of a token
_GIVE_UP = 10  # questions without an answer, at the beginning or of a server


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """What judging will take.

  Attributes:
    calls: questions that are still to be asked.
    tokens_in, tokens_out: about.
  """

  calls: int
  tokens_in: int
  tokens_out: int

  def cost(self, price_in: float, price_out: float) -> float:
    """In the currency of prices a million tokens."""
    return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
  """One question about one picture."""

  row: Row
  question: Question
  run: int

  @property
  def key(self) -> str:
    """Its name among the answers."""
    return f"{picture_key(self.row)}/{self.question.name}/{self.run}"

  @property
  def text(self) -> str:
    """What is asked. A prompt's own braces stay as they are."""
    return self.question.text.replace("{prompt}", self.row.prompt)


class Judging:
  """The judging of one evaluation by one model on one scale.

  Attributes:
    folder: SCORES/judge-NAME.
    scale: what is asked.
    calls: every question.
    answers: those there are, by key.
  """

  def __init__(
    self, scores: Path, *, scale: str, model: str, seed: int
  ) -> None:
    if scale not in SCALES:
      raise ValueError(f"--scale={scale}: expected {' or '.join(SCALES)}.")
    _, self.rows = read_scores(scores)
    self.references: dict[str, list[str]] = read_json(
      scores / "references.json"
    )
    if in_bucket(scores):
      raise ValueError(
        f"{scores} is in a bucket, where answers cannot be added one by one: "
        "copy it to this machine."
      )
    if not model.strip():
      raise ValueError("--model is empty: give its name, as the server has it.")
    self.scale, self.model, self.seed = SCALES[scale], model, seed
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in model)
    self.folder = scores / f"judge-{scale}-{name[:80]}"
    self.calls = [
      Call(row=row, question=question, run=run)
      for row in self.rows
      for question in self.scale.questions
      for run in range(self.scale.runs)
    ]
    self._check()
    self.answers = _read_answers(self.folder / "answers.jsonl")

  def _check(self) -> None:
    """Refuses a folder of answers to something else."""
    path = self.folder / "judge.json"
    if path.is_file() and read_json(path) != self._record():
      raise ValueError(
        f"{self.folder} holds answers to other questions or of another seed: "
        "move it away, or give the same --seed."
      )

  def _record(self) -> dict[str, Any]:
    return record(self.scale, model=self.model, seed=self.seed)

  def answered(self) -> int:
    """How many answers there are."""
    return sum(bool(answer.get("text")) for answer in self.answers.values())

  def left(self) -> list[Call]:
    """Questions without an answer."""
    return [
      call
      for call in self.calls
      if not self.answers.get(call.key, {}).get("text")
    ]

  def estimate(self) -> Estimate:
    """What asking what is left will take."""
    calls = self.left()
    pictures = sum(1 + call.question.with_reference for call in calls)
    letters = sum(len(call.text) for call in calls)
    return Estimate(
      calls=len(calls),
      tokens_in=letters // _CHARACTERS + pictures * _PICTURE_TOKENS,
      tokens_out=len(calls) * _ANSWER_TOKENS,
    )

  def ask_all(self, address: Address) -> None:
    """Asks what is left, one by one, each answer written at once.

    Raises:
      ValueError: the server refuses, answers none of the first questions, or
        no longer answers; what was answered is kept.
    """
    write_json(self.folder / "judge.json", self._record())
    path = self.folder / "answers.jsonl"
    failed, troubles, answered = 0, 0, False
    for call in progress(self.left(), f"judge by {self.model}"):
      try:
        pictures = self._pictures(call)
      except ValueError as error:
        answer = {"text": "", "failure": str(error)}
      else:
        seed = seed_of(self.seed, call.key) % 2**31
        try:
          found = ask(address, call.text, pictures, seed=seed)
        except RefusedError as error:
          raise ValueError(
            f"{error} {self.answered()} answers are kept in {path}."
          ) from error
        answer = dataclasses.asdict(found) | {"seed": seed}
      line = {"call": call.key, "asked": call.text} | answer
      append(path, line)
      self.answers[call.key] = line
      answered = answered or bool(line["text"])
      failed += not line["text"]
      if failed == _GIVE_UP and not answered:
        raise ValueError(
          f"the first {failed} questions have no answer, the last one because "
          f"of: {line['failure']}. Correct --address or --model, or try "
          "another one."
        )
      troubles = troubles + 1 if answer.get("trouble") else 0
      if troubles == _GIVE_UP:
        raise ValueError(
          f"{address.url} has not answered the last {troubles} questions, the "
          f"last one because of: {line['failure']}. {self.answered()} answers "
          f"are kept in {path}: start the same command again when it is back."
        )

  def _pictures(self, call: Call) -> list[bytes]:
    paths = [call.row.path]
    if call.question.with_reference:
      paths.insert(0, self.references[call.row.subject][0])
    return [_png(path) for path in paths]

  def score(self) -> dict[str, Any]:
    """Scores the answers there are, and writes scores.json."""
    table = score_answers(self.scale, self.calls, self.answers)
    table = {"model": self.model, "scale": self.scale.name} | table
    write_json(self.folder / "scores.json", table)
    return table


def record(scale: Scale, *, model: str, seed: int) -> dict[str, Any]:
  """What was asked of whom."""
  return {
    "scale": scale.name,
    "version": scale.version,
    "questions": {q.name: q.text for q in scale.questions},
    "runs": scale.runs,
    "model": model,
    "seed": seed,
    "side_px": SIDE_PX,
  }


def _png(path: str) -> bytes:
  image = Image.fromarray(load_image(path))
  image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
  content = io.BytesIO()
  image.save(content, "PNG")
  return content.getvalue()


def _read_answers(path: Path) -> dict[str, dict[str, Any]]:
  """By key, the last of each; a line that was cut off is left out."""
  if not path.is_file():
    return {}
  found = {}
  text = path.read_text(encoding="utf-8", errors="replace")
  for line in text.split("\n"):
    try:
      answer = json.loads(line) if line else {}
      found[answer["call"]] = answer
    except (json.JSONDecodeError, KeyError, TypeError):
      continue
  return found


def score_answers(
  scale: Scale,
  calls: Sequence[Call],
  answers: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
  """Means over pictures, with intervals over subjects.

  A picture's score is the mean of its runs that can be read; one of which no
  run of a question can be read has none, and no overall score.

  Returns: {"scores": {name or "overall": {"mean", "low", "high", "subjects",
    "pictures"}}, "asked", "missing": answers that are absent or unreadable,
    "failures": {why: count}, "models": {"NAME REVISION": count}}.
  """
  marks: dict[tuple[Row, str], list[float]] = collections.defaultdict(list)
  failures: collections.Counter[str] = collections.Counter()
  models: collections.Counter[str] = collections.Counter()
  for call in calls:
    answer = answers.get(call.key, {"failure": "not asked yet"})
    text = str(answer.get("text") or "")
    mark = call.question.parse(text) if text else None
    if mark is None:
      why = "cannot be read" if text else str(answer.get("failure") or "empty")
      failures[why] += 1
    else:
      marks[(call.row, call.question.name)].append(mark)
    if text:
      name = f"{answer.get('model', '')} {answer.get('revision', '')}".strip()
      models[name or "not said"] += 1
  values: dict[str, list[tuple[str, float]]] = {
    name: [] for name in (*(q.name for q in scale.questions), "overall")
  }
  for row in dict.fromkeys(call.row for call in calls):
    found = {
      q.name: float(np.mean(marks[(row, q.name)]))
      for q in scale.questions
      if (row, q.name) in marks
    }
    for name, value in found.items():
      values[name].append((row.subject, value))
    if len(found) == len(scale.questions):
      values["overall"].append((row.subject, scale.combine(found)))
  return {
    "scores": {name: mean_over_subjects(rows) for name, rows in values.items()},
    "asked": len(calls),
    "missing": sum(failures.values()),
    "failures": dict(failures),
    "models": dict(models),
  }


def mean_over_subjects(
  rows: Sequence[tuple[str, float]],
) -> dict[str, Any] | None:
  """Of (subject, value): the mean with its interval; None of no rows."""
  if not rows:
    return None
  sums: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
  for subject, value in rows:
    sums[subject][0] += value
    sums[subject][1] += 1.0
  columns = np.asarray(list(sums.values())).T
  found = intervals.bootstrap(lambda s, w: s.sum(-1) / w.sum(-1), *columns)
  return dataclasses.asdict(found) | {"pictures": len(rows)}
