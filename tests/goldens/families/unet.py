# SPDX-License-Identifier: Apache-2.0
"""The U-Net: UNet2DConditionModel of diffusers."""

import jax
import jax.numpy as jnp
import numpy as np

from suti.models import unet
from tests.goldens import drawing, theirs
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

declare = unet.declare_unet
RENAMES = {}

CASES = {
  "unet_sd1": (_SD1, (2, 8, 8, 4)),
  "unet_sd2": (_SD2, (2, 8, 12, 4)),
  "unet_odd": (_ODD, (2, 7, 9, 4)),
}
PUBLISHED = {
  "stable-diffusion-v1-5": {"cross_attention_dim": 768},
  "stable-diffusion-2-1": {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
    "upcast_attention": True,
  },
}


def inputs(case: str) -> dict[str, np.ndarray]:
  """What the case's model is called with; images are NHWC."""
  config, shape = CASES[case]
  values = {
    "x": drawing.normal(f"{case}.x", shape),
    "t": np.array([1, 873], np.int32),
    "text": drawing.normal(
      f"{case}.text", (shape[0], 5, config["cross_attention_dim"])
    ),
    "target": drawing.normal(
      f"{case}.target", (*shape[:3], config["out_channels"])
    ),
  }
  if case != "unet_sd1":  # Stable Diffusion attends to padding too
    values["text_mask"] = np.arange(5)[None] < np.array([[5], [2]])
  return values


# --- Ours --------------------------------------------------------------------


def call(spec, apply):
  # One program: most of a tiny model's time is the compiler's.
  @jax.jit
  def run_all(params, x, t, text, target, text_mask=None):
    features = apply(
      params, x, t, text, text_mask_BL=text_mask, method="encode"
    )

    def loss(params):
      out = apply(params, x, t, text, text_mask_BL=text_mask)
      return jnp.square(out - target).mean(), out

    gradients, out = jax.grad(loss, has_aux=True)(params)
    return out, features, gradients

  def call(params, **values):
    out, features, gradients = run_all(params, **values)
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


def published(model) -> dict:
  """Its tensors under the names of the published file."""
  return dict(model.state_dict())


def fill(model, values: dict[str, np.ndarray]):
  """The model with these tensors of the published file."""
  model.load_state_dict(theirs.tensors(values))
  return model


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
  model.mid_block.register_forward_hook(
    lambda _, inputs, output: features.update(mid_block=theirs.nhwc(output))
  )
  arguments = (
    values["x"].permute(0, 3, 1, 2),
    values["t"].long(),
    values["text"],
  )
  mask = values.get("text_mask")
  out = model(*arguments, encoder_attention_mask=mask).sample
  outputs = {"out": theirs.nhwc(out)}
  outputs |= {f"encode.{name}": value for name, value in features.items()}
  target = values["target"].permute(0, 3, 1, 2)
  ((out - target) ** 2).mean().backward()
  for name, value in model.named_parameters():
    outputs[f"gradient.{name}"] = value.grad.numpy()
  return outputs
