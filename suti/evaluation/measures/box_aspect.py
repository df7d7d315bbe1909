# SPDX-License-Identifier: Apache-2.0
"""Box aspect: width over height of the subject's box, in pixels.

Subject-Diffusion (arXiv 2307.11410), appendix B, keeps what is found by rules
on such numbers; its GroundingDINO and SAM are here who labels candidates.
"""

import math

from suti.evaluation.measure import Evidence, Measure


def measure(seen: Evidence) -> float:
  """Above 0; NaN, which no rule keeps, where nothing was found."""
  if seen.label is None or not seen.label.names:
    return math.nan
  left, top, right, bottom = seen.label.boxes_xyxy[0]
  height_px, width_px = seen.label.masks[0].shape
  tall = (bottom - top) * height_px
  return (right - left) * width_px / tall if tall else math.nan


MEASURE = Measure(
  paper="https://arxiv.org/abs/2307.11410", of="label", measure=measure
)
