# SPDX-License-Identifier: Apache-2.0
"""SuTI's filter: delta-CLIP above 0.02 (arXiv 2304.00186, eq. 7).

A candidate must match its prompt better than every picture its expert was
tuned on. Only the text is compared; the subject's identity is left to the
expert. In the paper CLIP is ViT-L/14.
"""

from experts.selection import Filter

FILTER = Filter(
  paper="https://arxiv.org/abs/2304.00186", rule="delta_clip > 0.02"
)
