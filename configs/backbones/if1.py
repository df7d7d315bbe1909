# SPDX-License-Identifier: Apache-2.0
"""DeepFloyd IF-I-L: 935,365,830 parameters on 64x64 pixels, T5-XXL.

The published configs of DeepFloyd/IF-I-XL-v1.0, without the keys that say what
every config of their kind says, and with the widths of L: of its own no copy
could be read, and their number of parameters is the published 0.9B.
"""

from ml_collections import ConfigDict

from configs.backbones import imagen64


def get_config() -> ConfigDict:
  """{folder of a part: its config}."""
  unet = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,
    "attention_head_dim": 64,
    "block_out_channels": [320, 640, 960, 1280],
    "cross_attention_dim": 1280,
    "cross_attention_norm": "group_norm",
    "down_block_types": ["ResnetDownsampleBlock2D"]
    + ["SimpleCrossAttnDownBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 3
    + ["ResnetUpsampleBlock2D"],
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "in_channels": 3,
    "out_channels": 6,  # beside the noise a variance
    "layers_per_block": 3,
    "norm_num_groups": 32,
    "resnet_time_scale_shift": "scale_shift",
    "sample_size": 64,
  }
  scheduler = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": True,
    "dynamic_thresholding_ratio": 0.95,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.5,
    "thresholding": True,
    "variance_type": "learned_range",
  }
  return ConfigDict(
    {"unet": unet, "text_encoder": imagen64.T5_XXL, "scheduler": scheduler}
  )
