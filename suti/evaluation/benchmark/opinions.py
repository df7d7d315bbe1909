# SPDX-License-Identifier: Apache-2.0
"""What people and judges say, as sections of the page."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suti.evaluation import page
from suti.io.files import read_json

_WORLD = (
  " On the scale world SubjectWorld's own judge says how near a picture is to "
  "its references, and whether it shows what its prompt names."
)

_COUNTED = (
  "the first is better",
  "the second is better",
  "alike",
  "share of the first, a tie counting half",
)


_AGREEMENT = ("question", "alpha", "rated by two or more")


def cell(found: Mapping[str, Any] | None) -> str:
  """A mean with its interval, a dash where there is none."""
  if not found:
    return "–"
  if found.get("low") is None:
    return f"{found['mean']:.3f}"
  return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def people(ratings: Mapping[str, Any], *, systems: Sequence[str]) -> list[str]:
  """What people said, if they were asked.

  Args:
    ratings: of `rating.agreement.summarise`, or empty.
    systems: of the page; ratings of others are said.
  """
  if not ratings:
    return []
  rows = [
    [
      name,
      *(cell(row.get(question)) for question in ratings["questions"]),
      str(row["ratings"]),
    ]
    for name, row in sorted(
      ratings["systems"].items(), key=lambda item: _place(item[0], systems)
    )
  ]
  raters = ratings["raters"]
  wins = [
    [a, b, *_counts(row)]
    for (a, b), row in (
      (key.split("\t"), row) for key, row in ratings.get("pairs", {}).items()
    )
  ]
  rated = dict.fromkeys(
    [*ratings["systems"], *(x for row in wins for x in row[:2])]
  )
  shares = "Overall is all three. Shares of yes" if rows else "Shares"
  pieces = [
    page.paragraph(
      f"{raters} rater{'s' if raters > 1 else ''}. {shares}, each picture or "
      "pair weighing the same, with 95% intervals over subjects."
    )
  ]
  if rows:
    columns = ["", *ratings["questions"], "ratings"]
    pieces.append(page.card(page.table(columns, rows)))
  if wins:
    columns = ["the first", "the second", *_COUNTED]
    pieces.append(page.card(page.table(columns, wins)))
  pieces += [
    page.paragraph(
      "How far raters agree: Krippendorff's alpha, 1 if perfect, 0 if no more "
      "than by chance, below 0 if less. It takes two raters of one picture, "
      "and answers that differ somewhere."
    ),
    page.card(page.table(_AGREEMENT, _agreement(ratings))),
  ]
  lines = [
    f"Rated, and not on this page: {name}."
    for name in rated
    if name not in systems
  ] + [f"Not rated: {name}." for name in systems if name not in rated]
  return [page.section("What people say", *pieces, page.listing(lines))]


def _agreement(ratings: Mapping[str, Any]) -> list[list[str]]:
  """Of each question: alpha, and how many more than one have rated."""
  return [
    [
      question,
      "not known" if value is None else f"{value:.2f}",
      str(ratings["shared"][question]),
    ]
    for question, value in ratings["alpha"].items()
  ]


def _place(name: str, systems: Sequence[str]) -> int:
  """Where a system stands on the page; those that do not, after the others."""
  return systems.index(name) if name in systems else len(systems)


def _counts(row: Mapping[str, Any]) -> list[str]:
  """How often each of two systems was better, and the share of the first."""
  counts = [row["wins"], row["losses"], row["ties"]]
  shares = [f"{count} ({count / sum(counts):.0%})" for count in counts]
  return [*shares, cell(row["preferred"])]


def judges(folders: Mapping[str, Path]) -> list[str]:
  """Scores of `suti judge`, a table for each scale, if any judged.

  Args:
    folders: {a system's name on the page: of its scores}.
  """
  tables = collections.defaultdict(list)
  for name, folder in folders.items():
    for path in sorted(folder.glob("judge-*/scores.json")):
      found = read_json(path)
      tables[found["scale"]].append((name, found))
  if not tables:
    return []
  pieces = [
    page.paragraph(
      "Means with 95% intervals over subjects. Answers that could not be read "
      "are missing, not guessed." + _WORLD * ("world" in tables)
    )
  ]
  for scale, rows in tables.items():
    scores = list(dict.fromkeys(x for _, row in rows for x in row["scores"]))
    columns = ["", "judge", *scores, "answers", "missing"]
    cells = [
      [
        name,
        found["model"],
        *(cell(found["scores"].get(score)) for score in scores),
        str(found["asked"] - found["missing"]),
        _missing(found),
      ]
      for name, found in rows
    ]
    pieces += [
      f"<h3>{page.text(scale)}</h3>",
      page.card(page.table(columns, cells)),
    ]
  return [page.section("What judges say", *pieces)]


def _missing(found: Mapping[str, Any]) -> str:
  """How many answers are missing, and why."""
  reasons = sorted(found["failures"].items(), key=lambda item: -item[1])
  why = ", ".join(f"{count} {reason}" for reason, count in reasons[:3])
  return f"{found['missing']}{f' ({why})' if why else ''}"
