# SPDX-License-Identifier: Apache-2.0
"""The autoencoder of latent diffusion, from a published `AutoencoderKL`.

Rombach et al. 2022, "High-resolution image synthesis with latent diffusion
models", section 3.1 and appendix G. Attribute paths are the names in the
published file. How latents are scaled before they are denoised is applied in
`suti/pipeline/codec.py`, which large pictures go through piece by piece
(`vae_tiles.in_tiles`). The loss is not here.

Shape suffixes: B batch, H W height and width, C channels, S positions (H x W
row by row).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from suti.config.values import check_kinds
from suti.models.unet_layers import Attention, Level, ResNet
from suti.nn.layers import ACTIVATIONS, Conv2d, GroupNorm
from suti.nn.param import Module, ModuleList

_DEFAULTS = {
  "in_channels": 3,
  "out_channels": 3,
  "down_block_types": ("DownEncoderBlock2D",),
  "up_block_types": ("UpDecoderBlock2D",),
  "block_out_channels": (64,),
  "layers_per_block": 1,
  "act_fn": "silu",
  "latent_channels": 4,
  "norm_num_groups": 32,
  "use_quant_conv": True,
  "use_post_quant_conv": True,
  "mid_block_add_attention": True,
}
# What `suti.pipeline.codec` reads: how latents are scaled, and the best size of
# a tile.
_OF_CODEC = {
  "sample_size": 512,
  "scaling_factor": 0.18215,
  "shift_factor": -1.0,  # any number
  "latents_mean": (-1.0,),  # any numbers
  "latents_std": (0.18215,),
}
# Says that float16 will not do: ours are decoded in the dtype of its arrays,
# which is float32.
_PASSED_OVER = {"force_upcast": True}
_KNOWN = _DEFAULTS | _OF_CODEC | _PASSED_OVER
# May be null, as if they were not there.
_OPTIONAL = ("sample_size", "shift_factor", "latents_mean", "latents_std")
_EPS = 1e-6
_LAST_ACT = ACTIVATIONS["silu"]  # whatever the config's act_fn is

# Files from before 2023 name the projections of an attention otherwise.
RENAMES = {
  r"(\.attentions\.\d+)\.query\.": r"\1.to_q.",
  r"(\.attentions\.\d+)\.key\.": r"\1.to_k.",
  r"(\.attentions\.\d+)\.value\.": r"\1.to_v.",
  r"(\.attentions\.\d+)\.proj_attn\.": r"\1.to_out.0.",
}


def declare_autoencoder(config: Mapping[str, Any]) -> "Autoencoder":
  """Declares an autoencoder from its published config.

  Args:
    config: as in vae/config.json; what is absent has the publisher's default.

  Returns:
    A module without arrays, with the methods `encode` and `decode`.

  Raises:
    ValueError: the config has a key or a value that is not supported; the
      message names all of them.
  """
  config = {k: v for k, v in config.items() if not k.startswith("_")}
  problems = [
    f"{key}={value!r}" for key, value in config.items() if key not in _KNOWN
  ]
  config = _DEFAULTS | config
  given = {
    key: value
    for key, value in config.items()
    if value is not None or key not in _OPTIONAL
  }
  check_kinds(given, _KNOWN, what="an autoencoder")
  _check_statistics(given)
  num_levels = len(config["block_out_channels"])
  problems += [
    f"{key}={config[key]!r}"
    for key in ("down_block_types", "up_block_types")
    if tuple(config[key]) != _DEFAULTS[key] * num_levels
  ]
  if config["act_fn"] not in ACTIVATIONS:
    problems.append(f"act_fn={config['act_fn']!r}")
  if problems:
    raise ValueError(
      f"This autoencoder config is not supported in {', '.join(problems)}: "
      f"known are the keys of AutoencoderKL, {num_levels} widths needing as "
      "many DownEncoderBlock2D and UpDecoderBlock2D."
    )
  return Autoencoder(config)


def _check_statistics(config: Mapping[str, Any]) -> None:
  """Sees that a config has a mean and a deviation for each channel, or none.

  Raises:
    ValueError: it has others.
  """
  channels = config["latent_channels"]
  for key in ("latents_mean", "latents_std"):
    if key in config and len(config[key]) != channels:
      raise ValueError(
        f"{key} of an autoencoder has {len(config[key])} numbers: it must have "
        f"one for each of the latent_channels={channels}."
      )
  if 0 in config.get("latents_std", ()):
    raise ValueError(
      "latents_std of an autoencoder has a 0, by which latents would be "
      "divided: correct it, or fetch the file again."
    )


class Autoencoder(Module):
  """`encoder`, `quant_conv`, `post_quant_conv`, `decoder`."""

  def __init__(self, config: Mapping[str, Any]):
    channels = config["latent_channels"]
    self.encoder = _Encoder(config)
    self.decoder = _Decoder(config)
    self.quant_conv = (
      Conv2d(2 * channels, 2 * channels, 1)
      if config["use_quant_conv"]
      else None
    )
    self.post_quant_conv = (
      Conv2d(channels, channels, 1) if config["use_post_quant_conv"] else None
    )

  def encode(self, x_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pictures -> the posterior of their latents.

    Args:
      x_BHWC: (B, H, W, in_channels), about [-1, 1].

    Returns:
      mean_BHWC and log_variance_BHWC, the latter within [-30, 20]; each side
      is halved once for every width but the last.
    """
    return split_moments(self.moments(x_BHWC))

  def moments(self, x_BHWC: jax.Array) -> jax.Array:
    """Pictures -> mean and log-variance of `encode`, joined and not clipped."""
    x_BHWC = self.encoder(x_BHWC)
    if self.quant_conv is not None:
      x_BHWC = self.quant_conv(x_BHWC)
    return x_BHWC

  def decode(self, z_BHWC: jax.Array) -> jax.Array:
    """Latents, not scaled -> pictures, about [-1, 1]."""
    if self.post_quant_conv is not None:
      z_BHWC = self.post_quant_conv(z_BHWC)
    return self.decoder(z_BHWC)


def split_moments(x_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What `moments` returns -> what `encode` returns."""
  mean_BHWC, log_variance_BHWC = jnp.split(x_BHWC, 2, axis=-1)
  return mean_BHWC, jnp.clip(log_variance_BHWC, -30.0, 20.0)


class _Encoder(Module):
  def __init__(self, config):
    dims = list(config["block_out_channels"])
    levels = [_level(config, dim) for dim in dims]
    self.conv_in = Conv2d(config["in_channels"], dims[0], 3)
    self.down_blocks = ModuleList(
      [
        _DownBlock(
          level,
          d_in=dims[max(i - 1, 0)],
          num_layers=config["layers_per_block"],
          downsample=i < len(dims) - 1,
        )
        for i, level in enumerate(levels)
      ]
    )
    self.mid_block = _MidBlock(levels[-1], config["mid_block_add_attention"])
    self.conv_norm_out = GroupNorm(
      config["norm_num_groups"], dims[-1], eps=_EPS
    )
    self.conv_out = Conv2d(dims[-1], 2 * config["latent_channels"], 3)

  def __call__(self, x_BHWC):
    x_BHWC = self.conv_in(x_BHWC)
    for block in self.down_blocks:
      x_BHWC = block(x_BHWC)
    x_BHWC = self.mid_block(x_BHWC)
    return self.conv_out(_LAST_ACT(self.conv_norm_out(x_BHWC)))


class _Decoder(Module):
  def __init__(self, config):
    dims = list(config["block_out_channels"])[::-1]
    levels = [_level(config, dim) for dim in dims]
    self.conv_in = Conv2d(config["latent_channels"], dims[0], 3)
    self.mid_block = _MidBlock(levels[0], config["mid_block_add_attention"])
    self.up_blocks = ModuleList(
      [
        _UpBlock(
          level,
          d_in=dims[max(i - 1, 0)],
          num_layers=config["layers_per_block"] + 1,
          upsample=i < len(dims) - 1,
        )
        for i, level in enumerate(levels)
      ]
    )
    self.conv_norm_out = GroupNorm(
      config["norm_num_groups"], dims[-1], eps=_EPS
    )
    self.conv_out = Conv2d(dims[-1], config["out_channels"], 3)

  def __call__(self, x_BHWC):
    x_BHWC = self.mid_block(self.conv_in(x_BHWC))
    for block in self.up_blocks:
      x_BHWC = block(x_BHWC)
    return self.conv_out(_LAST_ACT(self.conv_norm_out(x_BHWC)))


class _DownBlock(Module):
  """Layers, then half the size: `DownEncoderBlock2D`."""

  def __init__(self, level, *, d_in, num_layers, downsample):
    self.resnets = _resnets(level, d_in=d_in, num_layers=num_layers)
    self.downsamplers = (
      ModuleList([_Resample(level.dim, stride=2, padding=0)])
      if downsample
      else None
    )

  def __call__(self, x_BHWC):
    for resnet in self.resnets:
      x_BHWC = resnet(x_BHWC)
    if self.downsamplers is not None:
      # The publisher pads on two sides alone.
      x_BHWC = jnp.pad(x_BHWC, ((0, 0), (0, 1), (0, 1), (0, 0)))
      x_BHWC = self.downsamplers[0].conv(x_BHWC)
    return x_BHWC


class _UpBlock(Module):
  """Layers, then twice the size: `UpDecoderBlock2D`."""

  def __init__(self, level, *, d_in, num_layers, upsample):
    self.resnets = _resnets(level, d_in=d_in, num_layers=num_layers)
    self.upsamplers = (
      ModuleList([_Resample(level.dim, stride=1, padding=1)])
      if upsample
      else None
    )

  def __call__(self, x_BHWC):
    for resnet in self.resnets:
      x_BHWC = resnet(x_BHWC)
    if self.upsamplers is not None:
      x_BHWC = x_BHWC.repeat(2, axis=1).repeat(2, axis=2)
      x_BHWC = self.upsamplers[0].conv(x_BHWC)
    return x_BHWC


class _MidBlock(Module):
  """ResNet, attention, ResNet: `UNetMidBlock2D`."""

  def __init__(self, level, attends):
    self.attentions = ModuleList([_SelfAttention(level)]) if attends else None
    self.resnets = _resnets(level, d_in=level.dim, num_layers=2)

  def __call__(self, x_BHWC):
    x_BHWC = self.resnets[0](x_BHWC)
    if self.attentions is not None:
      x_BHWC = self.attentions[0](x_BHWC)
    return self.resnets[1](x_BHWC)


class _SelfAttention(Attention):
  """One head over all positions, normalised before and added after."""

  def __init__(self, level):
    super().__init__(level.dim, num_heads=1, bias=True)
    self.group_norm = GroupNorm(level.num_groups, level.dim, eps=level.eps)

  def __call__(self, x_BHWC):
    batch, height, width, dim = x_BHWC.shape
    h_BSD = self.group_norm(x_BHWC).reshape(batch, height * width, dim)
    h_BSD = super().__call__(h_BSD, h_BSD)
    return x_BHWC + h_BSD.reshape(x_BHWC.shape)


class _Resample(Module):
  def __init__(self, dim, *, stride, padding):
    self.conv = Conv2d(dim, dim, 3, stride=stride, padding=padding)


def _resnets(level, *, d_in, num_layers):
  widths = [d_in] + [level.dim] * (num_layers - 1)
  return ModuleList([ResNet(level, d_in=d) for d in widths])


def _level(config, dim):
  """A level of the U-Net's kind, without time and text."""
  return Level(
    dim=dim,
    num_layers=config["layers_per_block"],
    attends=False,
    num_heads=1,
    num_transformers=0,
    text_dim=0,
    time_dim=0,
    num_groups=config["norm_num_groups"],
    eps=_EPS,
    act=config["act_fn"],
    linear_projection=False,
  )
