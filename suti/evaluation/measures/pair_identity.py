# SPDX-License-Identifier: Apache-2.0
"""Pair identity: the largest cosine to another image of its group.

SynCD (arXiv 2502.01720) keeps the images of a set that belong to a pair of
similar ones. By the identity encoder; demonstrations have no part in it.
`distinct_pair_identity` leaves copies out, as its code does.
"""

import math

from suti.evaluation.measure import Evidence, Measure


def measure(seen: Evidence) -> float:
  """In [-1, 1]; NaN, which no rule keeps, where no other image is left."""
  if not len(seen.pair_GD):
    return math.nan
  return float((seen.pair_GD @ seen.pair_D).max())


MEASURE = Measure(
  paper="https://arxiv.org/abs/2502.01720", of="group", measure=measure
)
