# SPDX-License-Identifier: Apache-2.0
"""Subject-Diffusion's rules on what is found in a picture (arXiv 2307.11410).

Of a box: width over height, the share of the picture, and how much of it the
mask fills; and the score. As the published code has them, which differs from
appendix B in the least area (0.08, paper 0.05) and the least score (0.3, paper
0.2). Rules on pairs of entities are left out, as a candidate has one.
"""

from experts.selection import Filter

FILTER = Filter(
  paper="https://arxiv.org/abs/2307.11410",
  rule="box_aspect >= 0.3, box_aspect <= 3, box_area >= 0.08, box_area <= 0.7, "
  "mask_share >= 0.6, label_score >= 0.3",
)
