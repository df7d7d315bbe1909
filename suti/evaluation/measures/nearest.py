# SPDX-License-Identifier: Apache-2.0
"""Nearest: the largest cosine to a demonstration, by CLIP. High is a copy.

CLIP follows scenes more than subjects, so an image that is close to one
demonstration repeats its scene: `nearest < 0.95` drops copies. Our choice; no
paper of this field filters by it.
"""

from suti.evaluation.measure import Evidence, Measure


def measure(seen: Evidence) -> float:
  """In [-1, 1]."""
  return float((seen.clip_KD @ seen.clip_D).max())


MEASURE = Measure(
  paper="https://arxiv.org/abs/2103.00020", of="candidate", measure=measure
)
