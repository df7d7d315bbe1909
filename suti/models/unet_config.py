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
  "reverse_transformer_layers_per_block": None,
  "mid_block_only_cross_attention": None,
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
    "UNetMidBlock2D",  # of one ResNet; some distilled nets have nothing at all
    None,
  ),
  "mid_block_only_cross_attention": (None, False, True),
  "act_fn": tuple(ACTIVATIONS),
  "encoder_hid_dim_type": (None, "text_proj"),
  "class_embed_type": (None, "timestep"),
  "addition_embed_type": (None, "text", "text_time"),
  "resnet_time_scale_shift": ("default", "scale_shift"),
  "time_embedding_act_fn": (None, *ACTIVATIONS),
  "cross_attention_norm": (None, "group_norm"),
  # May be present, but with these values alone: others need code.
  "downsample_padding": (1,),
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
  "attention_head_dim",
)
# Of the way down and the middle; of the way up, None being the same backwards.
_TRANSFORMERS = (
  "transformer_layers_per_block",
  "reverse_transformer_layers_per_block",
)
# Passed over. A picture's size is the caller's matter
# (`suti.pipeline.backbone`); dropout is of training alone, and ours has none;
# the softmax is in float32 whether attention is to be upcast or not.
_PASSED_OVER = {"sample_size", "dropout", "upcast_attention"}

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
  mid: Level | None
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
    if not key.startswith("_") and key not in _PASSED_OVER
  }
  config = _DEFAULTS | given
  kinds = _DEFAULTS | dict.fromkeys(
    (k for k in _SIZES if config[k] is not None), 1
  )
  # Checked below: these are of more than one kind.
  kinds |= dict.fromkeys(("mid_block_type", *_TRANSFORMERS), None)
  check_kinds(config, kinds, what="a U-Net", per_level=_PER_LEVEL)
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
  if not _transformers_fit(config):
    down, up = _TRANSFORMERS
    wrong |= {down} if config[up] is None else {down, up}
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
  _check_times(config)
  if not config["time_embedding_dim"]:
    config["time_embedding_dim"] = 4 * config["block_out_channels"][0]
  return config


def _check_times(config: Mapping[str, Any]) -> None:
  """Sees that sines and cosines of times fill a vector.

  Raises:
    ValueError: they do not; the publisher pads such vectors, or divides by 0.
  """
  dims = {"block_out_channels[0]": config["block_out_channels"][0]}
  if config["addition_embed_type"] == "text_time":
    dims["addition_time_embed_dim"] = config["addition_time_embed_dim"]
  for key, dim in dims.items():
    if dim % 2:
      raise ValueError(
        f"{key}={dim} of a U-Net must be even: half of a time's embedding are "
        "sines, half are cosines."
      )
    if config["freq_shift"] >= dim // 2:
      raise ValueError(
        f"freq_shift={config['freq_shift']} of a U-Net must be below {dim // 2}"
        f", half of {key}."
      )


def _transformers_fit(config: Mapping[str, Any]) -> bool:
  """Whether both keys of `_TRANSFORMERS` say enough for all blocks.

  An entry is a number for all layers of a block, or a list of one for each.
  What is beyond them is not read, nor are entries of blocks that do not attend.
  """
  num_levels = len(config["block_out_channels"])
  down, up = (config[key] for key in _TRANSFORMERS)
  if not isinstance(down, list | tuple):
    down = [down] * num_levels
  if up is None:
    # As there: from lists of the way down, those of the way up do not follow.
    if any(isinstance(entry, list | tuple) for entry in down):
      return False
    up = down[::-1]
  nums = config["layers_per_block"]
  nums = [nums] * num_levels if isinstance(nums, int) else list(nums)
  for key, known, entries, layers in (
    ("down_block_types", _DOWN, down, nums),
    ("up_block_types", _UP, up, [num + 1 for num in nums[::-1]]),
  ):
    if not isinstance(entries, list | tuple) or len(entries) != num_levels:
      return False
    # Other lengths than these are refused where they are.
    for kind, entry, num in zip(config[key], entries, layers, strict=False):
      counts = entry if isinstance(entry, list | tuple) else [entry] * num
      reads = num if known.get(kind) == (True, False) else 1
      if len(counts) < reads or not all(map(_is_count, counts)):
        return False
  return True


def _is_count(value: Any) -> bool:
  return type(value) is int and 0 <= value <= 1000


def make_levels(config: Mapping[str, Any]) -> Levels:
  """Reads the blocks out of a complete config.

  Raises:
    ValueError: heads do not fit a width.
  """
  last = len(config["block_out_channels"]) - 1
  down, up = (config[key] for key in _TRANSFORMERS)
  if isinstance(down, int):
    down = [down] * (last + 1)
  mid = _mid_level(config, down[-1])
  downs = [
    _level(config, i, _DOWN[kind], transformers=down[i])
    for i, kind in enumerate(config["down_block_types"])
  ]
  up = down[::-1] if up is None else up
  ups = [
    _level(config, last - i, _UP[kind], transformers=up[i])
    for i, kind in enumerate(config["up_block_types"])
  ]
  return Levels(downs, mid, ups)


def _mid_level(config, transformers) -> Level | None:
  """The middle's, of the last level's width."""
  kind = config["mid_block_type"]
  if kind is None:
    return None
  simple = kind == "UNetMidBlock2DSimpleCrossAttn"
  attends = kind != "UNetMidBlock2D"
  only_cross = config["mid_block_only_cross_attention"]
  if only_cross is None:
    # A list says nothing about the middle.
    only_cross = config["only_cross_attention"] is True
  last = len(config["block_out_channels"]) - 1
  level = _level(config, last, (attends, simple), transformers=transformers)
  return level._replace(
    only_cross=simple and only_cross,
    scale=config["mid_block_scale_factor"],
  )


def _level(config, i, kind, *, transformers):
  attends, simple = kind

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
    num_transformers=transformers,
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
