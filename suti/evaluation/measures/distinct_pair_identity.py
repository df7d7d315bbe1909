# SPDX-License-Identifier: Apache-2.0
"""Distinct pair identity: as pair identity, of pairs that are no copies.

SynCD's code (arXiv 2502.01720) keeps the images of a set that belong to a pair
with a cosine of 0.7 to 0.98: above, the two are one image. An image that has
both a copy and a cousin in its set is kept, so that an upper bound on
`pair_identity`, the largest cosine, is not the same.
"""

import math

from suti.evaluation.measure import Evidence, Measure

COPY = 0.98


def measure(seen: Evidence) -> float:
  """In [-1, 0.98]; NaN, which no rule keeps, where all others are copies."""
  cosine_G = seen.pair_GD @ seen.pair_D
  cosine_G = cosine_G[cosine_G <= COPY]
  return float(cosine_G.max()) if len(cosine_G) else math.nan


MEASURE = Measure(
  paper="https://arxiv.org/abs/2502.01720", of="group", measure=measure
)
