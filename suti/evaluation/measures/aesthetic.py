# SPDX-License-Identifier: Apache-2.0
"""Aesthetic: how good an image looks, by a linear head on its CLIP embedding.

SynCD (arXiv 2502.01720) keeps images of 6 or more of about 10, by LAION's head
on CLIP ViT-L/14 (https://github.com/LAION-AI/aesthetic-predictor). The head is
a user's file, `config.filter.aesthetic`, and only fits the CLIP it was trained
on; `suti.hf.linear_head` reads it.
"""

from suti.evaluation.measure import Evidence, Measure


def measure(seen: Evidence) -> float:
  """Of the head's own scale."""
  assert seen.head is not None, "measured where there is a head"
  return seen.head.score(seen.clip_D)


MEASURE = Measure(
  paper="https://arxiv.org/abs/2502.01720", of="head", measure=measure
)
