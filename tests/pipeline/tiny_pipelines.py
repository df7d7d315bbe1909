# SPDX-License-Identifier: Apache-2.0
"""Tiny text-to-image models of every published kind, as folders.

Weights are drawn from their published names, so that the same model is written
wherever it is. diffusers opens these folders as they are.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import safetensors.numpy

from suti.hf.layout import published_shape
from suti.hf.model import FAMILIES
from suti.io.files import write_json
from suti.nn.param import functional
from tests import tiny
from tests.goldens import drawing
from tests.goldens.families.unet import CASES as UNETS

_STEPS = {"num_train_timesteps": 1000}
_SD_STEPS = _STEPS | {
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "clip_sample": False,
  "set_alpha_to_one": False,
  "steps_offset": 1,
}
_IF_STEPS = _STEPS | {
  "_class_name": "DDPMScheduler",
  "beta_schedule": "squaredcos_cap_v2",
  "clip_sample": True,
  "dynamic_thresholding_ratio": 0.95,
  "prediction_type": "epsilon",
  "sample_max_value": 1.5,
  "thresholding": True,
  "variance_type": "learned_range",
}
_TEXT = tiny.TEXT | {"architectures": ["CLIPTextModel"]}
_TEXT_2 = _TEXT | {
  "architectures": ["CLIPTextModelWithProjection"],
  "hidden_size": 8,
  "projection_dim": 6,
}
_T5 = {
  "architectures": ["T5EncoderModel"],
  "model_type": "t5",
  "d_ff": 12,
  "d_kv": 4,
  "d_model": 10,
  "feed_forward_proj": "gated-gelu",
  "num_heads": 2,
  "num_layers": 1,
  "vocab_size": tiny.TEXT["vocab_size"],
  "pad_token_id": 1,
}
_VAE = {
  "_class_name": "AutoencoderKL",
  "block_out_channels": [8, 8],
  "down_block_types": ["DownEncoderBlock2D"] * 2,
  "latent_channels": 4,
  "norm_num_groups": 4,
  "sample_size": 16,
  "up_block_types": ["UpDecoderBlock2D"] * 2,
}
# IF normalises a text in 32 groups: one channel a group would blow up what
# hardly differs between the tokens, rounding included.
_IF_WIDTH = {"cross_attention_dim": 128}
_TOKENIZER = ["transformers", "PreTrainedTokenizerFast"]


def _unet(case: str, **changes: Any) -> dict[str, Any]:
  # Of a version that does not put a small size right.
  small = {"_diffusers_version": "0.42.1", "sample_size": 8}
  return UNETS[case][0] | small | changes


# name -> (pipeline, its parts, its scheduler, more of model_index.json)
PIPELINES: dict[str, tuple[str, dict, dict, dict]] = {
  "sd1": (
    "StableDiffusionPipeline",
    {
      "unet": _unet("unet_sd1", cross_attention_dim=16),
      "vae": _VAE,
      "text_encoder": _TEXT,
    },
    _SD_STEPS | {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    {},
  ),
  "sd2": (
    "StableDiffusionPipeline",
    {
      "unet": _unet("unet_sd2", cross_attention_dim=16),
      "vae": _VAE,
      "text_encoder": _TEXT,
    },
    # As old files are, which its pipeline puts right: drawn with an offset of
    # 1 and unclipped.
    {k: v for k, v in _SD_STEPS.items() if k != "steps_offset"}
    | {
      "_class_name": "DDIMScheduler",
      "clip_sample": True,
      "prediction_type": "v_prediction",
    },
    {},
  ),
  "sdxl": (
    "StableDiffusionXLPipeline",
    {
      "unet": _unet("unet_sdxl", cross_attention_dim=24),
      "vae": _VAE | {"scaling_factor": 0.13025},
      "text_encoder": _TEXT,
      "text_encoder_2": _TEXT_2,
    },
    _SD_STEPS
    | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    {"force_zeros_for_empty_prompt": True},
  ),
  # With an autoencoder that says what its latents are like.
  "sdxl_normal": (
    "StableDiffusionXLPipeline",
    {
      "unet": _unet("unet_sdxl", cross_attention_dim=24),
      "vae": _VAE
      | {
        "scaling_factor": 0.5,
        "latents_mean": [-1.6, 0.9, 0.2, 3.0],
        "latents_std": [8.4, 5.8, 6.1, 4.4],
        "act_fn": "gelu",
      },
      "text_encoder": _TEXT,
      "text_encoder_2": _TEXT_2,
    },
    _SD_STEPS
    | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    {"force_zeros_for_empty_prompt": True},
  ),
  "if1": (
    "IFPipeline",
    {"unet": _unet("unet_if1", **_IF_WIDTH), "text_encoder": _T5},
    _IF_STEPS,
    {"requires_safety_checker": False},
  ),
  "if2": (
    "IFSuperResolutionPipeline",
    {
      "unet": _unet("unet_if2", **_IF_WIDTH, sample_size=16),
      "text_encoder": _T5,
    },
    _IF_STEPS,
    {"requires_safety_checker": False},
  ),
}


# A U-Net's changes, for tests that compile it often, or its training step.
ONE_LEVEL: dict[str, dict[str, Any]] = {
  "sd2": {
    "attention_head_dim": [2],
    "block_out_channels": [8],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
  },
  "sdxl": {
    "attention_head_dim": [2],
    "block_out_channels": [8],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "transformer_layers_per_block": [1],
    "up_block_types": ["CrossAttnUpBlock2D"],
  },
  "if1": {
    "block_out_channels": [8],
    "down_block_types": ["SimpleCrossAttnDownBlock2D"],
    "up_block_types": ["SimpleCrossAttnUpBlock2D"],
  },
}


def write(
  name: str, folder: pathlib.Path, *, unet: Mapping[str, Any] | None = None
) -> pathlib.Path:
  """Writes one of `PIPELINES`, with a changed U-Net; returns the folder."""
  kind, parts, scheduler, more = PIPELINES[name]
  parts = parts | {"unet": parts["unet"] | (unet or {})}
  index: dict[str, Any] = {"_class_name": kind, "_diffusers_version": "0.42.1"}
  for part, config in parts.items():
    class_name = _write_model(folder / part, config)
    library = "diffusers" if "_class_name" in config else "transformers"
    index[part] = [library, class_name]
    if part.startswith("text_encoder"):
      tokenizer = part.replace("text_encoder", "tokenizer")
      tiny.write_tokenizer(folder / tokenizer)
      index[tokenizer] = _TOKENIZER
  _write_scheduler(folder, "scheduler", scheduler, index)
  if name == "if2":
    noising = _STEPS | {
      "_class_name": "DDPMScheduler",
      "beta_schedule": "squaredcos_cap_v2",
    }
    _write_scheduler(folder, "image_noising_scheduler", noising, index)
  absent = ("safety_checker", "feature_extractor", "watermarker")
  if "sd" not in name:
    more = more | {name: [None, None] for name in absent}
  elif not name.startswith("sdxl"):
    more = more | {name: [None, None] for name in absent[:2]}
  write_json(folder / "model_index.json", index | more)
  return folder


def _write_scheduler(folder, name, config, index):
  write_json(folder / name / "scheduler_config.json", config)
  index[name] = ["diffusers", config["_class_name"]]


def _write_model(folder: pathlib.Path, config: Mapping[str, Any]) -> str:
  """Writes one model; returns its class."""
  name = config.get("_class_name") or config["architectures"][0]
  family = FAMILIES[name]
  spec, _ = functional(family.declare(config))
  # Names tell parts apart, but not the two text encoders of one family.
  weights = drawing.weights({k: published_shape(p) for k, p in spec.items()})
  write_json(folder / "config.json", config)
  safetensors.numpy.save_file(
    weights, folder / f"{family.stem}.safetensors", metadata={"format": "pt"}
  )
  return name
