# SPDX-License-Identifier: Apache-2.0
"""How well measures tell right candidates from wrong ones, and thresholds.

SuTI's filter is a threshold on one measure, 0.02 on delta-CLIP by ViT-L/14,
which keeps 28% of the candidates (arXiv 2304.00186, section 3.3). With another
CLIP the same number is another filter; what carries over is the share that it
keeps. Where truth is known, each measure has an area under its ROC curve, and a
precision at that share. Intervals are of 95%, by a bootstrap over clusters.

Shape suffixes: G candidates, K those that are kept.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from suti.evaluation.roc import area_under_curve

PAPER_KEPT = 0.28
_RESAMPLES = 1000


def threshold_of(value_G: np.ndarray, *, kept: float) -> float | None:
  """The threshold above which about a share of the values lies.

  Halfway between the last value that is kept and the next. Those that are not
  known (NaN) are never kept, as by a rule; None if none is known.

  Args:
    value_G: of a measure, one or more.
    kept: the share, above 0 and below 1.
  """
  ordered = np.sort(value_G[~np.isnan(value_G)])[::-1]
  num = min(max(round(kept * len(value_G)), 1), len(ordered) - 1)
  if num < 1:
    return float(ordered[0]) if len(ordered) else None
  return float((ordered[num - 1] + ordered[num]) / 2)


def calibrate(
  values: Mapping[str, np.ndarray],
  truths: Mapping[str, np.ndarray],
  clusters_G: Sequence[str],
  *,
  kept: float = PAPER_KEPT,
) -> dict[str, Any]:
  """Each measure against each truth.

  Args:
    values: measure -> (G,) float, NaN where it is not known.
    truths: what is right, "scene", "subject" or "both" -> (G,) bool.
    clusters_G: key of each candidate's cluster.
    kept: the share of candidates that a threshold is to keep.

  Returns: {"kept", "right": {truth: share of all candidates}, "measures":
    {name: {"threshold", truth: {"area", "low", "high", "precision"}}}}. An area
    without right or wrong candidates is None.
  """
  return {
    "kept": kept,
    "right": {name: float(right.mean()) for name, right in truths.items()},
    "measures": {
      name: {"threshold": (at := threshold_of(value, kept=kept))}
      | {
        truth: _against(value, right, clusters_G)
        | {"precision": _precision(_above(value, at, right))}
        for truth, right in truths.items()
      }
      for name, value in values.items()
    },
  }


def _above(
  value_G: np.ndarray, at: float | None, right_G: np.ndarray
) -> np.ndarray:
  """Which of the candidates above a threshold are right."""
  return right_G[:0] if at is None else right_G[value_G > at]


def _against(
  value_G: np.ndarray, right_G: np.ndarray, clusters_G: Sequence[str]
) -> dict[str, float | None]:
  """The area with its interval; what is not known lies below all others."""
  value_G = np.where(np.isnan(value_G), -np.inf, value_G)
  keys, number_G = np.unique(clusters_G, return_inverse=True)
  rows = [np.flatnonzero(number_G == number) for number in range(len(keys))]
  rng = np.random.default_rng(0)
  drawn = []
  for _ in range(_RESAMPLES):
    chosen = np.concatenate(
      [rows[i] for i in rng.integers(0, len(keys), len(keys))]
    )
    drawn.append(_area_of(value_G[chosen], right_G[chosen]))
  known = [x for x in drawn if not math.isnan(x)]
  figure = _area_of(value_G, right_G)
  if math.isnan(figure):
    return {"area": None, "low": None, "high": None}
  if len(keys) < 2:
    return {"area": figure, "low": None, "high": None}
  low, high = np.percentile(known, [2.5, 97.5])
  return {"area": figure, "low": float(low), "high": float(high)}


def _precision(kept_K: np.ndarray) -> float | None:
  """Share of right ones; None of none, where all values are equal."""
  return float(kept_K.mean()) if len(kept_K) else None


def _area_of(value_G: np.ndarray, right_G: np.ndarray) -> float:
  return area_under_curve(value_G[right_G], value_G[~right_G])


def lines(found: Mapping[str, Any]) -> list[str]:
  """The result as a table for a terminal."""
  truths = list(found["right"])
  head = ["measure", *(f"area: {truth}" for truth in truths)]
  head += [f"above, keeps {found['kept']:.0%}"]
  head += [f"right: {truth}" for truth in truths]
  table = [head]
  for name, row in found["measures"].items():
    table.append(
      [
        name,
        *(_area(row[truth]) for truth in truths),
        "–" if row["threshold"] is None else f"{row['threshold']:.4f}",
        *(_share(row[truth]["precision"]) for truth in truths),
      ]
    )
  shares = [f"{found['right'][truth]:.3f}" for truth in truths]
  table.append(["none, keeps all", *["–"] * len(truths), "–", *shares])
  widths = [max(len(row[i]) for row in table) for i in range(len(head))]
  return [
    "  ".join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    )
    for row in table
  ]


def _share(value: float | None) -> str:
  return "–" if value is None else f"{value:.3f}"


def _area(value: Mapping[str, float | None]) -> str:
  if value["area"] is None:
    return "–"
  if value["low"] is None:
    return f"{value['area']:.3f}"
  return f"{value['area']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
