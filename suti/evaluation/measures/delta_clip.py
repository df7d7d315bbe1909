# SPDX-License-Identifier: Apache-2.0
"""Delta-CLIP: how much better than each demonstration it meets the prompt.

SuTI (arXiv 2304.00186), eq. 7: CLIP(y, p) - max over x of CLIP(x, p).
"""

import numpy as np

from suti.evaluation.measure import Evidence, Measure
from suti.evaluation.scores import delta_clip


def measure(seen: Evidence) -> float:
  """In [-2, 2]."""
  exists_K = np.ones(len(seen.clip_KD), bool)
  return float(delta_clip(seen.clip_D, seen.clip_KD, seen.text_D, exists_K))


MEASURE = Measure(
  paper="https://arxiv.org/abs/2304.00186", of="candidate", measure=measure
)
