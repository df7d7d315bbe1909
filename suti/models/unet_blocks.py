# SPDX-License-Identifier: Apache-2.0
"""Down, mid and up blocks of the U-Net.

Stable Diffusion's and DeepFloyd IF's differ in two things: what attends (a
Transformer, or one attention to pixels and text), and what changes the size (a
convolution, or a ResNet). `Level.simple` says which, IF's blocks being called
"simple" in the published configs. Which block has which width is decided in
`unet_config.py`.

Shape suffixes: B batch, H W height and width, C channels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from suti.models.unet_layers import (
  AddedAttention,
  Condition,
  Level,
  ResNet,
  Transformer,
  double,
  halve,
)
from suti.nn.layers import Conv2d
from suti.nn.param import Module, ModuleList


class DownBlock(Module):
  """Layers, then half the size.

  `[CrossAttn]DownBlock2D`, `ResnetDownsampleBlock2D` and
  `SimpleCrossAttnDownBlock2D`.
  """

  def __init__(self, level: Level, *, d_in: int, downsample: bool):
    widths = [d_in] + [level.dim] * (level.num_layers - 1)
    self.simple = level.simple
    self.resnets = ModuleList([ResNet(level, d_in=d) for d in widths])
    self.attentions = _attentions(level, level.num_layers)
    self.downsamplers = _resamplers(level, halve) if downsample else None

  def __call__(self, x_BHWC: jax.Array, condition: Condition) -> list:
    """Returns the features after each layer, then the downsampled ones."""
    outputs = []
    for i, resnet in enumerate(self.resnets):
      x_BHWC = resnet(x_BHWC, condition)
      if self.attentions is not None:
        x_BHWC = self.attentions[i](x_BHWC, condition)
      outputs.append(x_BHWC)
    if self.downsamplers is not None:
      halver = self.downsamplers[0]
      outputs.append(
        halver(x_BHWC, condition) if self.simple else halver.conv(x_BHWC)
      )
    return outputs


class MidBlock(Module):
  """ResNet, attention, ResNet: `UNetMidBlock2D[Simple]CrossAttn`.

  The first ResNet alone where nothing attends: `UNetMidBlock2D`.
  """

  def __init__(self, level: Level):
    num = 2 if level.attends else 1
    self.resnets = ModuleList(
      [ResNet(level, d_in=level.dim) for _ in range(num)]
    )
    self.attentions = _attentions(level, 1)

  def __call__(self, x_BHWC: jax.Array, condition: Condition) -> jax.Array:
    """(B, H, W, C) -> the same."""
    x_BHWC = self.resnets[0](x_BHWC, condition)
    if self.attentions is None:
      return x_BHWC
    x_BHWC = self.attentions[0](x_BHWC, condition)
    return self.resnets[1](x_BHWC, condition)


class UpBlock(Module):
  """Layers that join skips, then twice the size.

  `[CrossAttn]UpBlock2D`, `ResnetUpsampleBlock2D` and
  `SimpleCrossAttnUpBlock2D`.
  """

  def __init__(
    self, level: Level, *, d_in: int, d_skips: list[int], upsample: bool
  ):
    widths = [d_in] + [level.dim] * (len(d_skips) - 1)
    self.simple = level.simple
    self.resnets = ModuleList(
      [
        ResNet(level, d_in=d + skip)
        for d, skip in zip(widths, d_skips, strict=True)
      ]
    )
    self.attentions = _attentions(level, len(d_skips))
    self.upsamplers = _resamplers(level, double) if upsample else None

  def __call__(
    self, x_BHWC: jax.Array, skips: list[jax.Array], condition: Condition
  ) -> jax.Array:
    """Takes its skips from the end of `skips`, which it shortens."""
    for i, resnet in enumerate(self.resnets):
      x_BHWC = jnp.concatenate([x_BHWC, skips.pop()], axis=-1)
      x_BHWC = resnet(x_BHWC, condition)
      if self.attentions is not None:
        x_BHWC = self.attentions[i](x_BHWC, condition)
    if self.upsamplers is None:
      return x_BHWC
    if self.simple:
      return self.upsamplers[0](x_BHWC, condition)
    _, height, width, _ = skips[-1].shape  # odd sizes were rounded up
    return self.upsamplers[0].conv(double(x_BHWC)[:, :height, :width])


class _Resample(Module):
  def __init__(self, dim, *, stride):
    self.conv = Conv2d(dim, dim, 3, stride=stride)


def _resamplers(level: Level, resample: Callable) -> Any:
  if level.simple:
    return ModuleList([ResNet(level, d_in=level.dim, resample=resample)])
  stride = 2 if resample is halve else 1
  return ModuleList([_Resample(level.dim, stride=stride)])


def _attentions(level: Level, num: int) -> Any:
  if not level.attends:
    return None
  if level.simple:
    return ModuleList([AddedAttention(level) for _ in range(num)])
  return ModuleList([Transformer(level, layer=i) for i in range(num)])
