# SPDX-License-Identifier: Apache-2.0
"""Warping of a set's arrays, against loops over every pixel."""

import jax.numpy as jnp
import numpy as np
import pytest

from suti.nn.warp import (
  METHODS,
  WARPING,
  Warped,
  Warping,
  sample_at,
  warp,
  warp_rows,
)

T, SIDE, FINE, C = 3, 4, 8, 2


def cubic(d):
  a, d = -0.75, abs(d)
  if d <= 1:
    return (a + 2) * d**3 - (a + 3) * d**2 + 1
  return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def linear(d):
  return max(0.0, 1 - abs(d))


def read(x_HWC, column, row, method):
  """The sum over all pixels, each with its weight by distance."""
  height, width, channels = x_HWC.shape
  if method == "nearest":
    column, row = int(np.floor(column)), int(np.floor(row))
    is_in = 0 <= column < width and 0 <= row < height
    return x_HWC[row, column] if is_in else np.zeros(channels)
  kernel = cubic if method == "bicubic" else linear
  return sum(
    kernel(column - j - 0.5) * kernel(row - i - 0.5) * x_HWC[i, j]
    for i in range(height)
    for j in range(width)
  )


def eroded(mask_RR):
  padded = np.pad(mask_RR, 1)
  return np.array(
    [
      [padded[i : i + 3, j : j + 3].all() for j in range(FINE)]
      for i in range(FINE)
    ]
  )


def warp_by_hand(x_THWC, links, *, source, method, chain, thin):
  """What SynCD's code does to a set, pixel by pixel."""
  order = range(T) if source == "last" else range(T)[::-1]
  grid = [
    np.array(
      [
        [x_THWC[t, i * SIDE // FINE, j * SIDE // FINE] for j in range(FINE)]
        for i in range(FINE)
      ]
    )
    for t in order
  ]
  at, shown, beside, beside_shown = (
    [links[n][t] for t in order]
    for n in ("at_TRR2", "shown_TRR", "next_TRR2", "next_shown_TRR")
  )
  masks = [eroded(m) if thin else m for m in shown]
  giver = grid[-1].copy()
  for t in range(T - 1):
    for i, j in np.argwhere(masks[t]):
      grid[t][i, j] = read(giver, *at[t][i, j], method)
  if chain:
    left = beside_shown[0] & ~masks[0]
    left = eroded(left) if thin else left
    giver = grid[1].copy()
    for i, j in np.argwhere(left):
      grid[0][i, j] = read(giver, *beside[0][i, j], method)
  step = FINE // SIDE
  found = np.stack([each[::step, ::step] for each in grid])
  return found if source == "last" else found[::-1]


def some_links(source, seed=0):
  rng = np.random.default_rng(seed)
  giver, end = (T - 1, 0) if source == "last" else (0, T - 1)
  shown = np.zeros((T, FINE, FINE), bool)
  shown[:, 1:7, 0:6] = True
  shown[:, 4, 4] = False
  shown[giver] = False
  beside = np.zeros_like(shown)
  beside[end] = True
  return {
    "at_TRR2": rng.uniform(-1, FINE + 1, (T, FINE, FINE, 2)).astype("float32"),
    "shown_TRR": shown,
    "next_TRR2": rng.uniform(0, FINE, (T, FINE, FINE, 2)).astype("float32"),
    "next_shown_TRR": beside,
  }


@pytest.mark.parametrize("source", ["last", "first"])
@pytest.mark.parametrize(
  ("method", "chain", "thin"),
  [
    ("bicubic", True, True),
    ("bicubic", True, False),
    ("bilinear", False, False),
    ("nearest", True, True),
  ],
)
def test_a_warp_is_its_definition(source, method, chain, thin):
  x_THWC = np.random.default_rng(1).normal(size=(T, SIDE, SIDE, C))
  x_THWC = x_THWC.astype(np.float32)
  links = some_links(source)
  how = {"source": source, "method": method, "chain": chain, "thin": thin}
  found = warp(jnp.asarray(x_THWC), links, **how)
  expected = warp_by_hand(x_THWC, links, **how)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  giver = -1 if source == "last" else 0
  np.testing.assert_array_equal(found[giver], x_THWC[giver])
  assert np.abs(np.asarray(found) - x_THWC).max() > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_pixels_centre_is_the_pixel(method):
  x_HWC = np.random.default_rng(0).normal(size=(5, 6, 3)).astype(np.float32)
  row, column = np.mgrid[:5, :6]
  at = np.stack([column, row], -1).reshape(-1, 2) + np.float32(0.5)
  found = sample_at(jnp.asarray(x_HWC), jnp.asarray(at), method=method)
  np.testing.assert_allclose(found.reshape(5, 6, 3), x_HWC, atol=1e-6)


def test_features_are_those_of_rows_and_only_while_it_is_on():
  """Two sets side by side, each with its own links."""
  x_BHWC = np.random.default_rng(2).normal(size=(2 * T, SIDE, SIDE, C))
  x_BHWC = jnp.asarray(x_BHWC, jnp.float32)
  both = [some_links("last", seed) for seed in (0, 1)]
  links = {
    name: np.concatenate([each[name] for each in both]) for name in both[0]
  }
  now = Warping(
    links=links, on=jnp.array(True), thin=jnp.array(False), together=T,
    source="last", method="bilinear", chain=True,
  )  # fmt: skip
  flat = x_BHWC.reshape(2 * T, SIDE * SIDE, C)
  found = Warped()(flat, {WARPING: now}).reshape(x_BHWC.shape)
  for number in (0, 1):
    rows = slice(number * T, number * T + T)
    alone = warp(
      x_BHWC[rows], both[number], source="last", method="bilinear", chain=True,
      thin=False,
    )  # fmt: skip
    np.testing.assert_allclose(found[rows], alone, atol=1e-6)
  np.testing.assert_array_equal(Warped()(flat, {}), flat)
  off = warp_rows(
    x_BHWC,
    Warping(
      links=links, on=jnp.array(False), thin=jnp.array(False), together=T,
      source="last", method="bilinear", chain=True,
    ),
  )  # fmt: skip
  np.testing.assert_array_equal(off, x_BHWC)
