# SPDX-License-Identifier: Apache-2.0
"""The report's section on the filter: what it kept, dropped, and by what."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suti.config.rules import parse_rule
from suti.evaluation import charts, page
from suti.evaluation.report_pictures import Album, find_candidates
from suti.io.files import read_json
from suti.io.records import read_lines
from suti.schema import Candidate, Score


def read_filter(workdir: Path) -> dict[str, Any]:
  """How many candidates were kept, and how what decided is spread."""
  scores = _scores(workdir)
  kept = [score for score in scores if score.kept]
  path = workdir / "experts" / "filter" / "done.json"
  rule = read_json(path)["summary"]["rule"] if path.is_file() else ""
  # The page shows the measure of the first condition.
  first = next(iter(parse_rule(rule, field="rule")), None)
  name = first.name if first else "delta_clip"
  return {
    "candidates": len(scores),
    "kept": len(kept),
    "keep_rate": len(kept) / len(scores) if scores else None,
    "rule": rule,
    "measure": name,
    "threshold": first.number if first else -2.0,
    "values": [
      round(value, 5)
      for score in scores
      if math.isfinite(value := score.values[name])
    ],
  }


def _scores(workdir: Path) -> list[Score]:
  path = workdir / "experts" / "filter" / "scores.jsonl"
  return list(read_lines(path, Score)) if path.is_file() else []


def kept_and_dropped(
  config: Any, workdir: Path, album: Album, numbers: Mapping[str, Any]
) -> list[str]:
  """The filter: its rate, how scores are spread, and where it draws a line."""
  name = numbers["measure"]
  sets = _sets(_scores(workdir), name)
  if not sets:
    return []
  num = config.report.num_examples
  kept = [each for each in sets if any(score.kept for score in each)]
  dropped = [each for each in sets if not any(score.kept for score in each)]
  groups = {
    "best kept": kept[:num],
    "worst kept": kept[num:][-num:],
    "best dropped": dropped[:num],
    "worst dropped": dropped[num:][-num:],
  }
  wanted = [
    score.candidate
    for group in groups.values()
    for each in group
    for score in each
  ]
  pictures = find_candidates(
    workdir / "experts" / "sample", wanted, by="key", prefix="wave-"
  )
  blocks = []
  for title, group in groups.items():
    rows = [_figures(each, name, pictures, album) for each in group]
    if any(rows):
      kind = "good" if "kept" in title else "bad"
      blocks.append(
        f'<h3><span class="tag {kind}">{page.text(title)}</span></h3>'
        + "".join(map(page.picture_row, _joined(rows)))
      )
  measured = (
    "delta_clip, Δ, is how much better the image meets its prompt than the "
    "best demonstration does."
    if name == "delta_clip"
    else ""
  )
  if any(len(each) > 1 for each in sets):
    measured += " Images of a set, which saw each other, stand in one row."
  what = (
    "Δ = CLIP(picture, prompt) − max CLIP(demonstration, prompt)"
    if name == "delta_clip"
    else name
  )
  return [
    page.section(
      "What the filter kept",
      page.paragraph(
        f"Kept {numbers['kept']} of the {numbers['candidates']} images of the "
        f"teacher, {numbers['keep_rate']:.0%}, by the rule "
        f"“{numbers['rule'] or 'all'}”. {measured}"
      ),
      page.card(
        charts.histogram(
          numbers["values"],
          threshold=numbers["threshold"],
          x_label=what,
          title=f"{name} of all candidates",
        ),
      ),
      page.card(*blocks),
    )
  ]


def _sets(scores: Sequence[Score], name: str) -> list[list[Score]]:
  """Scores of images that saw each other, by the mean of a measure, falling.

  An image that was sampled alone is a set of its own. Images without that
  measure are left out, as the histogram leaves them out.
  """
  found: dict[str, list[Score]] = {}
  for score in scores:
    if math.isfinite(score.values[name]):
      found.setdefault(score.group or score.candidate, []).append(score)
  return sorted(
    found.values(),
    key=lambda each: statistics.fmean(score.values[name] for score in each),
    reverse=True,
  )


def _figures(
  scores: Sequence[Score],
  name: str,
  pictures: Mapping[str, Sequence[Candidate]],
  album: Album,
) -> list[str]:
  """The images of a set, in order, with those that were dropped from it."""
  word = "Δ" if name == "delta_clip" else name
  is_kept = any(score.kept for score in scores)
  shown = [
    (pictures[score.candidate][0], score)
    for score in scores
    if pictures[score.candidate]
  ]
  return [
    page.figure(
      album.add(candidate.image, f"filter-{candidate.key}"),
      caption=candidate.prompt,
      note=f"{word} {score.values[name]:+.3f}"
      + (", dropped" if is_kept and not score.kept else ""),
    )
    for candidate, score in sorted(shown, key=lambda each: each[0].number)
  ]


def _joined(rows: Sequence[list[str]]) -> list[list[str]]:
  """Sets each in a row; images that are alone side by side."""
  if all(len(row) <= 1 for row in rows):
    return [[figure for row in rows for figure in row]]
  return [row for row in rows if row]
