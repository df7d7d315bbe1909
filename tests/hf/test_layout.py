# SPDX-License-Identifier: Apache-2.0
"""One pass from layout to layout: what it moves, converts and counts."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from suti.hf import layout
from suti.nn.layers import Conv2d, Linear
from suti.nn.param import functional

HALVES = (np.float16, ml_dtypes.bfloat16)
FLOATS = (*HALVES, np.float32, np.float64)


@pytest.mark.parametrize(
  ("shape", "axes"),
  [
    ((), ()),
    ((0, 3), (1, 0)),
    ((700,), (0,)),
    ((1, 9, 64), (0, 1, 2)),
    ((70, 33), (1, 0)),
    ((33, 70), (0, 1)),
    ((2000, 1), (1, 0)),
    ((1, 2000), (1, 0)),
    ((17, 13, 3, 2), (2, 3, 1, 0)),
    ((3, 2, 11, 5), (2, 3, 1, 0)),
  ],
)
def test_tiles_cover_a_tensor_once(shape, axes, monkeypatch):
  monkeypatch.setattr(layout, "_TILE", 128)
  source = np.random.standard_normal(shape)
  touched = np.zeros(shape, int)
  for tile in layout._tiles(shape):
    touched[tile] += 1
    assert touched[tile].size <= 128
  assert (touched == 1).all()
  found, num_bad = layout.transpose(source, axes, dtype=np.float64)
  np.testing.assert_array_equal(found, np.transpose(source, axes))
  assert num_bad == 0
  assert found.flags.c_contiguous


@pytest.mark.parametrize("source_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_conversions_are_numpys(source_dtype, dtype):
  source = (np.random.standard_normal((300, 500)) * 0.05).astype(source_dtype)
  found, _ = layout.transpose(source, (1, 0), dtype=dtype)
  assert found.dtype == dtype
  np.testing.assert_array_equal(found, source.T.astype(dtype))


def test_every_finite_half_is_widened_exactly():
  """Also after JAX has computed, which may set how a core rounds."""
  jax.block_until_ready(jax.jit(jnp.exp)(jnp.ones((64, 64)) * -99))
  halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
  halves = halves[np.isfinite(halves)]
  found, num_bad = layout.transpose(halves, (0,), dtype=np.float32)
  expected = halves.astype(np.float32)
  np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
  assert num_bad == 0


@pytest.mark.parametrize("source_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_that_are_not_finite_are_counted(source_dtype, dtype):
  source = np.zeros((300, 400), source_dtype)
  source[::3, 0] = np.nan
  source[1, 1:5] = np.inf
  source[299, 399] = -np.inf
  _, num_bad = layout.transpose(source, (1, 0), dtype=dtype)
  assert num_bad == 100 + 4 + 1


def test_extremes_are_finite_but_where_they_do_not_fit():
  for dtype in FLOATS:
    limits = ml_dtypes.finfo(dtype)
    values = np.array([limits.min, -limits.tiny, 0, limits.max], dtype)
    assert layout.transpose(values, (0,), dtype=dtype)[1] == 0
  large = np.array([65504, 65536, -1e30], np.float32)
  assert layout.transpose(large, (0,), dtype=np.float16)[1] == 2


@pytest.mark.parametrize("dtype", FLOATS[:-1])
def test_any_piece_at_any_alignment(dtype):
  memory = np.zeros(1 + 60 * 40 * np.dtype(dtype).itemsize, np.uint8)
  whole = np.ndarray((60, 40), dtype, buffer=memory, offset=1)
  whole[:] = np.random.standard_normal((60, 40))
  piece = whole[30:45, 8:32]
  found, _ = layout.transpose(piece, (1, 0), dtype=dtype)
  np.testing.assert_array_equal(found, piece.T)


def test_jax_takes_the_memory_over():
  """On CPU, where a copy would double what a model needs."""
  found, _ = layout.transpose(np.ones((5, 7)), (1, 0), dtype=np.float32)
  array = jax.device_put(found)
  assert array.unsafe_buffer_pointer() == found.ctypes.data


def test_published_shapes():
  conv = functional(Conv2d(2, 3, 5))[0]["weight"]
  assert layout.published_shape(conv) == (3, 2, 5, 5)
  spec = functional(Linear(4, 6))[0]
  assert layout.published_shape(spec["weight"]) == (6, 4)
  assert layout.published_shape(spec["bias"]) == (6,)
  assert layout.inverse(layout.order(conv)) == [3, 2, 0, 1]
