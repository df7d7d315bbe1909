# SPDX-License-Identifier: Apache-2.0
"""SDXL 1.0's base: 2,567,463,684 parameters on 128x128 latents, two CLIPs.

The published configs of stabilityai/stable-diffusion-xl-base-1.0, without the
keys that say what every config of their kind says.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.backbones import sd15


def get_config() -> ConfigDict:
  """{folder of a part: its config}."""
  unet: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
  }
  text_encoder_2 = sd15.TEXT_ENCODER | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
  }
  return ConfigDict(
    {
      "unet": unet,
      "vae": sd15.VAE | {"sample_size": 1024, "scaling_factor": 0.13025},
      "text_encoder": sd15.TEXT_ENCODER,
      "text_encoder_2": text_encoder_2,
      "scheduler": sd15.SCHEDULER,
    }
  )
