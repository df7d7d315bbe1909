# SPDX-License-Identifier: Apache-2.0
"""Masks on coarser grids, against loops over their cells."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from suti.nn.cells import at_positions, shares, spread, touched, widened

RNG = np.random.default_rng(0)


def test_a_cell_is_touched_by_one_pixel():
  mask = RNG.random((2, 12, 8)) < 0.1
  found = np.asarray(touched(jnp.asarray(mask), height=3, width=4))
  for b, row, column in np.ndindex(2, 3, 4):
    cell = mask[b, 4 * row : 4 * row + 4, 2 * column : 2 * column + 2]
    assert found[b, row, column] == cell.any()
  assert found.any() and not found.all()


def test_a_mask_is_widened_on_all_sides():
  mask = np.zeros((1, 6, 7), bool)
  mask[0, 2, 3] = mask[0, 5, 0] = True
  found = np.asarray(widened(jnp.asarray(mask), size=3))[0]
  expected = np.zeros((6, 7), bool)
  expected[1:4, 2:5] = expected[4:6, 0:2] = True
  np.testing.assert_array_equal(found, expected)
  same = widened(jnp.asarray(mask), size=1)
  np.testing.assert_array_equal(same, mask)


@pytest.mark.parametrize("shape", [(4, 6), (12, 24)])
def test_shares_are_what_pil_makes_of_a_mask(shape):
  mask = RNG.random((3, 12, 24)) < [[[0.1]], [[0.5]], [[1.1]]]
  height, width = shape
  found = np.asarray(shares(jnp.asarray(mask), height=height, width=width))
  expected = [
    np.asarray(
      Image.fromarray(np.uint8(255 * each)).resize(
        (width, height), Image.Resampling.LANCZOS
      )
    )
    for each in mask
  ]
  np.testing.assert_allclose(found * 255, expected, atol=1e-4)
  assert (found[2] == 1).all() and len(np.unique(found)) > 1


def test_shares_are_spread_up_to_one():
  share = RNG.random((2, 5, 6)).astype(np.float32) / 4
  found = np.asarray(spread(jnp.asarray(share), size=3))
  for b, row, column in np.ndindex(2, 5, 6):
    near = share[b, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
    np.testing.assert_allclose(
      found[b, row, column], min(near.sum(), 1), rtol=1e-5
    )
  assert (found < 1).any() and (found == 1).any()


@pytest.mark.parametrize("side", [8, 7])
def test_each_grid_is_half_the_one_before(side):
  mask = RNG.random((2, side, side)) < 0.5
  half = -(-side // 2)
  for now in (side, half, -(-half // 2)):
    found = np.asarray(at_positions(jnp.asarray(mask), num=now * now))
    for b, row, column in np.ndindex(2, now, now):
      # torch's "nearest": the cell in which the position begins.
      expected = mask[b, row * side // now, column * side // now]
      assert found[b, row * now + column] == expected
