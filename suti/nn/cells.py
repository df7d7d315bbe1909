# SPDX-License-Identifier: Apache-2.0
"""Masks of pictures on the coarser grids that nets work on.

Shape suffixes: B pictures, R side in pixels, H W grid.
"""

import jax
import jax.numpy as jnp
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


def shares(mask_BRR: jax.Array, *, height: int, width: int) -> jax.Array:
  """How much of each cell of a grid is in the mask, by Lanczos' kernel.

  As PIL resizes a mask of 0 and 255, one axis after the other, each rounded to
  a whole number within that range: some mask is also seen from cells beside it.

  Args:
    mask_BRR: bool.
    height, width: of the grid.

  Returns: float32 (B, height, width), multiples of 1/255 within [0, 1].
  """
  x = mask_BRR.astype(jnp.float32) * 255
  for shape in ((*x.shape[:2], width), (len(x), height, width)):
    x = jax.image.resize(x, shape, "lanczos3")
    x = jnp.floor(jnp.clip(x, 0, 255) + 0.5)
  return x / 255


def spread(share_BHW: jax.Array, *, size: int) -> jax.Array:
  """The sum over each cell's neighbourhood, `size` a side, 1 at most."""
  total_BHW = jax.lax.reduce_window(
    share_BHW, 0.0, jax.lax.add, (1, size, size), (1, 1, 1), "SAME"
  )
  return jnp.minimum(total_BHW, 1)


def widened(mask_BHW: jax.Array, *, size: int) -> jax.Array:
  """Which cells have one of the mask in their neighbourhood, `size` a side."""
  return jax.lax.reduce_window(
    mask_BHW, False, jax.lax.bitwise_or, (1, size, size), (1, 1, 1), "SAME"
  )


def at_positions(mask_BHW: jax.Array, *, num: int) -> jax.Array:
  """The mask on the grid of `num` positions, by the nearest cell.

  Each grid is half as large as the one before, rounded up, as in a U-Net.

  Returns: (B, num), row by row, of the mask's dtype.
  """
  height, width = full = mask_BHW.shape[1:]
  while height * width > num:
    height, width = -(-height // 2), -(-width // 2)
  assert height * width == num, (full, num)
  # The cell that a position begins in, as published code interpolates.
  rows = np.arange(height) * full[0] // height
  columns = np.arange(width) * full[1] // width
  return mask_BHW[:, rows][:, :, columns].reshape(len(mask_BHW), num)
