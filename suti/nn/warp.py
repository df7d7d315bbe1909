# SPDX-License-Identifier: Apache-2.0
"""Carries what one picture of a set shows over to where the others show it.

SynCD (arXiv 2502.01720, eq. 2), for rigid subjects of known geometry:

  f_2(u, v) = a f_1(u + du, v + dv) + (1 - a) f_2(u, v)

with a 1 where both pictures see a point and 0 elsewhere. As in the published
code it is done on a grid finer than the array: that is repeated up to the grid,
changed there, and of each of its cells the first position is taken back.

Which pixels correspond is the caller's to know.

Shape suffixes: B rows, G sets of T pictures side by side, H W C array, S
positions of a map, D width, R side of the grid, P positions on it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.nn.param import Module
from suti.nn.surgery import adapter

Array = jax.Array

METHODS = ("nearest", "bilinear", "bicubic")
WARPING = "warping"  # what `Warped` finds in a context
_CUBIC = -0.75  # of the kernel, as PyTorch's
# Of a pixel's 3 x 3 neighbourhood, for it to survive erosion: all of it.
_ERODED = 0.9


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("links", "on", "thin"),
  meta_fields=("together", "source", "method", "chain"),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Warping:
  """What is carried where, now.

  Attributes:
    links: of `link`, for B rows; R must be at least H.
    on: whether anything is, a bool.
    thin: whether masks are eroded first, a bool; the published code does so
      once there is less noise.
    together: T.
    source, method, chain: as in `warp`.
  """

  links: Mapping[str, Array]
  on: Array
  thin: Array
  together: int
  source: str
  method: str
  chain: bool


class Warped(Module):
  """What a self-attention is given, with the subject's features of one row.

  For a block's slot `before`, as the paper has it: keys, values and queries
  are made of the warped features. It finds a `Warping` in its context, or does
  nothing.
  """

  def __call__(self, x_BSD: Array, context: Any) -> Array:
    """(B, S, D) -> the same."""
    if WARPING not in context:
      return x_BSD
    side = round(x_BSD.shape[1] ** 0.5)
    x_BHWD = x_BSD.reshape(len(x_BSD), side, side, -1)
    return warp_rows(x_BHWD, context[WARPING]).reshape(x_BSD.shape)


def warp_features(module: Module) -> Module:
  """Lets the self-attentions of a U-Net be given warped features.

  Args:
    module: a declared U-Net.

  Returns:
    A copy with the same parameters.
  """
  return adapter(
    module,
    r"transformer_blocks\.\d+$",
    lambda path, block: Warped(),
    place="before",
  )


def link(
  places_TTRR2: Array, seen_TTRR: Array, *, source: str
) -> dict[str, Array]:
  """What each picture of a set can be given, see `warp`.

  Args:
    places_TTRR2: where (column, row) in picture j each pixel of picture i is.
    seen_TTRR: whether it is there.
    source: as in `warp`.

  Returns: `at_TRR2` and `shown_TRR`, each pixel in the source; `next_TRR2` and
    `next_shown_TRR`, of the picture at the other end in the one beside it, and
    nothing of all others.
  """
  num = len(seen_TTRR)
  giver = num - 1 if source == "last" else 0
  end, beside = (0, 1) if source == "last" else (num - 1, num - 2)
  return {
    "at_TRR2": places_TTRR2[:, giver],
    "shown_TRR": seen_TTRR[:, giver].at[giver].set(False),
    "next_TRR2": jnp.zeros_like(places_TTRR2[:, 0])
    .at[end]
    .set(places_TTRR2[end, beside]),
    "next_shown_TRR": jnp.zeros_like(seen_TTRR[:, 0])
    .at[end]
    .set(seen_TTRR[end, beside]),
  }


def warp_rows(x_BHWC: Array, warping: Warping) -> Array:
  """`warp` of each set among some rows, if it is on now."""
  sets = (-1, warping.together)
  x_GTHWC = x_BHWC.reshape(*sets, *x_BHWC.shape[1:])
  links = {
    name: each.reshape(*sets, *each.shape[1:])
    for name, each in warping.links.items()
  }
  moved_GTHWC = jax.vmap(
    lambda x_THWC, links: warp(
      x_THWC,
      links,
      source=warping.source,
      method=warping.method,
      chain=warping.chain,
      thin=warping.thin,
    )
  )(x_GTHWC, links)
  moved_BHWC = moved_GTHWC.reshape(x_BHWC.shape).astype(x_BHWC.dtype)
  return jnp.where(warping.on, moved_BHWC, x_BHWC)


def sample_at(x_HWC: Array, at_P2: Array, *, method: str) -> Array:
  """Reads an array at positions between its pixels.

  Args:
    x_HWC: outside of it are zeros.
    at_P2: (column, row); the centre of the first pixel is (0.5, 0.5).
    method: "nearest", "bilinear" or "bicubic".

  Returns:
    (P, C).
  """
  assert method in METHODS, method
  if method == "nearest":
    return _read(x_HWC, jnp.floor(at_P2).astype(jnp.int32))
  weights = _bilinear if method == "bilinear" else _bicubic
  low_P2 = jnp.floor(at_P2 - 0.5)
  taps = weights(at_P2 - 0.5 - low_P2)  # [(offset, its weights (P, 2))]
  low_P2 = low_P2.astype(jnp.int32)
  total = jnp.zeros((len(at_P2), x_HWC.shape[-1]), x_HWC.dtype)
  for down, row_P2 in taps:
    for right, column_P2 in taps:
      weight_P = (column_P2[:, 0] * row_P2[:, 1]).astype(x_HWC.dtype)
      at = low_P2 + jnp.array([right, down])
      total += weight_P[:, None] * _read(x_HWC, at)
  return total


def _read(x_HWC, at_P2):
  height, width, _ = x_HWC.shape
  column_P, row_P = at_P2[:, 0], at_P2[:, 1]
  is_in_P = (row_P >= 0) & (row_P < height) & (column_P >= 0)
  is_in_P &= column_P < width
  found_PC = x_HWC[
    jnp.clip(row_P, 0, height - 1), jnp.clip(column_P, 0, width - 1)
  ]
  return jnp.where(is_in_P[:, None], found_PC, 0)


def _bilinear(part_P2):
  return [(0, 1 - part_P2), (1, part_P2)]


def _bicubic(part_P2):
  def near(d):
    return ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1

  def far(d):
    return ((_CUBIC * d - 5 * _CUBIC) * d + 8 * _CUBIC) * d - 4 * _CUBIC

  rest_P2 = 1 - part_P2
  weights = far(part_P2 + 1), near(part_P2), near(rest_P2), far(rest_P2 + 1)
  return list(zip((-1, 0, 1, 2), weights, strict=True))


def erode(mask_BHW: Array) -> Array:
  """Leaves the pixels whose 3 x 3 neighbours are all in; outside is out."""
  padded = jnp.pad(mask_BHW, ((0, 0), (1, 1), (1, 1))).astype(jnp.float32)
  height, width = mask_BHW.shape[1:]
  total = jnp.zeros(mask_BHW.shape, jnp.float32)
  for i, j in itertools.product(range(3), range(3)):
    total += padded[:, i : i + height, j : j + width]
  return total / 9 >= _ERODED


def warp(
  x_THWC: Array,
  links: Mapping[str, Array],
  *,
  source: str,
  method: str,
  chain: bool,
  thin: Array | bool,
) -> Array:
  """Carries one picture's values to the others of its set.

  Args:
    x_THWC: of one set; H = W.
    links: of `link`.
    source: "last", as the published code, or "first", as the paper: which
      picture the others are given. It must be the one of the links.
    method: of `sample_at`; the published code has "bicubic", the paper
      "bilinear".
    chain: whether the picture at the other end is then also given what its
      neighbour shows and the source does not, as the published code does.
    thin: whether masks are eroded first; the published code does so once there
      is less noise.

  Returns:
    The same shape.
  """
  assert source in ("first", "last"), source
  side, fine = x_THWC.shape[1], links["shown_TRR"].shape[-1]
  if source == "first":  # The same from the other end.
    x_THWC, links = x_THWC[::-1], {n: v[::-1] for n, v in links.items()}
  up_R = np.arange(fine) * side // fine  # nearest, as PyTorch rounds it
  grid_TRRC = x_THWC[:, up_R][:, :, up_R]

  def carry(from_RRC, at_RR2):
    found = sample_at(from_RRC, at_RR2.reshape(-1, 2), method=method)
    return found.reshape(from_RRC.shape)

  def thinned(mask_TRR):
    return jnp.where(thin, erode(mask_TRR), mask_TRR)

  last_RRC = grid_TRRC[-1]
  moved_TRRC = jax.vmap(lambda at: carry(last_RRC, at))(links["at_TRR2"])
  mask_TRR = thinned(links["shown_TRR"])
  grid_TRRC = jnp.where(mask_TRR[..., None], moved_TRRC, grid_TRRC)
  if chain:
    moved_RRC = carry(grid_TRRC[1], links["next_TRR2"][0])
    left_RR = links["next_shown_TRR"][0] & ~mask_TRR[0]
    left_RR = thinned(left_RR[None])[0]
    first_RRC = jnp.where(left_RR[..., None], moved_RRC, grid_TRRC[0])
    grid_TRRC = grid_TRRC.at[0].set(first_RRC)
  down_H = np.arange(side) * fine // side
  x_THWC = grid_TRRC[:, down_H][:, :, down_H]
  return x_THWC[::-1] if source == "first" else x_THWC
