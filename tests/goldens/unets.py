# SPDX-License-Identifier: Apache-2.0
"""The unet/config.json of real models, as published.

Of IF no copies but those of I-XL and II-L could be read. The others are derived
from these by their widths, which agree with the published parameter counts.

And a tiny one, for goldens of what goes beside a U-Net.
"""

TINY = {
  "act_fn": "silu",
  "attention_head_dim": 2,
  "block_out_channels": [8, 12],
  "cross_attention_dim": 16,
  "down_block_types": ["CrossAttnDownBlock2D"] * 2,
  "in_channels": 4,
  "layers_per_block": 1,
  "norm_num_groups": 4,
  "out_channels": 4,
  "sample_size": 8,
  "up_block_types": ["CrossAttnUpBlock2D"] * 2,
}

_SD1 = {
  "_class_name": "UNet2DConditionModel",
  "_diffusers_version": "0.6.0",
  "act_fn": "silu",
  "attention_head_dim": 8,
  "block_out_channels": [320, 640, 1280, 1280],
  "center_input_sample": False,
  "cross_attention_dim": 768,
  "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
  "downsample_padding": 1,
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "in_channels": 4,
  "layers_per_block": 2,
  "mid_block_scale_factor": 1,
  "norm_eps": 1e-05,
  "norm_num_groups": 32,
  "out_channels": 4,
  "sample_size": 64,
  "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_SD2 = _SD1 | {
  "_diffusers_version": "0.8.0",
  "attention_head_dim": [5, 10, 20, 20],
  "cross_attention_dim": 1024,
  "dual_cross_attention": False,
  "use_linear_projection": True,
}
# All keys of diffusers 0.19, most of which say nothing.
_MORE = {
  "_class_name": "UNet2DConditionModel",
  "_diffusers_version": "0.19.0.dev0",
  "addition_embed_type_num_heads": 64,
  "addition_time_embed_dim": None,
  "center_input_sample": False,
  "class_embed_type": None,
  "class_embeddings_concat": False,
  "conv_in_kernel": 3,
  "conv_out_kernel": 3,
  "downsample_padding": 1,
  "dual_cross_attention": False,
  "flip_sin_to_cos": True,
  "freq_shift": 0,
  "mid_block_only_cross_attention": None,
  "mid_block_scale_factor": 1,
  "norm_eps": 1e-05,
  "norm_num_groups": 32,
  "num_attention_heads": None,
  "num_class_embeds": None,
  "only_cross_attention": False,
  "projection_class_embeddings_input_dim": None,
  "resnet_out_scale_factor": 1.0,
  "resnet_skip_time_act": False,
  "time_cond_proj_dim": None,
  "time_embedding_act_fn": None,
  "time_embedding_dim": None,
  "time_embedding_type": "positional",
  "timestep_post_act": None,
}
_SDXL = _MORE | {
  "act_fn": "silu",
  "addition_embed_type": "text_time",
  "addition_time_embed_dim": 256,
  "attention_head_dim": [5, 10, 20],
  "block_out_channels": [320, 640, 1280],
  "cross_attention_dim": 2048,
  "cross_attention_norm": None,
  "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
  "encoder_hid_dim": None,
  "encoder_hid_dim_type": None,
  "in_channels": 4,
  "layers_per_block": 2,
  "mid_block_type": "UNetMidBlock2DCrossAttn",
  "out_channels": 4,
  "projection_class_embeddings_input_dim": 2816,
  "resnet_time_scale_shift": "default",
  "sample_size": 128,
  "transformer_layers_per_block": [1, 2, 10],
  "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
  "upcast_attention": None,
  "use_linear_projection": True,
}
_IF1 = _MORE | {
  "act_fn": "gelu",
  "addition_embed_type": "text",
  "attention_head_dim": 64,
  "block_out_channels": [704, 1408, 2112, 2816],
  "cross_attention_dim": 2816,
  "cross_attention_norm": "group_norm",
  "down_block_types": ["ResnetDownsampleBlock2D"]
  + ["SimpleCrossAttnDownBlock2D"] * 3,
  "encoder_hid_dim": 4096,
  "encoder_hid_dim_type": "text_proj",
  "in_channels": 3,
  "layers_per_block": 3,
  "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
  "out_channels": 6,
  "resnet_time_scale_shift": "scale_shift",
  "sample_size": 64,
  "transformer_layers_per_block": 1,
  "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 3
  + ["ResnetUpsampleBlock2D"],
  "upcast_attention": False,
  "use_linear_projection": False,
}
_IF2 = _IF1 | {
  "_diffusers_version": "0.18.0.dev0",
  "block_out_channels": [160, 320, 640, 960, 1280],
  "class_embed_type": "timestep",
  "cross_attention_dim": 1280,
  "down_block_types": ["ResnetDownsampleBlock2D"] * 3
  + ["SimpleCrossAttnDownBlock2D"] * 2,
  "in_channels": 6,
  "layers_per_block": [2, 2, 3, 5, 5],
  "mid_block_scale_factor": 1.4142271248762552,
  "resnet_out_scale_factor": 1.4142271248762552,
  "resnet_skip_time_act": True,
  "sample_size": 256,
  "time_embedding_act_fn": "gelu",
  "time_embedding_dim": 1280,
  "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 2
  + ["ResnetUpsampleBlock2D"] * 3,
}

PUBLISHED = {
  "stable-diffusion-v1-5": _SD1,
  "stable-diffusion-inpainting": _SD1 | {"in_channels": 9},
  "stable-diffusion-2-base": _SD2,
  "stable-diffusion-2-1": _SD2
  | {
    "_diffusers_version": "0.10.0.dev0",
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
  },
  "stable-diffusion-2-depth": _SD2
  | {"in_channels": 5, "num_class_embeds": None, "only_cross_attention": False},
  "stable-diffusion-x4-upscaler": _SD2
  | {
    "attention_head_dim": 8,
    "block_out_channels": [256, 512, 512, 1024],
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
    "in_channels": 7,
    "num_class_embeds": 1000,
    "only_cross_attention": [True, True, True, False],
    "sample_size": 128,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
  },
  "stable-diffusion-xl-base-1.0": _SDXL,
  "stable-diffusion-xl-refiner-1.0": _SDXL
  | {
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "down_block_types": ["DownBlock2D"]
    + ["CrossAttnDownBlock2D"] * 2
    + ["DownBlock2D"],
    "projection_class_embeddings_input_dim": 2560,
    "transformer_layers_per_block": 4,
    "up_block_types": ["UpBlock2D"]
    + ["CrossAttnUpBlock2D"] * 2
    + ["UpBlock2D"],
  },
  "IF-I-XL-v1.0": _IF1,
  "IF-I-L-v1.0": _IF1
  | {
    "block_out_channels": [320, 640, 960, 1280],
    "cross_attention_dim": 1280,
  },
  "IF-I-M-v1.0": _IF1
  | {"block_out_channels": [192, 384, 576, 768], "cross_attention_dim": 768},
  "IF-II-L-v1.0": _IF2,
  "IF-II-M-v1.0": _IF2
  | {
    "block_out_channels": [96, 192, 384, 576, 768],
    "cross_attention_dim": 768,
    "time_embedding_dim": 768,
  },
}
