# SPDX-License-Identifier: Apache-2.0
"""What a row of the main table needs beside DreamBench's means.

A copy of one demonstration has the best identity that there is, and the same
image again and again no worse one than many; so each row also says how near its
images are to the nearest demonstration, and how far from each other. None of it
is in DreamBooth's protocol (arXiv 2208.12242). By embeddings, which the caller
makes.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from suti.evaluation import intervals

# G generated images and R real pictures of a subject, K demonstrations among
# them, D embedding width.

# Columns of the table by their names in metrics.json.
COLUMNS = {"copying": "nearest demonstration", "diversity": "diversity"}
BAND = (5, 95)  # percentiles


def nearest(image_GD: np.ndarray, demonstration_KD: np.ndarray) -> np.ndarray:
  """Cosine of each image with the demonstration nearest to it, (G,) or ()."""
  if not len(demonstration_KD):
    return np.zeros(0)
  return (image_GD @ demonstration_KD.T).max(-1)


def nearest_of_real(real_RD: np.ndarray, num_shown: int) -> np.ndarray:
  """The same of real pictures: each with the nearest of the others.

  Args:
    real_RD: all real pictures of a subject, the demonstrations first.
    num_shown: K.

  Returns: (R,), or fewer: a picture that is the only demonstration has none.
  """
  if not num_shown:
    return np.zeros(0)
  cosine_RK = real_RD @ real_RD[:num_shown].T
  np.fill_diagonal(cosine_RK, -np.inf)
  best_R = cosine_RK.max(-1)
  return best_R[np.isfinite(best_R)]


def diversity(image_GD: np.ndarray, texts: Sequence[str]) -> float | None:
  """How far the images of one prompt are from each other.

  Returns: 1 - cosine, a mean over all pairs of a prompt's images and then over
    prompts; None if no prompt has two images.
  """
  rows = collections.defaultdict(list)
  for row, text in enumerate(texts):
    rows[text].append(row)
  distances = []
  for numbers in rows.values():
    if (num := len(numbers)) > 1:
      cosine = image_GD[numbers] @ image_GD[numbers].T
      mean = (cosine.sum() - np.trace(cosine)) / (num * (num - 1))
      distances.append(1 - float(mean))
  return float(np.mean(distances)) if distances else None


def copying(
  subjects: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, Any]:
  """What nearness is usual between real pictures, and what exceeds it.

  Args:
    subjects: {cluster: {system: {"nearest": cosines of its images}}}, "real"
      included.

  Returns: `band`, the percentiles `BAND` of real pictures of all subjects, and
    `above_band`, the share of each system's images that are nearer to a
    demonstration than 95% of real pictures are; {} without real pictures.
  """
  found = collections.defaultdict(list)
  for table in subjects.values():
    for system, row in table.items():
      found[system] += row.get("nearest", ())
  real = found.pop("real", [])
  if not real:
    return {}
  low, high = (float(x) for x in np.percentile(real, BAND))
  return {
    "band": [low, high],
    "above_band": {
      # A copy is equal to one up to rounding, as real pictures may be too.
      name: float(np.mean(np.asarray(values) > high + 1e-6))
      for name, values in found.items()
      if values
    },
  }


def differences(
  subjects: Mapping[str, Mapping[str, Mapping[str, Any]]],
  metrics: Sequence[str],
  *,
  ours: str = "apprentice",
) -> dict[str, dict[str, dict[str, Any]]]:
  """By how much a system exceeds each other one, on the subjects of both.

  Args:
    subjects: {cluster: {system: {metric: mean}}}.
    metrics: to compare.
    ours: the system.

  Returns: {other system: {metric: fields of `suti.evaluation.intervals`'
    `Interval`, paired over subjects}}.
  """
  systems = {name for table in subjects.values() for name in table} - {ours}
  found: dict[str, dict[str, dict[str, Any]]] = {}
  for other in sorted(systems):
    for metric in metrics:
      pairs = [
        (table[ours][metric], table[other][metric])
        for table in subjects.values()
        if metric in table.get(ours, {}) and metric in table.get(other, {})
      ]
      if pairs:
        interval = intervals.difference(*zip(*pairs, strict=True))
        found.setdefault(other, {})[metric] = dataclasses.asdict(interval)
  return found


def by_skill(
  skills: Sequence[str], identity_G: np.ndarray, clip_t_G: np.ndarray
) -> dict[str, dict[str, float]]:
  """{skill: means of identity and CLIP-T over its images} of one subject.

  Args:
    skills: of each image.
    identity_G, clip_t_G: of each image.
  """
  skill_G = np.asarray(skills)
  return {
    skill: {
      "identity": float(identity_G[skill_G == skill].mean()),
      "clip_t": float(clip_t_G[skill_G == skill].mean()),
    }
    for skill in dict.fromkeys(skills)
  }


def mean_by_skill(
  subjects: Mapping[str, Mapping[str, Mapping[str, Any]]],
  *,
  field: str = "by_skill",
) -> dict[str, dict[str, dict[str, float]]]:
  """{skill: {system: {metric: mean over its subjects}}}; or of other groups.

  Args:
    subjects: {cluster: {system: a row with `field`}}.
    field: where a row has what `by_skill` returned.
  """
  found: dict[tuple[str, str, str], list[float]] = collections.defaultdict(list)
  for table in subjects.values():
    for system, row in table.items():
      for skill, means in row.get(field, {}).items():
        for metric, mean in means.items():
          found[skill, system, metric].append(mean)
  table = {}
  for (skill, system, metric), values in found.items():
    row = table.setdefault(skill, {}).setdefault(system, {})
    row[metric] = float(np.mean(values))
  return table
