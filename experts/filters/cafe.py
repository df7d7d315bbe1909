# SPDX-License-Identifier: Apache-2.0
"""CAFE's filter: CLIP-T of 0.3 or more, identity of 0.6 (arXiv 2312.03045).

Both must hold. In the paper CLIP is ViT-B/32, and reads the instruction, and
identity is by DINO ViT-S/16: numbers of other encoders lie elsewhere. Its first
round also has people look at the images.
"""

from experts.selection import Filter

FILTER = Filter(
  paper="https://arxiv.org/abs/2312.03045",
  rule="clip_t >= 0.3, identity >= 0.6",
)
