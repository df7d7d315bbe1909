# SPDX-License-Identifier: Apache-2.0
"""Ratings -> shares of yes with intervals, and how far raters agree.

Krippendorff's alpha for yes and no: 1 is perfect agreement, 0 what chance
gives. It is `krippendorff`'s, of the extra `rate`; without it the page says
that alpha is not known.
"""

import collections
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from suti.evaluation import intervals
from suti.evaluation.rating.tasks import OVERALL, QUESTIONS


def summarise(ratings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """What raters said, by system.

  Args:
    ratings: of `read_ratings`.

  Returns: {"raters", "questions", "systems": {name: {question: {"mean", "low",
    "high", "subjects"}, "ratings"}}, "alpha": {question: number or None},
    "pairs": {both names with a tab between: {"wins", "losses", "ties"}}}.

  Raises:
    ValueError: there is no rating.
  """
  if not ratings:
    raise ValueError("there is no rating yet: rate some pictures first.")
  single = [r for r in ratings if len(r["systems"]) == 1]
  questions = (*QUESTIONS, OVERALL)
  by_system = collections.defaultdict(list)
  for rating in single:
    by_system[rating["systems"][0]].append(rating)
  alpha = {question: alpha_of(single, question) for question in questions}
  if pairs := [r for r in ratings if len(r["systems"]) == 2]:
    alpha["choice"] = alpha_of(
      [r | {"answers": {"choice": r["better"]}} for r in map(dict, pairs)],
      "choice",
    )
  if not single:
    alpha = {"choice": alpha["choice"]}
  return {
    "raters": len({rating["rater"] for rating in ratings}),
    "questions": list(questions),
    "systems": {
      name: {question: _share(rows, question) for question in questions}
      | {"ratings": len(rows)}
      for name, rows in by_system.items()
    },
    "alpha": alpha,
    "pairs": _pairs(pairs),
  }


def _share(rows: Sequence[Mapping[str, Any]], question: str) -> dict[str, Any]:
  """The share of yes, each picture weighing the same, and its interval."""
  pictures = collections.defaultdict(list)
  for row in rows:
    pictures[(row["subject"], row["task"])].append(row["answers"][question])
  subjects = collections.defaultdict(list)
  for (subject, _), answers in pictures.items():
    subjects[subject].append(float(np.mean(answers)))
  sums = np.asarray([(sum(x), len(x)) for x in subjects.values()]).T
  found = intervals.bootstrap(lambda s, w: s.sum(-1) / w.sum(-1), *sums)
  return {
    "mean": found.mean,
    "low": found.low,
    "high": found.high,
    "subjects": found.subjects,
  }


def alpha_of(rows: Sequence[Mapping[str, Any]], question: str) -> float | None:
  """Krippendorff's alpha of one question.

  Returns: None with fewer than two raters of any picture, where all answers
    are equal, or without the package.
  """
  if importlib.util.find_spec("krippendorff") is None:
    return None
  raters = sorted({row["rater"] for row in rows})
  tasks = sorted({row["task"] for row in rows})
  answers = sorted({str(row["answers"][question]) for row in rows})
  # Whoever did not answer has NaN.
  table = np.full((len(raters), len(tasks)), np.nan)
  for row in rows:
    place = raters.index(row["rater"]), tasks.index(row["task"])
    table[place] = answers.index(str(row["answers"][question]))
  table = table[:, (~np.isnan(table)).sum(0) > 1]
  if len(np.unique(table[~np.isnan(table)])) < 2:
    return None
  import krippendorff

  return float(
    krippendorff.alpha(reliability_data=table, level_of_measurement="nominal")
  )


def _pairs(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
  found: dict[str, dict[str, int]] = {}
  for row in rows:
    one, other = row["systems"]
    counts = found.setdefault(
      f"{one}\t{other}", {"wins": 0, "losses": 0, "ties": 0}
    )
    kind = {one: "wins", other: "losses", None: "ties"}[row["better"]]
    counts[kind] += 1
  return found
