# SPDX-License-Identifier: Apache-2.0
"""The report's section on learning: the apprentice's loss, held out and not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suti.evaluation import charts, page

# As `apprentice.validation` logs it.
_GAIN = "validation_gain"


def learning(workdir: Path, stages: Mapping[str, Any]) -> list[str]:
  """The apprentice's losses, and how the experts fared.

  Args:
    workdir: of the run.
    stages: {folder of a stage: {"summary"}}.
  """
  points = _read_points(workdir)
  tuned = stages.get("experts/finetune", {}).get("summary", {})
  counts = [
    f"{key.replace('_', ' ')} {value:.4g}"
    if isinstance(value, float)
    else f"{key.replace('_', ' ')} {value}"
    for key, value in tuned.items()
    if not isinstance(value, (dict, list))
  ]
  return [
    page.section(
      "Learning",
      *_gain(points.get(_GAIN, [])),
      page.card(
        "<h3>The apprentice's loss</h3>",
        charts.curve(
          points.get("loss", []), x_label="step", title="The apprentice's loss"
        ),
      ),
      page.paragraph(f"Fine-tuning: {', '.join(counts)}." if counts else ""),
    )
  ]


def _gain(points: list[tuple[float, float]]) -> list[str]:
  """What it reads from demonstrations of subjects that it does not see."""
  if len(points) < 2:
    return []
  return [
    page.card(
      "<h3>What demonstrations tell it</h3>",
      page.paragraph(
        "On clusters that were held out of the training: the share of the "
        "loss, in percent, that their demonstrations take away. 0 is not to "
        "look at them.",
        kind="soft",
      ),
      charts.intervals(
        [(step, 100 * gain, None, None) for step, gain in points],
        x_label="step",
        title="Percent of the held-out loss that demonstrations take away",
      ),
    )
  ]


def _read_points(workdir: Path) -> dict[str, list[tuple[float, float]]]:
  """{name: (step, value)}, of a step logged twice the later."""
  path = workdir / "apprentice" / "train" / "log.jsonl"
  found: dict[str, dict[float, float]] = {}
  for line in path.read_text().splitlines() if path.is_file() else []:
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue  # The last line of a run that was killed may be half a line.
    if "step" in row:
      for name in ("loss", _GAIN):
        if name in row:
          found.setdefault(name, {})[row["step"]] = row[name]
  return {name: sorted(rows.items()) for name, rows in found.items()}
