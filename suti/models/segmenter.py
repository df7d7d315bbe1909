# SPDX-License-Identifier: Apache-2.0
"""A small U-Net that says where the subject of a picture is.

Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image
segmentation", in small: residual blocks of two convolutions with group
normalisation, halved and doubled between levels, what was seen on the way down
beside what comes up. One logit a pixel: above 0 is inside. No published family
has this layout; the names are ours.

Shape suffixes: B batch, H W height and width, C channels.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from suti.config.values import check_kinds
from suti.nn.layers import Conv2d, GroupNorm
from suti.nn.param import ZEROS, Module, ModuleList

_DEFAULTS = {
  "image_size": 64,
  "num_channels": 3,
  "widths": (16, 32, 64),  # of each level, from the picture's own size
  "norm_num_groups": 4,
}


def declare_segmenter(config: Mapping[str, Any]) -> "Segmenter":
  """Declares the net.

  Args:
    config: as in config.json; what is absent has its default.

  Returns:
    A module; `module(x_BHWC)` takes float images of `image_size` in [-1, 1] and
    returns logits (B, H, W).

  Raises:
    ValueError: a side that its levels do not halve evenly.
  """
  check_kinds(config, _DEFAULTS, what="a segmenter")
  config = {**_DEFAULTS, **config}
  halves = 2 ** (len(config["widths"]) - 1)
  if config["image_size"] % halves:
    raise ValueError(
      f"image_size={config['image_size']} is no multiple of {halves}, as "
      f"{len(config['widths'])} widths halve it: use a multiple, or fewer."
    )
  return Segmenter(config)


class Segmenter(Module):
  """`conv_in`, `down.N`, `up.N` from the smallest level, `conv_out`."""

  def __init__(self, config):
    widths, groups = tuple(config["widths"]), config["norm_num_groups"]
    self.conv_in = Conv2d(config["num_channels"], widths[0], 3, padding=1)
    inner = (widths[0], *widths[:-1])
    self.down: Any = ModuleList(
      [_Block(i, o, groups) for i, o in zip(inner, widths, strict=True)]
    )
    self.up: Any = ModuleList(
      [
        _Block(below + beside, beside, groups)
        for below, beside in zip(widths[:0:-1], widths[-2::-1], strict=True)
      ]
    )
    self.norm_out = GroupNorm(groups, widths[0])
    self.conv_out = Conv2d(widths[0], 1, 3, padding=1, init=ZEROS)

  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    """Images -> logits (B, H, W)."""
    h_BHWC, seen = self.conv_in(x_BHWC), []
    for number, block in enumerate(self.down):
      if number:
        h_BHWC = _halve(h_BHWC)
      h_BHWC = block(h_BHWC)
      seen.append(h_BHWC)
    seen.pop()
    for block in self.up:
      h_BHWC = block(jnp.concatenate([_double(h_BHWC), seen.pop()], axis=-1))
    return self.conv_out(jax.nn.silu(self.norm_out(h_BHWC)))[..., 0]


class _Block(Module):
  """Two convolutions beside a short way of 1x1."""

  def __init__(self, d_in: int, d_out: int, groups: int):
    self.norm1 = GroupNorm(groups, d_in)
    self.conv1 = Conv2d(d_in, d_out, 3, padding=1)
    self.norm2 = GroupNorm(groups, d_out)
    self.conv2 = Conv2d(d_out, d_out, 3, padding=1)
    self.short = Conv2d(d_in, d_out, 1)

  def __call__(self, x_BHWC):
    h_BHWC = self.conv1(jax.nn.silu(self.norm1(x_BHWC)))
    h_BHWC = self.conv2(jax.nn.silu(self.norm2(h_BHWC)))
    return h_BHWC + self.short(x_BHWC)


def _halve(x_BHWC):
  b, h, w, c = x_BHWC.shape
  return x_BHWC.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _double(x_BHWC):
  return x_BHWC.repeat(2, axis=1).repeat(2, axis=2)
