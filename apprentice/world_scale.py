# SPDX-License-Identifier: Apache-2.0
"""An evaluation's pictures under the judge that knows SubjectWorld.

  SCORES/judge-world-NAME/scores.json      means with intervals
  SCORES/judge-world-NAME/pictures.jsonl   a row a picture

`suti judge SCORES --scale world`. Beside encoders and language models stands
what this judge sees: how near a picture is to the subject's references, and
whether it shows the class, place, look and outfit that its prompt names
(`suti.evaluation.questions`). It has seen SubjectWorld alone, and prompts that
are none of the world's are asked nothing. Unlike `apprentice.judging` it needs
no renders, and so compares with no look-alikes.
"""

import collections
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suti.evaluation.benchmark.evaluate import read_scores
from suti.evaluation.benchmark.tables import Row
from suti.evaluation.judge import Judge, load_judge
from suti.evaluation.language_model.judge import mean_over_subjects
from suti.evaluation.questions import shares
from suti.evaluation.scores import ROWS
from suti.hf.find import find_model
from suti.io.files import fingerprint, read_json, write_atomic, write_json
from suti.io.image_files import load_image
from suti.runtime.progress import progress

# N pictures, R references, D embedding width.

SCALE, MODEL = "world", "world_judge"
NO_PROMPT = "the prompt is none of the world's"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
  """What the judge says of one picture.

  Attributes:
    row: of the picture.
    scores: "identity" to the references; "questions", the share of right
      answers, and each question's 0 or 1.
    why: what is missing, "" for nothing.
  """

  row: Row
  scores: dict[str, float]
  why: str = ""


def judge_world(scores: Path, *, model: str = MODEL) -> tuple[dict, Path]:
  """Judges, and writes what was seen.

  Args:
    scores: a folder of `suti evaluate`.
    model: a judge's shipped name or folder.

  Returns: scores.json, and its folder.

  Raises:
    ValueError: no scores, no such judge, or none of the pictures can be read.
  """
  _, rows = read_scores(scores)
  references = read_json(scores / "references.json")
  judge = load_judge(model)
  vectors_RD = {
    name: _references(judge, paths) for name, paths in references.items()
  }
  seen: list[Seen] = []
  with progress(len(rows), f"judge by {model}") as bar:
    for start in range(0, len(rows), ROWS):
      part = rows[start : start + ROWS]
      seen += _look(judge, part, vectors_RD)
      bar.update(len(part))
  if not any(x.scores for x in seen):
    why = seen[0].why if seen else "there is none"
    raise ValueError(f"no picture of {scores} can be judged: {why}.")
  folder = scores / f"judge-{SCALE}-{Path(model).name}"
  lines = [
    json.dumps(
      {"path": x.row.path, "subject": x.row.subject, "prompt": x.row.prompt}
      | {"scores": x.scores, "missing": x.why},
      ensure_ascii=False,
    )
    for x in seen
  ]
  write_atomic(folder / "pictures.jsonl", ("\n".join(lines) + "\n").encode())
  table = {"model": model, "scale": SCALE} | _table(seen)
  table["models"] = {fingerprint(find_model(model)): len(seen)}
  write_json(folder / "scores.json", table)
  return table, folder


def _references(judge: Judge, paths: Sequence[str]) -> np.ndarray:
  """Those that can be read, (R, D); the evaluation has named the others."""
  images = []
  for path in paths:
    try:
      images.append(load_image(path))
    except ValueError:
      continue
  return judge(images).identity_ND if images else np.zeros((0, 0))


def _look(
  judge: Judge, rows: Sequence[Row], references: dict[str, np.ndarray]
) -> list[Seen]:
  found: dict[Row, str] = {}
  images = []
  for row in rows:
    try:
      images.append(load_image(row.path))
      found[row] = ""
    except ValueError as error:
      found[row] = str(error)
  seen = judge(images) if images else None
  answers = seen.answers if seen else {}
  place, result = 0, []
  for row in rows:
    if found[row]:
      result.append(Seen(row=row, scores={}, why=found[row]))
      continue
    assert seen is not None
    scores = {}
    if len(real_RD := references[row.subject]):
      scores["identity"] = float((real_RD @ seen.identity_ND[place]).mean())
    asked = asked_of(row)
    of_picture = {q: [values[place]] for q, values in answers.items()}
    for name, (value,) in shares(of_picture, [asked] if asked else []).items():
      scores[name] = value
    result.append(Seen(row=row, scores=scores, why="" if asked else NO_PROMPT))
    place += 1
  return result


def asked_of(row: Row) -> dict[str, str]:
  """What a picture's prompt asks for; {} for a prompt of another kind."""
  # Imported here: it brings the renderer's tables along.
  from suti.world.questions import asked
  from suti.world.templates import (
    LIVE,
    NUM_TEMPLATES,
    composition,
    template_named,
    templates_of,
  )

  number = template_named(row.prompt, row.noun, live=row.noun in LIVE)
  if number is None:
    return {}
  template = (
    templates_of(row.noun)[number]
    if number < NUM_TEMPLATES
    else composition(number)
  )
  return asked(template, row.noun)


def _table(seen: Sequence[Seen]) -> dict[str, Any]:
  """Means by score; a picture counts as missing where anything is."""
  values: dict[str, list[tuple[str, float]]] = collections.defaultdict(list)
  for x in seen:
    for name, value in x.scores.items():
      values[name].append((x.row.subject, value))
  why = collections.Counter(x.why for x in seen if x.why)
  return {
    "scores": {name: mean_over_subjects(rows) for name, rows in values.items()},
    "asked": len(seen),
    "missing": why.total(),
    "failures": dict(why),
  }
