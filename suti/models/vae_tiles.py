# SPDX-License-Identifier: Apache-2.0
"""Large pictures through an autoencoder piece by piece.

Tiles overlap by a quarter of their side, and where two meet the one fades into
the other, as the published pipelines have it. Tiles are independent:
normalisation and attention see one tile alone, so colours may drift a
little between tiles, which is why small pictures go through whole.

Shape suffixes: B batch, H W height and width, C channels, N tiles of one shape.
"""

from collections import defaultdict
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_OVERLAP = 0.25  # of a tile's side


def in_tiles(
  function: Callable[[jax.Array], jax.Array],
  x_BHWC: jax.Array,
  *,
  size: int,
  size_out: int,
) -> jax.Array:
  """Applies a function of maps tile by tile and joins what it returns.

  Args:
    function: (B, h, w, C) -> (B, h * r, w * r, D) with r = size_out / size; it
      is traced once for each shape of tiles, of which there are four at most.
    x_BHWC: pictures or latents of any size.
    size: side of a tile of `x_BHWC`.
    size_out: side of what `function` makes of such a tile.

  Returns:
    (B, H * r, W * r, D); `function(x_BHWC)` where it is no larger than a tile.
  """
  height, width = x_BHWC.shape[1:3]
  if max(height, width) <= size:
    return function(x_BHWC)
  stride = int(size * (1 - _OVERLAP))
  places = {
    (i, j): x_BHWC[:, y : y + size, x : x + size]
    for i, y in enumerate(range(0, height, stride))
    for j, x in enumerate(range(0, width, stride))
  }
  tiles = _apply_to_all(function, places)

  fade = int(size_out * _OVERLAP)
  kept = size_out - fade
  rows = []
  for i in range(1 + max(i for i, _ in tiles)):
    row = []
    for j in range(1 + max(j for _, j in tiles)):
      if i:
        tiles[i, j] = _fade(tiles[i - 1, j], tiles[i, j], fade, axis=1)
      if j:
        tiles[i, j] = _fade(tiles[i, j - 1], tiles[i, j], fade, axis=2)
      row.append(tiles[i, j][:, :kept, :kept])
    rows.append(jnp.concatenate(row, axis=2))
  return jnp.concatenate(rows, axis=1)


def _apply_to_all(function, places):
  """One at a time, which bounds the memory; tiles of a shape in one loop."""
  by_shape = defaultdict(list)
  for place, tile in places.items():
    by_shape[tile.shape].append(place)
  tiles = {}
  for alike in by_shape.values():
    results = jax.lax.map(function, jnp.stack([places[p] for p in alike]))
    tiles.update(zip(alike, results, strict=True))
  return tiles


def _fade(before, tile, extent, *, axis):
  """Lets the end of one tile fade into the start of the next."""
  extent = min(before.shape[axis], tile.shape[axis], extent)
  weight = np.arange(extent, dtype=np.float32) / max(extent, 1)
  weight = jnp.asarray(weight, tile.dtype).reshape([-1] + [1] * (3 - axis))
  first = before.shape[axis] - extent
  end = jax.lax.slice_in_dim(before, first, None, axis=axis)
  start = jax.lax.slice_in_dim(tile, 0, extent, axis=axis)
  rest = jax.lax.slice_in_dim(tile, extent, None, axis=axis)
  mixed = end * (1 - weight) + start * weight
  return jnp.concatenate([mixed, rest], axis=axis)
