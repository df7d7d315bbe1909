# SPDX-License-Identifier: Apache-2.0
"""A net of the shape of Imagen's 64 px model: 2.1B parameters, T5-XXL's texts.

Imagen (arXiv 2205.11487) is not public. What its paper describes, and how
others have built it: a U-Net on pixels, 512 channels times 1, 2, 3, 4, three
residual blocks a level, self-attention at 32, 16 and 8 px whose keys and values
take in the text tokens, a pooled text added to the time, and a frozen T5-XXL.
DeepFloyd IF is such a net and published, so this is a config of IF's classes.
`choice` marks what the paper leaves open. It has 2,125,500,419 parameters; the
paper (SuTI, arXiv 2304.00186) gives 2.1B.
"""

from typing import Any

from ml_collections import ConfigDict

T5_XXL = {
  "architectures": ["T5EncoderModel"],
  "model_type": "t5",
  "vocab_size": 32128,
  "d_model": 4096,
  "d_kv": 64,
  "d_ff": 10240,
  "num_layers": 24,
  "num_heads": 64,
  "feed_forward_proj": "gated-gelu",
}


def get_config() -> ConfigDict:
  """{folder of a part: its config}."""
  unet: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,  # choice: IF's
    "attention_head_dim": 64,  # choice
    "block_out_channels": [512, 1024, 1536, 2048],
    # Width to which T5's states are brought, and of the time's embedding:
    # choices, with which the number of parameters is the paper's.
    "cross_attention_dim": 1024,
    "time_embedding_dim": 1024,
    "cross_attention_norm": "group_norm",  # choice: IF's
    "down_block_types": ["ResnetDownsampleBlock2D"]
    + ["SimpleCrossAttnDownBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 3
    + ["ResnetUpsampleBlock2D"],
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 3,
    "norm_num_groups": 32,  # choice
    "resnet_time_scale_shift": "scale_shift",  # choice
    "sample_size": 64,
  }
  scheduler = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "num_train_timesteps": 1000,  # choice: Imagen's time is continuous
    # As the paper writes its losses (eqs. 3 and 6): the net predicts x_0.
    "prediction_type": "sample",
  }
  return ConfigDict(
    {"unet": unet, "text_encoder": T5_XXL, "scheduler": scheduler}
  )
