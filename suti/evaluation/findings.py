# SPDX-License-Identifier: Apache-2.0
"""What a study found: rows of measures with paired intervals over subjects.

A study (`configs/studies`) is a question, variants of one config, and seeds;
each variant and seed is a run of its own, whose metrics are read here. A value
of a subject is the mean over seeds: 95% intervals are over subjects, and the
spread of seeds stands beside them. Differences are to one row, subject by
subject (`suti.evaluation.intervals`). Nothing is sampled or scored here.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suti.evaluation import intervals
from suti.io.files import read_json

# Measure -> what a reader sees, and where a run's metrics have it.
JUDGED = {
  "retrieval": "who: one of 25 look-alikes",
  "questions": "asked and answered",
  "sharpness": "sharpness",
}
SCORED = {
  "identity": "identity",
  "clip_i": "CLIP-I",
  "clip_t": "CLIP-T",
  "copying": "nearest demonstration",
  "diversity": "diversity",
}
MEASURES = JUDGED | SCORED
METRICS = "apprentice/evaluate/metrics.json"  # in the workdir of a run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One line of a study's table.

  Attributes:
    label: what a reader sees.
    workdirs: of its runs, one a seed.
    system: whose images, see `apprentice.systems`.
    x: its place on a curve; None where the study has none.
  """

  label: str
  workdirs: tuple[Path, ...]
  system: str
  x: float | None = None


def list_rows(study: Any, workdir: Path) -> list[Row]:
  """The lines of a study: its variants, and of each its systems.

  A variant may have systems of its own; one whose row is "" is not named in
  front of them.

  Args:
    study: the config, see configs/studies.
    workdir: of the study.
  """
  rows = []
  for name in study.order:
    variant = study.variants[name]
    folders = tuple(run_folder(workdir, name, seed) for seed in study.seeds)
    label = variant.get("row", name.replace("_", " "))
    systems = variant.get("systems", study.systems)
    for system in systems:
      of_system = study.labels.get(system, system.replace("_", " "))
      rows.append(
        Row(
          label=label
          if label and len(systems) == 1
          else of_system
          if not label or len(study.order) == 1
          else f"{label}: {of_system}",
          workdirs=folders,
          system=system,
          x=variant.get("x"),
        )
      )
  return rows


def of_finished(study: Any, finished: Sequence[tuple[str, int]]) -> Any:
  """A study as if it had no more runs than those that are finished.

  Seeds count that all variants have; of the first seed, as long as none is
  whole, those variants that are there. So rows are means over the same seeds.

  Args:
    study: the config.
    finished: (variant, seed) of at least one run, in the order of the study.

  Returns: a config for `read_findings`, whose reference is its first row as
    long as the study's own is still to come.
  """
  part = study.copy_and_resolve_references().unlock()
  whole = [
    s for s in study.seeds if all((n, s) in finished for n in study.order)
  ]
  part.seeds = tuple(whole or study.seeds[:1])
  part.order = tuple(n for n in study.order if (n, part.seeds[0]) in finished)
  part.reference = reference_of(study)
  if part.reference not in [row.label for row in list_rows(part, Path())]:
    part.reference = ""
  return part


def reference_of(study: Any) -> str:
  """The label of the row that others are compared with.

  Raises:
    ValueError: the study has no such row, or two of one label.
  """
  labels = [row.label for row in list_rows(study, Path())]
  if twice := [label for label in labels if labels.count(label) > 1]:
    raise ValueError(
      f"Two rows of the study are called {twice[0]!r}: expected a 'row' of its "
      "own for each variant."
    )
  if study.reference and study.reference not in labels:
    raise ValueError(
      f"config.reference={study.reference!r}: expected the label of a row, one "
      f"of {', '.join(labels)}."
    )
  return study.reference or labels[0]


def run_folder(workdir: Path, variant: str, seed: int) -> Path:
  """The workdir of one run of a study."""
  return workdir / variant / f"seed-{seed}"


def read_findings(study: Any, workdir: Path) -> dict[str, Any]:
  """All numbers of a study whose runs are finished.

  Args:
    study: the config.
    workdir: of the study.

  Returns: {"title", "question", "paper", "reference", "seeds", "x", "rows": [{
    "label", "system", "x", "runs", "images", "seconds_per_image", "measures":
    {name: {"mean", "low", "high", "subjects", "by_seed", "difference": {...,
    "resolved"}}}}]}. A measure that a run does not have is absent; so is a
    difference of the reference itself and where subjects are not the same.

  Raises:
    ValueError: a run is not finished, or the reference is no row.
  """
  rows = list_rows(study, workdir)
  reference = reference_of(study)
  tables = [[_read_run(folder) for folder in row.workdirs] for row in rows]
  found = {
    row.label: {
      name: _values(runs, row.system, name) for name in study.measures
    }
    for row, runs in zip(rows, tables, strict=True)
  }
  return {
    "title": study.title,
    "question": study.question,
    "paper": study.paper,
    "reference": reference,
    "seeds": list(study.seeds),
    "x": study.x,
    "rows": [
      {
        "label": row.label,
        "system": row.system,
        "x": row.x,
        "runs": [str(at.relative_to(workdir)) for at in row.workdirs],
        "images": sum(
          run["systems"].get(row.system, {}).get("images", 0) for run in runs
        ),
        "seconds_per_image": _seconds(runs, row.system),
        "measures": {
          name: _summary(values, found[reference][name])
          for name, values in found[row.label].items()
          if values is not None
        },
      }
      for row, runs in zip(rows, tables, strict=True)
    ],
  }


def _read_run(folder: Path) -> dict[str, Any]:
  """The metrics of a finished run."""
  path = folder / METRICS
  if not path.is_file():
    raise ValueError(
      f"{path} does not exist: this run of the study is not finished; run "
      "`suti study` with the same --config and --workdir."
    )
  return read_json(path)


class _Values(NamedTuple):
  """A measure of a system: (seeds, subjects), and the subjects' keys."""

  values: np.ndarray
  keys: tuple[str, ...]


def _values(
  runs: Sequence[Mapping[str, Any]], system: str, measure: str
) -> _Values | None:
  """A measure of a system; None where no subject has it in every run.

  NaN for a subject without a value: one for which no prompt asks a question.
  """
  tables = [
    run.get("judged", {}).get("per_subject", {})
    if measure in JUDGED
    else run["per_subject"]
    for run in runs
  ]
  if len({len(table) for table in tables}) > 1:
    raise ValueError(
      f"The runs of a study's row have {[len(table) for table in tables]} "
      "subjects: expected as many for each seed; delete the study's workdir."
    )
  keys = tuple(tables[0])
  if any(table.keys() != set(keys) for table in tables):
    raise ValueError(
      "The runs of a study's row are of other subjects for each seed: expected "
      "the same; delete the study's workdir."
    )
  values = np.asarray(
    [
      [table[key].get(system, {}).get(measure, math.nan) for key in keys]
      for table in tables
    ],
    np.float64,
  )
  known = ~np.isnan(values.mean(0))
  return _Values(values, keys) if known.any() else None


def _summary(found: _Values, of_reference: _Values | None) -> dict:
  """Mean, interval, spread over seeds, and the difference to the reference."""
  values, keys = found
  each = values.mean(0)
  known = ~np.isnan(each)
  summary = dataclasses.asdict(intervals.mean(each[known])) | {
    "by_seed": [float(x) for x in np.nanmean(values, 1)]
  }
  if of_reference is None or of_reference is found:
    return summary
  if of_reference.keys != keys:
    return summary
  theirs = of_reference.values.mean(0)
  both = known & ~np.isnan(theirs)
  if both.any():
    apart = intervals.difference(each[both], theirs[both])
    summary["difference"] = dataclasses.asdict(apart) | {
      "resolved": apart.excludes(0.0)
    }
  return summary


def _seconds(runs: Sequence[Mapping[str, Any]], system: str) -> float | None:
  """Seconds an image, the mean over runs, as stage 7 measured them."""
  name = "expert" if system == "experts" else system  # as stage 8 writes it
  times = [
    run.get("times", {}).get(f"{name}_seconds_per_image") for run in runs
  ]
  known = [time for time in times if time is not None]
  return float(np.mean(known)) if known else None
