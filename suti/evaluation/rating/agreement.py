# SPDX-License-Identifier: Apache-2.0
"""Ratings -> shares of yes with intervals, and how far raters agree.

Krippendorff's alpha (2011) of names, such as yes and no: 1 is perfect
agreement, 0 what chance gives. Own code, as the package `krippendorff` is under
the GPL, which this project is not; the tests compare the two.
"""

import collections
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
    "shared": {question: how many pictures, or pairs, two or more rated},
    "pairs": {both names with a tab between: {"wins", "losses", "ties",
    "preferred": {"mean", "low", "high", "subjects"}}}}; `preferred` is how
    often the first was better, a tie counting half.

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
  shared = dict.fromkeys(questions, _shared(single))
  if pairs := [r for r in ratings if len(r["systems"]) == 2]:
    alpha["choice"] = alpha_of(
      [r | {"answers": {"choice": r["better"]}} for r in map(dict, pairs)],
      "choice",
    )
    shared["choice"] = _shared(pairs)
  if not single:
    alpha = {"choice": alpha["choice"]}
  return {
    "raters": len({rating["rater"] for rating in ratings}),
    "questions": list(questions),
    "systems": {
      name: {
        question: _share(rows, [row["answers"][question] for row in rows])
        for question in questions
      }
      | {"ratings": len(rows)}
      for name, rows in by_system.items()
    },
    "alpha": alpha,
    "shared": {question: shared[question] for question in alpha},
    "pairs": _pairs(pairs),
  }


def _share(
  rows: Sequence[Mapping[str, Any]], values: Sequence[float]
) -> dict[str, Any]:
  """The mean of a value of each row, and its interval over subjects.

  Each picture, or pair of them, weighs the same, however many rated it.
  """
  pictures = collections.defaultdict(list)
  for row, value in zip(rows, values, strict=True):
    pictures[(row["subject"], row["task"])].append(value)
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


def _shared(rows: Sequence[Mapping[str, Any]]) -> int:
  """How many pictures, or pairs, two raters or more have rated."""
  raters = collections.defaultdict(set)
  for row in rows:
    raters[row["task"]].add(row["rater"])
  return sum(len(each) > 1 for each in raters.values())


def alpha_of(rows: Sequence[Mapping[str, Any]], question: str) -> float | None:
  """Krippendorff's alpha of one question.

  Returns: None with fewer than two raters of any picture, or where all answers
    are equal.
  """
  # What each rater said of a picture; who did not say anything is not there.
  said: dict[str, list[str]] = collections.defaultdict(list)
  for row in rows:
    said[row["task"]].append(str(row["answers"][question]))
  shared = [answers for answers in said.values() if len(answers) > 1]
  totals = collections.Counter(x for answers in shared for x in answers)
  count = totals.total()
  # Pairs of different answers: expected of all, and observed of one picture.
  expected = count**2 - sum(n**2 for n in totals.values())
  if not expected:
    return None
  observed = 0.0
  for answers in shared:
    equal = sum(n**2 for n in collections.Counter(answers).values())
    observed += (len(answers) ** 2 - equal) / (len(answers) - 1)
  return 1 - (count - 1) * observed / expected


def _pairs(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """How often each of two systems was preferred; keys as in `summarise`."""
  found = collections.defaultdict(list)
  for row in rows:
    found["\t".join(row["systems"])].append(row)
  return {names: _preferred(each) for names, each in found.items()}


def _preferred(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Counts of one pair of systems, and the share of the first."""
  one, other = rows[0]["systems"]
  counts = collections.Counter(row["better"] for row in rows)
  worth = {one: 1.0, other: 0.0, None: 0.5}
  return {
    "wins": counts[one],
    "losses": counts[other],
    "ties": counts[None],
    "preferred": _share(rows, [worth[row["better"]] for row in rows]),
  }
