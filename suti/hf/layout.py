# SPDX-License-Identifier: Apache-2.0
"""A tensor from the published layout to ours, or back, in one pass.

Publishers keep PyTorch's order of dims, ours is `Param.torch`'s right side. A
tensor is taken from where it lies, a file's memory map, in tiles that fit into
a core's cache: each is converted, searched for values that are not finite, and
written transposed, so that all of this reads memory once.

On one core a transposed matrix of 4096 x 4096 takes 37 ms in float32, of which
the search is a tenth; `np.ascontiguousarray` alone takes 134 ms.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from suti.nn.param import Param

_TILE = 2**16  # elements
_ALIGNMENT = 64  # bytes
# Of 16-bit floats without their sign: the least that is infinite or NaN.
_NOT_FINITE = {
  np.dtype(np.float16): 0xF800,
  np.dtype(ml_dtypes.bfloat16): 0xFF00,
}


def order(p: Param) -> list[int]:
  """Which dim of the published tensor each of our dims is."""
  if p.torch is None:
    return list(range(len(p.shape)))
  theirs, ours = (side.split() for side in p.torch.split("->"))
  return [theirs.index(letter) for letter in ours]


def inverse(axes: Sequence[int]) -> list[int]:
  """The order that undoes an order of dims."""
  return [int(axis) for axis in np.argsort(axes)]


def published_shape(p: Param) -> tuple[int, ...]:
  """The shape of a parameter in the published layout."""
  return tuple(p.shape[axis] for axis in inverse(order(p)))


def transpose(
  source: np.ndarray, axes: Sequence[int], *, dtype: Any
) -> tuple[np.ndarray, int]:
  """Copies a tensor with its dims in another order.

  Args:
    source: floats, at any alignment; best contiguous.
    axes: which of its dims each dim of the result is.
    dtype: of the result: float16, bfloat16, float32 or float64.

  Returns:
    The copy, contiguous, its memory its own; and the number of its values that
    are NaN or infinite, be it only in `dtype`.
  """
  dtype = np.dtype(dtype)
  result = _allocate([source.shape[axis] for axis in axes], dtype)
  target = np.transpose(result, inverse(axes))
  num_bad = 0
  with np.errstate(over="ignore", invalid="ignore"):
    for tile in _tiles(source.shape):
      values = np.asarray(source[tile], order="C")
      if values.dtype == np.float16 != dtype:
        num_bad += _count_not_finite(values)
        values = _widen(values).astype(dtype, copy=False)
      else:
        values = values.astype(dtype, copy=False)
        num_bad += _count_not_finite(values)
      target[tile] = values
  return result, num_bad


def _allocate(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
  """An array that JAX takes over on CPU: what is not aligned it copies."""
  num_bytes = math.prod(shape) * dtype.itemsize
  memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % _ALIGNMENT
  return memory[start : start + num_bytes].view(dtype).reshape(shape)


def _tiles(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
  """Cuts the first two dims so that both sides of a tile are long."""
  if not shape:
    yield ()
  elif len(shape) == 1:
    for start in range(0, shape[0], _TILE):
      yield (slice(start, start + _TILE),)
  else:
    rest = max(1, math.prod(shape[2:]))
    side = max(math.isqrt(_TILE // rest), _TILE // (rest * max(1, shape[0])))
    columns = max(1, min(side, shape[1]))
    rows = max(1, _TILE // (rest * columns))
    for row in range(0, shape[0], rows):
      for column in range(0, shape[1], columns):
        yield slice(row, row + rows), slice(column, column + columns)


def _count_not_finite(values: np.ndarray) -> int:
  limit = _NOT_FINITE.get(values.dtype)
  if limit is None:
    return values.size - int(np.count_nonzero(np.isfinite(values)))
  # Integers: NumPy's test of 16-bit floats takes five to eight times as long.
  return int(np.count_nonzero(values.view(np.uint16) << 1 >= limit))


def _widen(values: np.ndarray) -> np.ndarray:
  """Finite float16 -> float32, exactly, in a fifth of NumPy's own time."""
  bits = values.view(np.int16).astype(np.int32)
  bits <<= 13  # exponent and mantissa to where float32 has them
  bits &= np.uint32(0x8FFFE000).view(np.int32)  # one sign, no copies of it
  wide = bits.view(np.float32)
  wide *= np.float32(2.0 ** (127 - 15))  # what their exponents count from
  return wide
