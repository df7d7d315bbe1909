# SPDX-License-Identifier: Apache-2.0
"""A subject cut out of its picture, for encoders that should not see the rest.

SynCD (arXiv 2502.01720), section 5, masks the background and crops before it
compares DINOv2 features, as others do. What fills the background and how much
of a border stays is not published: mid-grey and a tenth are our choice.

Shape suffixes: H W picture, C channels.
"""

import numpy as np

_FILL = 127
_BORDER = 0.1  # of the larger side of the subject, on each side of it


def cut_out(image_u8: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
  """A square around a subject, grey where it is not.

  Args:
    image_u8: uint8 (H, W, 3).
    mask_HW: bool, with a pixel in it.

  Returns: uint8 (S, S, 3), as large as the subject and its border.
  """
  rows, columns = (np.flatnonzero(mask_HW.any(axis)) for axis in (1, 0))
  height = rows[-1] + 1 - rows[0]
  width = columns[-1] + 1 - columns[0]
  side = max(height, width)
  border = round(_BORDER * side)
  size = side + 2 * border
  square = np.full((size, size, 3), _FILL, np.uint8)
  top, left = (size - height) // 2, (size - width) // 2
  inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
  square[top : top + height, left : left + width] = np.where(
    mask_HW[inside][..., None], image_u8[inside], _FILL
  )
  return square
