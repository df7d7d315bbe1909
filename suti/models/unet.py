# SPDX-License-Identifier: Apache-2.0
"""The text-conditioned U-Net, built from a published `UNet2DConditionModel`.

Rombach et al. 2022, "High-resolution image synthesis with latent diffusion
models", sections 3.2 and 3.3; Stable Diffusion 1 and 2 are instances. Attribute
paths are the names in the published file. Noise schedules and guidance are not
here; the additional embeddings of SDXL and the blocks of IF are not either.

Shape suffixes: B batch, H W height and width, C channels, L text tokens, D
width.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.models.unet_blocks import DownBlock, MidBlock, UpBlock
from suti.models.unet_layers import SMALL, Condition, Level
from suti.nn.layers import ACTIVATIONS, Conv2d, GroupNorm, Linear
from suti.nn.param import Module, ModuleList

_DEFAULTS = {
  "in_channels": 4,
  "out_channels": 4,
  "center_input_sample": False,
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
  "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
  "block_out_channels": (320, 640, 1280, 1280),
  "layers_per_block": 2,
  "mid_block_scale_factor": 1,
  "act_fn": "silu",
  "norm_num_groups": 32,
  "norm_eps": 1e-5,
  "cross_attention_dim": 1280,
  "transformer_layers_per_block": 1,
  "attention_head_dim": 8,
  "use_linear_projection": False,
}
# Keys that may be present, but with these values alone: others need code.
_FIXED = {
  "mid_block_type": "UNetMidBlock2DCrossAttn",
  "downsample_padding": 1,
  "only_cross_attention": False,
  "mid_block_only_cross_attention": None,
  "reverse_transformer_layers_per_block": None,
  "encoder_hid_dim": None,
  "encoder_hid_dim_type": None,
  "num_attention_heads": None,
  "dual_cross_attention": False,
  "class_embed_type": None,
  "class_embeddings_concat": False,
  "num_class_embeds": None,
  "projection_class_embeddings_input_dim": None,
  "addition_embed_type": None,
  "addition_time_embed_dim": None,
  "resnet_time_scale_shift": "default",
  "resnet_skip_time_act": False,
  "resnet_out_scale_factor": 1,
  "time_embedding_type": "positional",
  "time_embedding_dim": None,
  "time_embedding_act_fn": None,
  "timestep_post_act": None,
  "time_cond_proj_dim": None,
  "conv_in_kernel": 3,
  "conv_out_kernel": 3,
  "attention_type": "default",
  "cross_attention_norm": None,
}
# Say nothing about the function that we compute: the softmax is in float32
# anyway, and there is no dropout.
_IGNORED = {
  "sample_size",
  "dropout",
  "upcast_attention",
  "addition_embed_type_num_heads",
}
_DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
_UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}


def declare_unet(config: Mapping[str, Any]) -> "UNet":
  """Declares a U-Net from its published config.

  Args:
    config: as in unet/config.json; what is absent has the publisher's default.
      `attention_head_dim` is the number of heads there, despite its name.

  Returns:
    A module without arrays, with the methods `__call__` and `encode`.

  Raises:
    ValueError: the config has a key or a value that is not supported; all such
      are named at once.
  """
  config = {k: v for k, v in config.items() if not k.startswith("_")}
  problems = [
    f"{key}={value!r}"
    for key, value in config.items()
    if key not in _DEFAULTS
    and key not in _IGNORED
    and not (key in _FIXED and value == _FIXED[key])
  ]
  config = _DEFAULTS | config
  num_levels = len(config["block_out_channels"])
  problems += [
    f"{key}={config[key]!r}"
    for key, known in (("down_block_types", _DOWN), ("up_block_types", _UP))
    if len(config[key]) != num_levels or not set(config[key]) <= set(known)
  ]
  if config["act_fn"] not in ACTIVATIONS:
    problems.append(f"act_fn={config['act_fn']!r}")
  if problems:
    raise ValueError(
      f"This U-Net config is not supported in {', '.join(problems)}: known are "
      f"the keys and blocks of Stable Diffusion 1 and 2, {num_levels} widths "
      "needing as many down and up blocks."
    )
  return UNet(config)


class UNet(Module):
  """`conv_in`, `time_embedding`, `{down,mid,up}_block[s]`, `conv_out`."""

  def __init__(self, config: Mapping[str, Any]):
    dims = list(config["block_out_channels"])
    self.center = config["center_input_sample"]
    self.act = config["act_fn"]
    self.freq_dim = dims[0]
    self.flip = config["flip_sin_to_cos"]
    self.freq_shift = config["freq_shift"]
    downs = [
      _level(config, i, attends=_DOWN[kind])
      for i, kind in enumerate(config["down_block_types"])
    ]
    ups = [
      _level(config, len(dims) - 1 - i, attends=_UP[kind])
      for i, kind in enumerate(config["up_block_types"])
    ]
    last = len(dims) - 1
    groups, eps = config["norm_num_groups"], config["norm_eps"]

    self.conv_in = Conv2d(config["in_channels"], dims[0], 3)
    self.time_embedding = _TimeEmbedding(dims[0], 4 * dims[0], self.act)
    self.down_blocks = ModuleList(
      [
        DownBlock(level, d_in=dims[max(i - 1, 0)], downsample=i < last)
        for i, level in enumerate(downs)
      ]
    )
    self.mid_block = MidBlock(downs[-1], scale=config["mid_block_scale_factor"])
    # Skips are met in reverse: an up block has its level's own outputs and,
    # last, what the level was given.
    self.up_blocks = ModuleList(
      [
        UpBlock(
          level,
          d_in=dims[min(last - i + 1, last)],
          d_skips=[level.dim] * level.num_layers + [dims[max(last - i - 1, 0)]],
          upsample=i < last,
        )
        for i, level in enumerate(ups)
      ]
    )
    self.conv_norm_out = GroupNorm(groups, dims[0], eps=eps)
    self.conv_out = Conv2d(dims[0], config["out_channels"], 3, init=SMALL)

  def __call__(
    self,
    x_BHWC: jax.Array,
    t_B: jax.Array,
    text_BLD: jax.Array,
    *,
    text_mask_BL: jax.Array | None = None,
    context: Any = None,
  ) -> jax.Array:
    """Predicts noise, velocity or image, as the net was trained to.

    Args:
      x_BHWC: noisy images or latents.
      t_B: steps of the noise schedule, integers or floats.
      text_BLD: states of the text encoder.
      text_mask_BL: which tokens are attended to, bool; None is all of them, as
        Stable Diffusion has it.
      context: handed to adapters; None leaves them out.

    Returns:
      (B, H, W, out_channels) in the dtype of the parameters.
    """
    condition = self._condition(t_B, text_BLD, text_mask_BL, context)
    x_BHWC, skips, _ = self._descend(x_BHWC, condition)
    for block in self.up_blocks:
      x_BHWC = block(x_BHWC, skips, condition)
    return self.conv_out(ACTIVATIONS[self.act](self.conv_norm_out(x_BHWC)))

  def encode(
    self,
    x_BHWC: jax.Array,
    t_B: jax.Array,
    text_BLD: jax.Array,
    *,
    text_mask_BL: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Runs the way down alone, for its features.

    Args:
      x_BHWC, t_B, text_BLD, text_mask_BL: as in a call.

    Returns:
      `{"down_blocks.0": h_BHWC, ..., "mid_block": h_BHWC}`: after the layers of
      each down block, before its downsampler, and after the middle.
    """
    condition = self._condition(t_B, text_BLD, text_mask_BL, None)
    return self._descend(x_BHWC, condition)[2]

  def _condition(self, t_B, text_BLD, text_mask_BL, context):
    freqs_BD = time_frequencies(
      t_B, self.freq_dim, flip=self.flip, shift=self.freq_shift
    )
    mask = None if text_mask_BL is None else text_mask_BL[:, None, None, :]
    return Condition(self.time_embedding(freqs_BD), text_BLD, mask, context)

  def _descend(self, x_BHWC, condition):
    if self.center:
      x_BHWC = 2 * x_BHWC - 1
    x_BHWC = self.conv_in(x_BHWC)
    skips, features = [x_BHWC], {}
    for i, block in enumerate(self.down_blocks):
      outputs = block(x_BHWC, condition)
      features[f"down_blocks.{i}"] = outputs[len(block.resnets) - 1]
      skips += outputs
      x_BHWC = outputs[-1]
    x_BHWC = features["mid_block"] = self.mid_block(x_BHWC, condition)
    return x_BHWC, skips, features


def time_frequencies(
  t_B: jax.Array, dim: int, *, flip: bool = True, shift: float = 0
) -> jax.Array:
  """Sines and cosines of a time (Vaswani et al. 2017, section 3.5).

  Args:
    t_B: times, integers or floats.
    dim: width of the result, even.
    flip: cosines first.
    shift: taken from the number of frequencies; 0 ends just above 1/10000.

  Returns:
    float32 (B, dim).
  """
  half = dim // 2
  freqs_D = np.exp(-math.log(10_000) * np.arange(half) / (half - shift))
  angles_BD = t_B[:, None].astype(jnp.float32) * freqs_D.astype(np.float32)
  parts = [jnp.sin(angles_BD), jnp.cos(angles_BD)]
  return jnp.concatenate(parts[::-1] if flip else parts, axis=-1)


class _TimeEmbedding(Module):
  def __init__(self, d_in, dim, act):
    self.act = act
    self.linear_1 = Linear(d_in, dim)
    self.linear_2 = Linear(dim, dim)

  def __call__(self, x_BD):
    return self.linear_2(ACTIVATIONS[self.act](self.linear_1(x_BD)))


def _level(config, i, *, attends):
  def at(key):
    value = config[key]
    return value[i] if isinstance(value, list | tuple) else value

  dim, num_heads = at("block_out_channels"), at("attention_head_dim")
  if attends and dim % num_heads:
    raise ValueError(
      f"attention_head_dim={num_heads} (the number of heads) does not divide "
      f"block_out_channels[{i}]={dim}."
    )
  return Level(
    dim=dim,
    num_layers=at("layers_per_block"),
    attends=attends,
    num_heads=num_heads,
    num_transformers=at("transformer_layers_per_block"),
    text_dim=at("cross_attention_dim"),
    time_dim=4 * config["block_out_channels"][0],
    num_groups=config["norm_num_groups"],
    eps=config["norm_eps"],
    act=config["act_fn"],
    linear_projection=config["use_linear_projection"],
  )
