# SPDX-License-Identifier: Apache-2.0
"""The report's section on the filter: what it kept, dropped, and by what."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suti.config.rules import parse_rule
from suti.evaluation import charts, page
from suti.evaluation.report_pictures import Album, find_candidates
from suti.io.files import read_json
from suti.io.records import read_lines
from suti.schema import Score


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
  scores = [
    score for score in _scores(workdir) if math.isfinite(score.values[name])
  ]
  scores.sort(key=lambda s: s.values[name], reverse=True)
  if not scores:
    return []
  num = config.report.num_examples
  word = "Δ" if name == "delta_clip" else name
  kept = [score for score in scores if score.kept]
  dropped = [score for score in scores if not score.kept]
  groups = {
    "best kept": kept[:num],
    "worst kept": kept[num:][-num:],
    "best dropped": dropped[:num],
    "worst dropped": dropped[num:][-num:],
  }
  wanted = [s.candidate for group in groups.values() for s in group]
  pictures = find_candidates(
    workdir / "experts" / "sample", wanted, by="key", prefix="wave-"
  )
  blocks = []
  for title, group in groups.items():
    figures = [
      page.figure(
        album.add(
          pictures[score.candidate][0].image, f"filter-{score.candidate}"
        ),
        caption=score.prompt,
        note=f"{word} {score.values[name]:+.3f}",
      )
      for score in group
      if pictures[score.candidate]
    ]
    if figures:
      kind = "good" if "kept" in title else "bad"
      blocks.append(
        f'<h3><span class="tag {kind}">{page.text(title)}</span></h3>'
        + page.picture_row(figures)
      )
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
        f"experts, {numbers['keep_rate']:.0%}, by the rule "
        f"“{numbers['rule'] or 'all'}”. delta_clip, Δ, is how much better the "
        "image meets its prompt than the best demonstration does."
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
