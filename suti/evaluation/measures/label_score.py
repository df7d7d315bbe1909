# SPDX-License-Identifier: Apache-2.0
"""Label score: the confidence of whoever found the subject.

Subject-Diffusion (arXiv 2307.11410), appendix B, keeps what is found by rules
on such numbers; its GroundingDINO and SAM are here who labels candidates.
"""

import math

from suti.evaluation.measure import Evidence, Measure


def measure(seen: Evidence) -> float:
  """In [0, 1]; NaN, which no rule keeps, where nothing was found."""
  if seen.label is None or not seen.label.names:
    return math.nan
  return float(seen.label.scores[0])


MEASURE = Measure(
  paper="https://arxiv.org/abs/2307.11410", of="label", measure=measure
)
