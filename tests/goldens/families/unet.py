# SPDX-License-Identifier: Apache-2.0
"""The U-Net: UNet2DConditionModel of diffusers."""

import jax
import jax.numpy as jnp
import numpy as np

from suti.models import unet
from suti.models.unet_embeddings import Added
from tests.goldens import drawing, theirs, unets
from tests.goldens.ours import published_layout

# As Stable Diffusion 1.5 has it, but for sizes.
_SD1 = {
  "_class_name": "UNet2DConditionModel",
  "_diffusers_version": "0.6.0",
  "act_fn": "silu",
  "attention_head_dim": 2,
  "block_out_channels": [8, 16],
  "center_input_sample": False,
  "cross_attention_dim": 12,
  "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
  "downsample_padding": 1,
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "in_channels": 4,
  "layers_per_block": 1,
  "mid_block_scale_factor": 1,
  "norm_eps": 1e-05,
  "norm_num_groups": 4,
  "out_channels": 4,
  "sample_size": 8,
  "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
# What Stable Diffusion 2.1's config adds, and settings that neither uses.
_SD2 = _SD1 | {
  "attention_head_dim": [2, 4],
  "down_block_types": ["CrossAttnDownBlock2D"] * 2,
  "dual_cross_attention": False,
  "num_class_embeds": None,
  "only_cross_attention": False,
  "up_block_types": ["CrossAttnUpBlock2D"] * 2,
  "upcast_attention": True,
  "use_linear_projection": True,
}
_ODD = _SD1 | {
  "attention_head_dim": 4,
  "block_out_channels": [8, 12],
  "center_input_sample": True,
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
  "flip_sin_to_cos": False,
  "freq_shift": 1,
  "layers_per_block": [1, 2],
  "mid_block_scale_factor": 1.4,
  "norm_eps": 1e-6,
  "out_channels": 6,
  "transformer_layers_per_block": [1, 2],
  "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}

_INPAINT = _SD1 | {
  "block_out_channels": [8],
  "down_block_types": ["CrossAttnDownBlock2D"],
  "in_channels": 9,
  "up_block_types": ["CrossAttnUpBlock2D"],
}
# The upscaler of Stable Diffusion 2: noise levels are classes, and some levels
# attend to the text alone.
_UPSCALER = _SD1 | {
  "down_block_types": ["CrossAttnDownBlock2D"] * 2,
  "in_channels": 7,
  "num_class_embeds": 10,
  "only_cross_attention": [True, False],
  "up_block_types": ["CrossAttnUpBlock2D"] * 2,
  "use_linear_projection": True,
}
_SDXL = _SD1 | {
  "addition_embed_type": "text_time",
  "addition_time_embed_dim": 4,
  "attention_head_dim": [1, 2, 4],
  "block_out_channels": [8, 16, 16],
  "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
  "projection_class_embeddings_input_dim": 6 + 6 * 4,
  "transformer_layers_per_block": [1, 1, 2],
  "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
  "upcast_attention": None,
  "use_linear_projection": True,
}
_IF1 = {
  "_class_name": "UNet2DConditionModel",
  "act_fn": "gelu",
  "addition_embed_type": "text",
  "addition_embed_type_num_heads": 2,
  "attention_head_dim": 4,
  "block_out_channels": [8, 16],
  "cross_attention_dim": 32,  # in 32 groups, whatever norm_num_groups is
  "cross_attention_norm": "group_norm",
  "down_block_types": [
    "ResnetDownsampleBlock2D",
    "SimpleCrossAttnDownBlock2D",
  ],
  "encoder_hid_dim": 10,
  "encoder_hid_dim_type": "text_proj",
  "in_channels": 3,
  "layers_per_block": 1,
  "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
  "norm_num_groups": 4,
  "out_channels": 6,
  "resnet_time_scale_shift": "scale_shift",
  "sample_size": 8,
  "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
}
# Two settings that IF's second stage does not have: attention to the text alone
# and, so that they differ, a width of the time.
_IF2 = _IF1 | {
  "class_embed_type": "timestep",
  "in_channels": 6,
  "layers_per_block": [1, 2],
  "mid_block_scale_factor": 1.4,
  "only_cross_attention": True,
  "resnet_out_scale_factor": 1.5,
  "resnet_skip_time_act": True,
  "time_embedding_act_fn": "gelu",
  "time_embedding_dim": 24,
}
# What no published net has: both kinds of blocks, of which one alone reads
# resnet_skip_time_act and resnet_out_scale_factor.
_MIXED = _IF2 | {
  "addition_embed_type_num_heads": 4,
  "class_embed_type": None,
  "cross_attention_norm": None,
  "down_block_types": ["CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"],
  "encoder_hid_dim": None,
  "encoder_hid_dim_type": None,
  "mid_block_type": "UNetMidBlock2DCrossAttn",
  "norm_eps": 1e-3,
  "only_cross_attention": False,
  "time_embedding_act_fn": None,
  "up_block_types": ["ResnetUpsampleBlock2D", "CrossAttnUpBlock2D"],
}

# Distilled nets: without a middle, or with one ResNet there, and with another
# number of transformer blocks in every layer (SSD-1B, Segmind-Vega, BK-SDM).
_NO_MIDDLE = _SD1 | {"mid_block_type": None}
_NESTED = _SD1 | {
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
  "layers_per_block": [1, 2],
  "mid_block_scale_factor": 1.4,
  "mid_block_type": "UNetMidBlock2D",
  "reverse_transformer_layers_per_block": [[2, 1, 0], 1],
  "transformer_layers_per_block": [0, [1, 2]],
  "up_block_types": ["CrossAttnUpBlock2D"] * 2,
}
_NESTED_MIDDLE = _NESTED | {
  "down_block_types": ["CrossAttnDownBlock2D"] * 2,
  "layers_per_block": 1,
  "mid_block_type": "UNetMidBlock2DCrossAttn",
  # What is beyond the layers is not read.
  "transformer_layers_per_block": [[1], [2, 5]],
}

declare = unet.declare_unet
RENAMES = {}

CASES = {
  "unet_sd1": (_SD1, (2, 8, 8, 4)),
  "unet_sd2": (_SD2, (2, 8, 12, 4)),
  "unet_odd": (_ODD, (2, 7, 9, 4)),
  "unet_inpaint": (_INPAINT, (2, 8, 8, 9)),
  "unet_upscaler": (_UPSCALER, (2, 8, 8, 7)),
  "unet_sdxl": (_SDXL, (2, 8, 8, 4)),
  "unet_if1": (_IF1, (2, 8, 8, 3)),
  "unet_if2": (_IF2, (2, 8, 12, 6)),
  "unet_mixed": (_MIXED, (2, 8, 8, 6)),
  "unet_no_middle": (_NO_MIDDLE, (2, 8, 8, 4)),
  "unet_nested": (_NESTED, (2, 8, 8, 4)),
  "unet_nested_middle": (_NESTED_MIDDLE, (2, 8, 8, 4)),
}
# Without a text mask: as Stable Diffusion is called, and where the publisher's
# code does not hand the mask to all attentions to the text.
_UNMASKED = ("unet_sd1", "unet_inpaint", "unet_upscaler", "unet_if2")
PUBLISHED = unets.PUBLISHED


def inputs(case: str) -> dict[str, np.ndarray]:
  """What the case's model is called with; images are NHWC."""
  config, shape = CASES[case]
  values = {
    "x": drawing.normal(f"{case}.x", shape),
    "t": np.array([1, 873], np.int32),
    "text": drawing.normal(
      f"{case}.text",
      (
        shape[0],
        5,
        config.get("encoder_hid_dim") or config["cross_attention_dim"],
      ),
    ),
    "target": drawing.normal(
      f"{case}.target", (*shape[:3], config["out_channels"])
    ),
  }
  if case not in _UNMASKED:
    values["text_mask"] = np.arange(5)[None] < np.array([[5], [2]])
  if config.get("class_embed_type") or config.get("num_class_embeds"):
    values["class"] = np.array([0, 7], np.int32)
  if config.get("addition_embed_type") == "text_time":
    values["pooled"] = drawing.normal(f"{case}.pooled", (shape[0], 6))
    values["sizes"] = np.array(
      [[64, 48, 0, 8, 64, 64], [32, 32, 0, 0, 48, 64]], np.int32
    )
  return values


# --- Ours --------------------------------------------------------------------


def call(spec, apply):
  # One program: most of a tiny model's time is the compiler's.
  @jax.jit
  def run_all(params, x, t, text, target, conditioning):
    features = apply(params, x, t, text, **conditioning, method="encode")

    def loss(params):
      out = apply(params, x, t, text, **conditioning)
      return jnp.square(out - target).mean(), out

    gradients, out = jax.grad(loss, has_aux=True)(params)
    return out, features, gradients

  def call(params, *, x, t, text, target, text_mask=None, **values):
    added = Added(
      pooled_BD=values.get("pooled"),
      time_ids_BI=values.get("sizes"),
      class_labels_B=values.get("class"),
    )
    conditioning = {"text_mask_BL": text_mask, "added": added}
    out, features, gradients = run_all(params, x, t, text, target, conditioning)
    outputs = {"out": out}
    outputs |= {f"encode.{name}": value for name, value in features.items()}
    for name, value in gradients.items():
      outputs[f"gradient.{name}"] = published_layout(spec[name], value)
    return outputs

  return call


# --- Theirs ------------------------------------------------------------------


def build(config: dict):
  """The publisher's model, whatever its weights."""
  import diffusers

  return diffusers.UNet2DConditionModel(
    **theirs.diffusers_config(config)
  ).eval()


published = theirs.states
fill = theirs.filled


def run(model, values: dict) -> dict[str, np.ndarray]:
  features = {}

  def keep(name, index):
    def hook(_, inputs, output):
      features[name] = theirs.nhwc(output[index][-1] if index else inputs[0])

    return hook

  # What a down block's downsampler is given; of the last one, what it returns.
  for i, block in enumerate(model.down_blocks):
    if block.downsamplers is not None:
      block.downsamplers[0].register_forward_hook(keep(f"down_blocks.{i}", 0))
    else:
      block.register_forward_hook(keep(f"down_blocks.{i}", 1))
  # Where there is no middle, its features are what it would be given.
  (model.mid_block or model.down_blocks[-1]).register_forward_hook(
    lambda _, inputs, output: features.update(
      mid_block=theirs.nhwc(output if model.mid_block else output[0])
    )
  )
  arguments = (
    values["x"].permute(0, 3, 1, 2),
    values["t"].long(),
    values["text"],
  )
  out = model(
    *arguments,
    encoder_attention_mask=values.get("text_mask"),
    class_labels=values["class"].long() if "class" in values else None,
    added_cond_kwargs={
      "text_embeds": values.get("pooled"),
      "time_ids": values.get("sizes"),
    },
  ).sample
  outputs = {"out": theirs.nhwc(out)}
  outputs |= {f"encode.{name}": value for name, value in features.items()}
  target = values["target"].permute(0, 3, 1, 2)
  ((out - target) ** 2).mean().backward()
  for name, value in model.named_parameters():
    outputs[f"gradient.{name}"] = value.grad.numpy()
  return outputs
