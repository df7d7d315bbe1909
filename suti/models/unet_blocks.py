# SPDX-License-Identifier: Apache-2.0
"""Down, mid and up blocks of the U-Net.

Which block has which width is decided in `unet.py`.

Shape suffixes: B batch, H W height and width, C channels.
"""

import jax
import jax.numpy as jnp

from suti.models.unet_layers import Condition, Level, ResNet, Transformer
from suti.nn.layers import Conv2d
from suti.nn.param import Module, ModuleList


class DownBlock(Module):
  """Layers, then half the size: `DownBlock2D` and `CrossAttnDownBlock2D`."""

  def __init__(self, level: Level, *, d_in: int, downsample: bool):
    widths = [d_in] + [level.dim] * (level.num_layers - 1)
    self.resnets = ModuleList([ResNet(level, d_in=d) for d in widths])
    self.attentions = _transformers(level, level.num_layers)
    self.downsamplers = (
      ModuleList([_Resample(level.dim, stride=2)]) if downsample else None
    )

  def __call__(self, x_BHWC: jax.Array, condition: Condition) -> list:
    """Returns the features after each layer, then the downsampled ones."""
    outputs = []
    for i, resnet in enumerate(self.resnets):
      x_BHWC = resnet(x_BHWC, condition)
      if self.attentions is not None:
        x_BHWC = self.attentions[i](x_BHWC, condition)
      outputs.append(x_BHWC)
    if self.downsamplers is not None:
      outputs.append(self.downsamplers[0].conv(x_BHWC))
    return outputs


class MidBlock(Module):
  """ResNet, attention, ResNet: `UNetMidBlock2DCrossAttn`."""

  def __init__(self, level: Level, *, scale: float):
    self.resnets = ModuleList(
      [ResNet(level, d_in=level.dim, scale=scale) for _ in range(2)]
    )
    self.attentions = ModuleList([Transformer(level)])

  def __call__(self, x_BHWC: jax.Array, condition: Condition) -> jax.Array:
    """(B, H, W, C) -> the same."""
    x_BHWC = self.resnets[0](x_BHWC, condition)
    x_BHWC = self.attentions[0](x_BHWC, condition)
    return self.resnets[1](x_BHWC, condition)


class UpBlock(Module):
  """Layers that join skips, then twice the size: `[CrossAttn]UpBlock2D`."""

  def __init__(
    self, level: Level, *, d_in: int, d_skips: list[int], upsample: bool
  ):
    widths = [d_in] + [level.dim] * (len(d_skips) - 1)
    self.resnets = ModuleList(
      [
        ResNet(level, d_in=d + skip)
        for d, skip in zip(widths, d_skips, strict=True)
      ]
    )
    self.attentions = _transformers(level, len(d_skips))
    self.upsamplers = (
      ModuleList([_Resample(level.dim, stride=1)]) if upsample else None
    )

  def __call__(
    self, x_BHWC: jax.Array, skips: list[jax.Array], condition: Condition
  ) -> jax.Array:
    """Takes its skips from the end of `skips`, which it shortens."""
    for i, resnet in enumerate(self.resnets):
      x_BHWC = jnp.concatenate([x_BHWC, skips.pop()], axis=-1)
      x_BHWC = resnet(x_BHWC, condition)
      if self.attentions is not None:
        x_BHWC = self.attentions[i](x_BHWC, condition)
    if self.upsamplers is not None:
      _, height, width, _ = skips[-1].shape  # odd sizes were rounded up
      x_BHWC = x_BHWC.repeat(2, axis=1).repeat(2, axis=2)
      x_BHWC = self.upsamplers[0].conv(x_BHWC[:, :height, :width])
    return x_BHWC


class _Resample(Module):
  def __init__(self, dim, *, stride):
    self.conv = Conv2d(dim, dim, 3, stride=stride)


def _transformers(level, num):
  if not level.attends:
    return None
  return ModuleList([Transformer(level) for _ in range(num)])
