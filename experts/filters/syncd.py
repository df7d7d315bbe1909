# SPDX-License-Identifier: Apache-2.0
"""SynCD's filter of sets: similar pairs that are no copies (arXiv 2502.01720).

An image stays if it is similar to another of its set, by DINOv2 in [0.7, 0.98],
and a set stays if two of its images do. Its other condition, an aesthetic score
of 6 of 10 or more by a linear head on CLIP, is left out: there is no such head
here.
"""

from experts.selection import Filter

FILTER = Filter(
  paper="https://arxiv.org/abs/2502.01720",
  rule="pair_identity >= 0.7, pair_identity <= 0.98",
  min_group=2,
)
