# SPDX-License-Identifier: Apache-2.0
"""Masks of pictures on the coarser grids that nets work on.

Shape suffixes: B pictures, R side in pixels, H W grid.
"""

import jax
import numpy as np


def touched(mask_BRR: jax.Array, *, height: int, width: int) -> jax.Array:
  """Which cells of a grid have a pixel of the mask.

  Args:
    mask_BRR: bool.
    height, width: of the grid, divisors of the mask's.

  Returns: bool (B, height, width).
  """
  batch, rows, columns = mask_BRR.shape
  assert rows % height == 0 and columns % width == 0, mask_BRR.shape
  shape = (batch, height, rows // height, width, columns // width)
  return mask_BRR.reshape(shape).any((2, 4))


def widened(mask_BHW: jax.Array, *, size: int) -> jax.Array:
  """Which cells have one of the mask in their neighbourhood, `size` a side."""
  return jax.lax.reduce_window(
    mask_BHW, False, jax.lax.bitwise_or, (1, size, size), (1, 1, 1), "SAME"
  )


def at_positions(mask_BHW: jax.Array, *, num: int) -> jax.Array:
  """The mask on the grid of `num` positions, by the nearest cell.

  Each grid is half as large as the one before, rounded up, as in a U-Net.

  Returns: bool (B, num), row by row.
  """
  height, width = full = mask_BHW.shape[1:]
  while height * width > num:
    height, width = -(-height // 2), -(-width // 2)
  assert height * width == num, (full, num)
  # The cell that a position begins in, as published code interpolates.
  rows = np.arange(height) * full[0] // height
  columns = np.arange(width) * full[1] // width
  return mask_BHW[:, rows][:, :, columns].reshape(len(mask_BHW), num)
