# SPDX-License-Identifier: Apache-2.0
"""Mask share: the share of the subject's box that its mask fills.

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
  area = (right - left) * (bottom - top)
  return float(seen.label.masks[0].mean() / area) if area else math.nan


MEASURE = Measure(
  paper="https://arxiv.org/abs/2307.11410", of="label", measure=measure
)
