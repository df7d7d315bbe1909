# SPDX-License-Identifier: Apache-2.0
"""Box area: the share of the image that the subject's box takes.

Subject-Diffusion (arXiv 2307.11410), appendix B, keeps what is found by rules
on such numbers; its GroundingDINO and SAM are here who labels candidates.
"""

import math

from suti.evaluation.measure import Evidence, Measure


def measure(seen: Evidence) -> float:
  """In [0, 1]; NaN, which no rule keeps, where nothing was found."""
  if seen.label is None or not seen.label.names:
    return math.nan
  left, top, right, bottom = seen.label.boxes_xyxy[0]
  return (right - left) * (bottom - top)


MEASURE = Measure(
  paper="https://arxiv.org/abs/2307.11410", of="label", measure=measure
)
