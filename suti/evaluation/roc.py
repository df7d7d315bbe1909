# SPDX-License-Identifier: Apache-2.0
"""The area under a ROC curve: how well a number tells two kinds apart.

Shape suffixes: P values of a kind.
"""

import numpy as np


def area_under_curve(positive_P: np.ndarray, negative_P: np.ndarray) -> float:
  """Chance that a positive exceeds a negative (Mann-Whitney; ties do half).

  NaN where there are none of a kind.
  """
  if not len(positive_P) or not len(negative_P):
    return float("nan")
  negative_P = np.sort(negative_P)
  below = np.searchsorted(negative_P, positive_P, side="left")
  at_most = np.searchsorted(negative_P, positive_P, side="right")
  return float((below + at_most).mean() / 2 / len(negative_P))
