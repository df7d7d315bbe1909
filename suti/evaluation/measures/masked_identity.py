# SPDX-License-Identifier: Apache-2.0
"""Masked identity: as identity, of subjects cut out of their pictures.

SynCD (arXiv 2502.01720), section 5, masks and crops before DINOv2 compares.
Of the demonstrations those count whose mask is known.
"""

import math

from suti.evaluation.measure import Evidence, Measure


def measure(seen: Evidence) -> float:
  """In [-1, 1]; NaN, which no rule keeps, where either mask is not known."""
  if seen.masked_D is None or not len(seen.masked_KD):
    return math.nan
  return float((seen.masked_KD @ seen.masked_D).mean())


MEASURE = Measure(
  paper="https://arxiv.org/abs/2502.01720", of="masks", measure=measure
)
