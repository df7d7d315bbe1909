# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1.5: 859,520,964 parameters on 64x64 latents, CLIP ViT-L/14.

The published configs of stable-diffusion-v1-5/stable-diffusion-v1-5, without
the keys that say what every config of their kind says.
"""

from typing import Any

from ml_collections import ConfigDict

TEXT_ENCODER = {
  "architectures": ["CLIPTextModel"],
  "model_type": "clip_text_model",
  "vocab_size": 49408,
  "hidden_size": 768,
  "intermediate_size": 3072,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "max_position_embeddings": 77,
  "hidden_act": "quick_gelu",
  "projection_dim": 768,
}
VAE = {
  "_class_name": "AutoencoderKL",
  "act_fn": "silu",
  "block_out_channels": [128, 256, 512, 512],
  "down_block_types": ["DownEncoderBlock2D"] * 4,
  "up_block_types": ["UpDecoderBlock2D"] * 4,
  "in_channels": 3,
  "out_channels": 3,
  "latent_channels": 4,
  "layers_per_block": 2,
  "norm_num_groups": 32,
  "sample_size": 512,
  "scaling_factor": 0.18215,
}
SCHEDULER = {
  "_class_name": "PNDMScheduler",
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "num_train_timesteps": 1000,
}


def get_config() -> ConfigDict:
  """{folder of a part: its config}."""
  unet: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 64,
  }
  return ConfigDict(
    {
      "unet": unet,
      "vae": VAE,
      "text_encoder": TEXT_ENCODER,
      "scheduler": SCHEDULER,
    }
  )
