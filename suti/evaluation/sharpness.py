# SPDX-License-Identifier: Apache-2.0
"""How sharp pictures are: their mean absolute Laplacian.

Of levels from 0 to 255 in each channel, by the four neighbours, over the pixels
that have them. It says nothing of what a picture shows: noise is sharp. It is
read beside the distance to real pictures, as a share of what real renders of
the same prompts have.
"""

from collections.abc import Sequence

import numpy as np


def sharpness(images_u8: Sequence[np.ndarray]) -> np.ndarray:
  """One number a picture, float64 (N,).

  Args:
    images_u8: pictures of any size from 3 px on, each uint8 (H, W, 3).
  """
  return np.array([_laplacian(image) for image in images_u8])


def _laplacian(image_u8: np.ndarray) -> float:
  level_HWC = image_u8.astype(np.float64)
  around = (
    level_HWC[:-2, 1:-1]
    + level_HWC[2:, 1:-1]
    + level_HWC[1:-1, :-2]
    + level_HWC[1:-1, 2:]
  )
  return float(np.abs(around - 4 * level_HWC[1:-1, 1:-1]).mean())
