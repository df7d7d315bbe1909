# SPDX-License-Identifier: Apache-2.0
"""Tiny models that are compared with the publishers' own code.

A case is a config and its inputs. Weights are not stored: both sides draw them
from their published names with `draw`. `make.py` ran the publishers' code on
them and stored names, shapes and outputs; the tests run ours. Nothing here
needs torch.
"""

import math
import zlib

import numpy as np

_TEXT = {
  "vocab_size": 60,
  "hidden_size": 16,
  "intermediate_size": 40,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "max_position_embeddings": 9,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
  "bos_token_id": 57,
  "pad_token_id": 58,
  "eos_token_id": 58,
}
_VISION = {
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "num_channels": 3,
  "image_size": 16,
  "patch_size": 4,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
}
_CLIP = {"projection_dim": 12, "text_config": _TEXT, "vision_config": _VISION}
_VIT = _VISION | {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
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
# As Stable Diffusion's, but for sizes; and with what later ones leave out.
_VAE = {
  "_class_name": "AutoencoderKL",
  "act_fn": "silu",
  "block_out_channels": [8, 12],
  "down_block_types": ["DownEncoderBlock2D"] * 2,
  "in_channels": 3,
  "latent_channels": 4,
  "layers_per_block": 1,
  "norm_num_groups": 4,
  "out_channels": 3,
  "sample_size": 16,
  "up_block_types": ["UpDecoderBlock2D"] * 2,
}
_VAE_BARE = _VAE | {
  "layers_per_block": 2,
  "mid_block_add_attention": False,
  "scaling_factor": 0.36,
  "use_post_quant_conv": False,
  "use_quant_conv": False,
}

# name -> (family, config, shape of the images or of the tokens)
CASES = {
  "unet_sd1": ("unet", _SD1, (2, 8, 8, 4)),
  "unet_sd2": ("unet", _SD2, (2, 8, 12, 4)),
  "unet_odd": ("unet", _ODD, (2, 7, 9, 4)),
  "vae": ("vae", _VAE, (2, 16, 12, 3)),
  "vae_bare": ("vae", _VAE_BARE, (2, 8, 8, 3)),
  "clip": ("clip", _CLIP, (2, 16, 16, 3)),
  "clip_old_end": (
    "clip",
    _CLIP | {"text_config": _TEXT | {"eos_token_id": 2, "hidden_act": "gelu"}},
    (2, 16, 16, 3),
  ),
  "clip_text": ("clip_text", _TEXT | {"hidden_act": "gelu"}, (2, 7)),
  "dino": ("dino", _VIT, (2, 16, 16, 3)),
  "dino_larger": ("dino", _VIT | {"qkv_bias": False}, (2, 24, 36, 3)),
}

# The real configs whose names and shapes `index.json.gz` holds.
PUBLISHED = {
  "stable-diffusion-v1-5": ("unet", {"cross_attention_dim": 768}),
  "stable-diffusion-2-1": (
    "unet",
    {
      "cross_attention_dim": 1024,
      "attention_head_dim": [5, 10, 20, 20],
      "use_linear_projection": True,
      "upcast_attention": True,
    },
  ),
  "stable-diffusion-v1-5-vae": (
    "vae",
    {
      "block_out_channels": [128, 256, 512, 512],
      "down_block_types": ["DownEncoderBlock2D"] * 4,
      "layers_per_block": 2,
      "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
  ),
  "clip-vit-large-patch14": (
    "clip",
    {
      "projection_dim": 768,
      "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
      },
      "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
      },
    },
  ),
  "dino-vits16": (
    "dino",
    {
      "hidden_size": 384,
      "intermediate_size": 1536,
      "num_attention_heads": 6,
    },
  ),
}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Draws a published tensor (or any other array) from its name, float32."""
  normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal
  array = np.asarray(normal(shape), np.float32)
  if len(shape) > 1:
    return array / np.float32(math.sqrt(math.prod(shape[1:])))
  if "norm" in name and name.endswith("weight"):
    return 1 + array / 4
  return np.asarray(array / 4)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Draws all tensors of a published file."""
  return {name: draw(name, tuple(shape)) for name, shape in shapes.items()}


def inputs(case: str) -> dict[str, np.ndarray]:
  """Returns what a case's model is called with; images are NHWC."""
  family, config, shape = CASES[case]
  unit = np.random.RandomState(zlib.crc32(case.encode()))
  if family == "unet":
    text_shape = (shape[0], 5, config["cross_attention_dim"])
    values = {
      "x": unit.standard_normal(shape).astype(np.float32),
      "t": np.array([1, 873], np.int32),
      "text": unit.standard_normal(text_shape).astype(np.float32),
      "target": unit.standard_normal(
        (*shape[:3], config["out_channels"])
      ).astype(np.float32),
    }
    if case != "unet_sd1":  # Stable Diffusion attends to padding too
      values["text_mask"] = np.arange(5)[None] < np.array([[5], [2]])
    return values
  if family == "vae":
    halved = 2 ** (len(config["block_out_channels"]) - 1)
    sides = [side // halved for side in shape[1:3]]
    z_shape = (shape[0], *sides, config["latent_channels"])
    return {
      "x": unit.standard_normal(shape).astype(np.float32),
      "z": unit.standard_normal(z_shape).astype(np.float32),
    }
  values = {"ids": _ids(shape[-1] if family == "clip_text" else 9)}
  if family != "clip_text":
    values["x"] = unit.standard_normal(shape).astype(np.float32)
  return values


def probe(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Replaces every gradient by its product with a drawn direction."""
  kept = {k: v for k, v in outputs.items() if not k.startswith("gradient.")}
  names = sorted(k for k in outputs if k.startswith("gradient."))
  if names:
    kept["gradients"] = np.array(
      [np.vdot(outputs[k], draw(k, outputs[k].shape)) for k in names],
      np.float32,
    )
  return kept


def _ids(length):
  """Two texts, padded with the end token as CLIP's tokenizer does."""
  ids = np.full((2, length), 58, np.int32)
  ids[:, 0] = 57
  ids[0, 1:4], ids[1, 1:6] = [7, 3, 3], [11, 56, 1, 0, 9]
  return ids
