# SPDX-License-Identifier: Apache-2.0
"""Random tiny models in the published layout, in a folder of the test's own.

They have every part that real ones have and no skill: 16 px pictures, a U-Net
of one or two levels on an 8x8 grid, one layer in each tower. A step takes
milliseconds.
"""

import pathlib

import jax
import jax.numpy as jnp

from suti.hf.model import FAMILIES, kind_of
from suti.hf.tokenizer import train_tokenizer
from suti.hf.weights import save
from suti.io.files import write_json
from suti.models.clip import declare_clip_text
from suti.models.unet import declare_unet
from suti.models.vae import declare_autoencoder
from suti.nn.param import functional, init

SIZE_PX = 16
PATCH = 2
_LENGTH = 16  # tokens of a text
_VOCABULARY = 320

UNET = {
  "_class_name": "UNet2DConditionModel",
  "sample_size": SIZE_PX // PATCH,
  "in_channels": 3 * PATCH**2,
  "out_channels": 3 * PATCH**2,
  "block_out_channels": [8, 16],
  "layers_per_block": 1,
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
  "mid_block_type": "UNetMidBlock2DCrossAttn",
  "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
  "attention_head_dim": [1, 2],
  "cross_attention_dim": 16,
  "norm_num_groups": 4,
  "use_linear_projection": True,
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "act_fn": "silu",
}
# What most tests take: half of that to compile, attention in every block.
ONE_LEVEL_UNET = UNET | {
  "block_out_channels": [8],
  "down_block_types": ["CrossAttnDownBlock2D"],
  "up_block_types": ["CrossAttnUpBlock2D"],
  "attention_head_dim": [2],
}
# What compiles fastest: one level, attention in the middle alone.
SMALLEST_UNET = UNET | {
  "block_out_channels": [4],
  "norm_num_groups": 2,
  "attention_head_dim": [1],
  "down_block_types": ["DownBlock2D"],
  "up_block_types": ["UpBlock2D"],
}
# In front of the first U-Net, in the place of patches.
VAE = {
  "_class_name": "AutoencoderKL",
  "in_channels": 3,
  "out_channels": 3,
  "latent_channels": 3 * PATCH**2,
  "block_out_channels": [8, 8],
  "down_block_types": ["DownEncoderBlock2D"] * 2,
  "up_block_types": ["UpDecoderBlock2D"] * 2,
  "norm_num_groups": 4,
  "scaling_factor": 0.8,
  "shift_factor": 0.1,
}
SCHEDULER = {
  "_class_name": "DDIMScheduler",
  "num_train_timesteps": 1000,
  "beta_schedule": "squaredcos_cap_v2",
  "prediction_type": "v_prediction",
}
TEXT = {
  "model_type": "clip_text_model",
  "hidden_size": 16,
  "intermediate_size": 32,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "max_position_embeddings": _LENGTH,
  "vocab_size": _VOCABULARY,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-5,
  "bos_token_id": 0,
  "eos_token_id": 1,
  "pad_token_id": 1,
}
VISION = {
  "hidden_size": 16,
  "intermediate_size": 32,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "image_size": SIZE_PX,
  "patch_size": 8,
  "num_channels": 3,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-5,
}
CLIP = {
  "model_type": "clip",
  "projection_dim": 16,
  "logit_scale_init_value": 2.6592,
  "text_config": TEXT | {"projection_dim": 16},
  "vision_config": VISION | {"projection_dim": 16},
}
IDENTITY = VISION | {"model_type": "vit", "qkv_bias": True}
PREPROCESSING = {
  "image_processor_type": "CLIPImageProcessor",
  "crop_size": {"height": SIZE_PX, "width": SIZE_PX},
  "size": {"shortest_edge": SIZE_PX},
  "image_mean": [0.5, 0.5, 0.5],
  "image_std": [0.5, 0.5, 0.5],
}
# Every word of the tests' prompts; other words are spelled in bytes.
_WORDS = "a photo of the dog cat teapot in on with snow beach red hat wearing"


def write_backbone(
  folder: pathlib.Path, *, seed: int = 0, unet=UNET
) -> pathlib.Path:
  """Writes unet/, text_encoder/, tokenizer/, scheduler/; returns the folder."""
  _write_model(
    folder / "unet",
    unet,
    declare_unet(unet),
    name="diffusion_pytorch_model",
    seed=seed,
  )
  _write_model(
    folder / "text_encoder", TEXT, declare_clip_text(TEXT), seed=seed + 1
  )
  write_tokenizer(folder / "tokenizer")
  write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
  write_json(
    folder / "model_index.json",
    {"_class_name": "PixelDiffusion", "patch_size": PATCH},
  )
  return folder


def write_latent_backbone(folder: pathlib.Path, *, unet=UNET) -> pathlib.Path:
  """The same with vae/, so that the U-Net works on latents."""
  write_backbone(folder, unet=unet)
  _write_model(
    folder / "vae",
    VAE,
    declare_autoencoder(VAE),
    name="diffusion_pytorch_model",
    seed=4,
  )
  write_json(folder / "model_index.json", {"_class_name": "LatentDiffusion"})
  return folder


def write_clip(
  folder: pathlib.Path, *, config=CLIP, pixels=PREPROCESSING, seed: int = 2
) -> pathlib.Path:
  """Writes a CLIP with both towers and its tokenizer; returns the folder."""
  write_tokenizer(folder)
  return write_encoder(folder, config, pixels=pixels, seed=seed)


def write_encoder(
  folder: pathlib.Path, config=IDENTITY, *, pixels=PREPROCESSING, seed: int = 3
) -> pathlib.Path:
  """Writes an encoder of pictures, of any family; returns the folder."""
  module = FAMILIES[kind_of(config)].declare(config)
  _write_model(folder, config, module, seed=seed)
  write_json(folder / "preprocessor_config.json", pixels)
  return folder


def _write_model(
  folder: pathlib.Path, config: dict, module, *, name="model", seed: int
) -> None:
  spec, _ = functional(module)
  params = init(spec, jax.random.key(seed))
  write_json(folder / "config.json", config)
  save(params, spec, folder / f"{name}.safetensors", dtype=jnp.float32)


def write_tokenizer(folder: pathlib.Path) -> None:
  """Writes a tokenizer that knows the words of the tests' prompts."""
  train_tokenizer(
    [_WORDS] * 3, folder, vocab_size=_VOCABULARY, max_length=_LENGTH
  )
