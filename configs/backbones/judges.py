# SPDX-License-Identifier: Apache-2.0
"""The judges of the paper: CLIP ViT-L/14, and DINO ViT-S/16 of its benchmark.

The published configs of openai/clip-vit-large-patch14 and facebook/dino-vits16.
Beside them what an IP-Adapter sees pictures through, CLIP ViT-H/14: that of
models/image_encoder in h94/IP-Adapter.
"""

from ml_collections import ConfigDict

from configs.backbones import sd15


def get_clip() -> ConfigDict:
  """CLIP's config."""
  vision = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
  }
  return ConfigDict(
    {
      "architectures": ["CLIPModel"],
      "model_type": "clip",
      "projection_dim": 768,
      "text_config": sd15.TEXT_ENCODER,
      "vision_config": vision,
    }
  )


def get_image_encoder() -> ConfigDict:
  """The config of an IP-Adapter's image encoder."""
  return ConfigDict(
    {
      "architectures": ["CLIPVisionModelWithProjection"],
      "model_type": "clip_vision_model",
      "hidden_size": 1280,
      "intermediate_size": 5120,
      "num_hidden_layers": 32,
      "num_attention_heads": 16,
      "image_size": 224,
      "patch_size": 14,
      "hidden_act": "gelu",
      "projection_dim": 1024,
    }
  )


def get_identity() -> ConfigDict:
  """DINO's config."""
  return ConfigDict(
    {
      "architectures": ["ViTModel"],
      "model_type": "vit",
      "hidden_size": 384,
      "intermediate_size": 1536,
      "num_hidden_layers": 12,
      "num_attention_heads": 6,
      "image_size": 224,
      "patch_size": 16,
    }
  )
