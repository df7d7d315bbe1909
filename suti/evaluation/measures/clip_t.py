# SPDX-License-Identifier: Apache-2.0
"""CLIP-T: cosine of an image and its prompt, as CAFE's first filter has it."""

from suti.evaluation.measure import Evidence, Measure


def measure(seen: Evidence) -> float:
  """In [-1, 1]."""
  return float(seen.clip_D @ seen.text_D)


MEASURE = Measure(
  paper="https://arxiv.org/abs/2103.00020", of="candidate", measure=measure
)
