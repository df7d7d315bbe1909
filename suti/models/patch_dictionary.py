# SPDX-License-Identifier: Apache-2.0
"""A single layer of learned patches, pooled: an encoder that costs nothing.

Coates, Ng and Lee 2011, "An analysis of single-layer networks in unsupervised
feature learning": patches are normalised and whitened, compared with a
dictionary, thresholded on both sides, and pooled over a grid. No published
family has this layout; the names are ours. A second dictionary reads the
picture at half its size.

Shape suffixes: B batch, H W height and width, C channels, K words of a
dictionary, F features.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from suti.config.values import check_kinds
from suti.nn.convolution import convolve
from suti.nn.param import NORMAL, ONES, ZEROS, Module, ModuleList, param

_DEFAULTS = {
  "image_size": 64,
  "num_channels": 3,
  "patch_size": 6,
  "strides": (2, 1),  # of each scale: the picture, half of it, ...
  "num_words": 128,
  "grid": 4,
  "threshold": 0.25,
}
_QUIET = 6e-4  # of [-1, 1]: a variance below which a patch is flat


def declare_patch_dictionary(config: Mapping[str, Any]) -> "PatchDictionary":
  """Declares the encoder.

  Args:
    config: as in config.json; what is absent has its default.

  Returns:
    A module; `module(x_BHWC)` takes float images of `image_size` in [-1, 1] and
    returns standardised features (B, F).
  """
  check_kinds(config, _DEFAULTS, what="a dictionary of patches")
  return PatchDictionary({**_DEFAULTS, **config})


class PatchDictionary(Module):
  """`scales.N.weight`, `scales.N.bias`, `mean` and `scale` of the features."""

  def __init__(self, config):
    self.grid = config["grid"]
    self.scales: Any = ModuleList(
      [_Scale(config, s) for s in config["strides"]]
    )
    width = len(config["strides"]) * config["grid"] ** 2 * 2
    width *= config["num_words"]
    self.mean = param((width,), init=ZEROS, axes=(None,))
    self.scale = param((width,), init=ONES, axes=(None,))

  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    """Images -> standardised features (B, F)."""
    return (self.pooled(x_BHWC) - self.mean[...]) * self.scale[...]

  def pooled(self, x_BHWC: jax.Array) -> jax.Array:
    """Images -> features (B, F) as they are before they are standardised."""
    parts = []
    for number, scale in enumerate(self.scales):
      if number:
        x_BHWC = _halve(x_BHWC)
      parts.append(_pool(scale(x_BHWC), self.grid))
    return jnp.sqrt(jnp.concatenate(parts, axis=-1))


class _Scale(Module):
  """Compares the patches of one size with a whitened dictionary."""

  def __init__(self, config, stride: int):
    size, channels = config["patch_size"], config["num_channels"]
    self.size, self.stride = size, stride
    self.threshold = config["threshold"]
    self.weight = param(
      (size, size, channels, config["num_words"]),
      init=NORMAL,
      axes=(None, None, None, None),
      torch="o i h w -> h w i o",
    )
    self.bias = param((config["num_words"],), init=ZEROS, axes=(None,))

  def __call__(self, x_BHWC):
    """(B, H, W, C) -> (B, H', W', 2 K), what exceeds the threshold."""
    weight_HWCK = self.weight[...]
    count = self.size**2 * x_BHWC.shape[-1]
    # A patch's own mean and variance, by the same windows.
    ones = jnp.ones((*weight_HWCK.shape[:3], 1), x_BHWC.dtype) / count

    def windows(values, kernel):
      return convolve(values, kernel, stride=self.stride, padding=0)

    mean = windows(x_BHWC, ones)
    variance = windows(jnp.square(x_BHWC), ones) - jnp.square(mean)
    # The dictionary's words sum to 0, so that a patch's mean has no effect.
    words = weight_HWCK - weight_HWCK.mean((0, 1, 2))
    out = windows(x_BHWC, words)
    out = out / jnp.sqrt(jnp.maximum(variance, 0.0) + _QUIET) + self.bias[...]
    both = jnp.concatenate([out, -out], axis=-1)
    return jax.nn.relu(both - self.threshold)


def _halve(x_BHWC):
  b, h, w, c = x_BHWC.shape
  return x_BHWC.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _pool(x_BHWK, grid: int):
  """Means over a grid of nearly equal cells, (B, grid * grid * K)."""
  rows = _cells(x_BHWK.shape[1], grid)
  columns = _cells(x_BHWK.shape[2], grid)
  return jnp.stack(
    [
      x_BHWK[:, top:bottom, left:right].mean((1, 2))
      for top, bottom in rows
      for left, right in columns
    ],
    axis=1,
  ).reshape(len(x_BHWK), -1)


def _cells(size: int, grid: int) -> list[tuple[int, int]]:
  edges = [round(i * size / grid) for i in range(grid + 1)]
  return list(itertools.pairwise(edges))
