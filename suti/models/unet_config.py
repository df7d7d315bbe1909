# SPDX-License-Identifier: Apache-2.0
"""Which published U-Net configs are supported, and what they say of each level.

Keys, defaults and peculiarities are those of `UNet2DConditionModel`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from suti.config.values import check_kinds
from suti.models.unet_layers import Level
from suti.nn.layers import ACTIVATIONS

_DEFAULTS = {
  "in_channels": 4,
  "out_channels": 4,
  "center_input_sample": False,
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
  "mid_block_type": "UNetMidBlock2DCrossAttn",
  "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
  "only_cross_attention": False,
  "block_out_channels": (320, 640, 1280, 1280),
  "layers_per_block": 2,
  "mid_block_scale_factor": 1.0,
  "act_fn": "silu",
  "norm_num_groups": 32,
  "norm_eps": 1e-5,
  "cross_attention_dim": 1280,
  "transformer_layers_per_block": 1,
  "encoder_hid_dim": None,
  "encoder_hid_dim_type": None,
  "attention_head_dim": 8,
  "use_linear_projection": False,
  "class_embed_type": None,
  "num_class_embeds": None,
  "addition_embed_type": None,
  "addition_embed_type_num_heads": 64,
  "addition_time_embed_dim": None,
  "projection_class_embeddings_input_dim": None,
  "resnet_time_scale_shift": "default",
  "resnet_skip_time_act": False,
  "resnet_out_scale_factor": 1.0,
  "time_embedding_dim": None,
  "time_embedding_act_fn": None,
  "cross_attention_norm": None,
}
_CHOICES = {
  "mid_block_type": (
    "UNetMidBlock2DCrossAttn",
    "UNetMidBlock2DSimpleCrossAttn",
  ),
  "act_fn": tuple(ACTIVATIONS),
  "encoder_hid_dim_type": (None, "text_proj"),
  "class_embed_type": (None, "timestep"),
  "addition_embed_type": (None, "text", "text_time"),
  "resnet_time_scale_shift": ("default", "scale_shift"),
  "time_embedding_act_fn": (None, *ACTIVATIONS),
  "cross_attention_norm": (None, "group_norm"),
  # May be present, but with these values alone: others need code.
  "downsample_padding": (1,),
  "mid_block_only_cross_attention": (None,),
  "reverse_transformer_layers_per_block": (None,),
  "num_attention_heads": (None,),
  "dual_cross_attention": (False,),
  "class_embeddings_concat": (False,),
  "time_embedding_type": ("positional",),
  "timestep_post_act": (None,),
  "time_cond_proj_dim": (None,),
  "conv_in_kernel": (3,),
  "conv_out_kernel": (3,),
  "attention_type": ("default",),
}
# Without a value where there is no such layer.
_SIZES = (
  "encoder_hid_dim",
  "addition_time_embed_dim",
  "projection_class_embeddings_input_dim",
  "time_embedding_dim",
)
# One value, or one for each level.
_PER_LEVEL = (
  "only_cross_attention",
  "layers_per_block",
  "cross_attention_dim",
  "transformer_layers_per_block",
  "attention_head_dim",
)
# Say nothing about the function that we compute: the softmax is in float32
# anyway, and there is no dropout.
_IGNORED = {"sample_size", "dropout", "upcast_attention"}

# Block -> whether it attends, whether it is IF's kind.
_DOWN = {
  "DownBlock2D": (False, False),
  "CrossAttnDownBlock2D": (True, False),
  "ResnetDownsampleBlock2D": (False, True),
  "SimpleCrossAttnDownBlock2D": (True, True),
}
_UP = {
  "UpBlock2D": (False, False),
  "CrossAttnUpBlock2D": (True, False),
  "ResnetUpsampleBlock2D": (False, True),
  "SimpleCrossAttnUpBlock2D": (True, True),
}


class Levels(NamedTuple):
  """All blocks of a U-Net in the order of computation."""

  downs: list[Level]
  mid: Level
  ups: list[Level]


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
  """Gives a config the publisher's defaults.

  Args:
    config: as in unet/config.json.

  Returns:
    The config with every key that matters.

  Raises:
    ValueError: it has a key or a value that is not supported; the message
      names all of them.
  """
  given = {
    key: value
    for key, value in config.items()
    if not key.startswith("_") and key not in _IGNORED
  }
  config = _DEFAULTS | given
  sizes = dict.fromkeys((k for k in _SIZES if config[k] is not None), 1)
  check_kinds(config, _DEFAULTS | sizes, what="a U-Net", per_level=_PER_LEVEL)
  num_levels = len(config["block_out_channels"])
  wrong = {
    key
    for key, value in config.items()
    if (key not in _DEFAULTS and key not in _CHOICES)
    or (key in _CHOICES and value not in _CHOICES[key])
  }
  for key, known in (("down_block_types", _DOWN), ("up_block_types", _UP)):
    if len(config[key]) != num_levels or not set(config[key]) <= set(known):
      wrong.add(key)
  for key in _PER_LEVEL:
    if not isinstance(config[key], int) and len(config[key]) != num_levels:
      wrong.add(key)
  # There the publisher reads a list of head widths in two orders.
  if not isinstance(config["attention_head_dim"], int) and any(
    kind.startswith("Simple") for kind in config["up_block_types"]
  ):
    wrong.add("attention_head_dim")
  if config["encoder_hid_dim_type"] and not config["encoder_hid_dim"]:
    wrong.add("encoder_hid_dim")
  if config["addition_embed_type"] == "text_time":
    wrong |= {
      key
      for key in (
        "addition_time_embed_dim",
        "projection_class_embeddings_input_dim",
      )
      if not config[key]
    }
  if wrong:
    problems = ", ".join(f"{k}={v!r}" for k, v in config.items() if k in wrong)
    raise ValueError(
      f"This U-Net config is not supported in {problems}: known are the keys "
      "and blocks of Stable Diffusion 1, 2 and XL and of DeepFloyd IF, "
      f"{num_levels} widths needing as many down and up blocks, and lists as "
      "many entries."
    )
  if not config["time_embedding_dim"]:
    config["time_embedding_dim"] = 4 * config["block_out_channels"][0]
  return config


def make_levels(config: Mapping[str, Any]) -> Levels:
  """Reads the blocks out of a complete config.

  Raises:
    ValueError: heads do not fit a width.
  """
  last = len(config["block_out_channels"]) - 1
  simple_mid = config["mid_block_type"] == "UNetMidBlock2DSimpleCrossAttn"
  only_cross = config["only_cross_attention"]
  mid = _level(config, last, attends=True, simple=simple_mid)._replace(
    # A list says nothing about the middle.
    only_cross=simple_mid and only_cross is True,
    scale=config["mid_block_scale_factor"],
  )
  downs, ups = (
    [
      _level(config, i, attends=known[kind][0], simple=known[kind][1])
      for i, kind in zip(order, kinds, strict=True)
    ]
    for known, kinds, order in (
      (_DOWN, config["down_block_types"], range(last + 1)),
      (_UP, config["up_block_types"], range(last, -1, -1)),
    )
  )
  return Levels(downs, mid, ups)


def _level(config, i, *, attends, simple):
  def at(key):
    value = config[key]
    return value[i] if isinstance(value, list | tuple) else value

  dim = at("block_out_channels")
  # Despite its name, what Stable Diffusion's configs say is their number.
  heads, meaning = at("attention_head_dim"), "the number of heads"
  if simple:
    meaning = "the width of a head"
  if attends and dim % heads:
    raise ValueError(
      f"attention_head_dim={heads} ({meaning}) does not divide "
      f"block_out_channels[{i}]={dim}."
    )
  return Level(
    dim=dim,
    num_layers=at("layers_per_block"),
    attends=attends,
    num_heads=dim // heads if simple else heads,
    num_transformers=at("transformer_layers_per_block"),
    text_dim=at("cross_attention_dim"),
    time_dim=config["time_embedding_dim"],
    num_groups=config["norm_num_groups"],
    eps=config["norm_eps"],
    act=config["act_fn"],
    linear_projection=config["use_linear_projection"],
    simple=simple,
    only_cross=at("only_cross_attention"),
    text_norm=config["cross_attention_norm"] is not None,
    scale_shift=config["resnet_time_scale_shift"] == "scale_shift",
    skip_time_act=simple and config["resnet_skip_time_act"],
    scale=config["resnet_out_scale_factor"] if simple else 1.0,
  )
