# SPDX-License-Identifier: Apache-2.0
"""Identity: mean cosine to the demonstrations, by the identity encoder.

DreamBooth (arXiv 2208.12242), section 4.1, of one image; CAFE's second filter.
"""

from suti.evaluation.measure import Evidence, Measure


def measure(seen: Evidence) -> float:
  """In [-1, 1]."""
  return float((seen.identity_KD @ seen.identity_D).mean())


MEASURE = Measure(
  paper="https://arxiv.org/abs/2208.12242", of="candidate", measure=measure
)
