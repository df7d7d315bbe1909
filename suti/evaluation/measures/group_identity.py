# SPDX-License-Identifier: Apache-2.0
"""Group identity: mean cosine over all pairs of images of its group.

SynCD (arXiv 2502.01720, appendix C.1) filters its sets by this mean; its code
looks at pairs (`distinct_pair_identity`). One number for all of a group, by the
identity encoder.
"""

import math

import numpy as np

from suti.evaluation.measure import Evidence, Measure
from suti.evaluation.scores import mean_over_distinct_pairs


def measure(seen: Evidence) -> float:
  """In [-1, 1]; NaN, which no rule keeps, where no other image is left."""
  if not len(seen.pair_GD):
    return math.nan
  return mean_over_distinct_pairs(np.vstack([seen.pair_GD, seen.pair_D]))


MEASURE = Measure(
  paper="https://arxiv.org/abs/2502.01720", of="group", measure=measure
)
