# SPDX-License-Identifier: Apache-2.0
"""SynCD's filter of sets: similar images that look good (arXiv 2502.01720).

As its published code has it: an image stays if it scores 6 of 10 or more in
aesthetics and is similar to another of its set, by DINOv2 in [0.7, 0.98], and a
set stays if two of its images do. The paper has the mean similarity of a set,
which is the rule `group_identity >= 0.7, aesthetic >= 6`. Without a head of
aesthetics (`config.filter.aesthetic`), leave its condition out.

Its code compares squares cut out around the subjects: `config.filter.crop`.
"""

from experts.selection import Filter

FILTER = Filter(
  paper="https://arxiv.org/abs/2502.01720",
  rule="distinct_pair_identity >= 0.7, aesthetic >= 6",
  min_group=2,
)
