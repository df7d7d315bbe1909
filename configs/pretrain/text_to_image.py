# SPDX-License-Identifier: Apache-2.0
"""Text-to-image base of SubjectWorld: 64 px, on 8 x 8 latents.

Command to run:
  python -m suti.pretrain.text_to_image \
      --config configs/pretrain/text_to_image.py --workdir runs/pretrain
"""

import ml_collections

from configs.pretrain import pool


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The shipped base; `:tiny` is a few steps, for tests."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.size_px = 64
  config.dtype = "float32"
  config.pool = pool.get_config("text_to_image")
  # Share of examples whose caption describes the subject; the rest is "a dog
  # in the snow", as DreamBench's prompts are.
  config.detailed = 0.4
  config.text_dropout = 0.1
  config.weighting = "clamped_snr"
  # A base to go on from, with the same autoencoder: a shipped model's name or a
  # folder; "" starts from random weights.
  config.init = ""
  config.guidance = 3.0

  config.batch_size = 32
  config.num_steps = 5_000
  config.learning_rate = 8e-4
  config.warmup_steps = 300
  config.weight_decay = 0.01
  config.grad_clip = 1.0
  config.ema = 0.999
  config.log_every = 50
  config.checkpoint_every = 500

  config.unet = dict(
    _class_name="UNet2DConditionModel",
    sample_size=8,
    in_channels=16,
    out_channels=16,
    block_out_channels=(128, 128),
    layers_per_block=1,
    # Attention on the 8x8 grid; of the 4x4 grid the middle has enough.
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    mid_block_type="UNetMidBlock2DCrossAttn",
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    # diffusers reads this as the number of heads: 32 channels a head.
    attention_head_dim=(4, 4),
    cross_attention_dim=160,
    norm_num_groups=16,
    use_linear_projection=True,
    flip_sin_to_cos=True,
    freq_shift=0,
    act_fn="silu",
  )
  config.text_encoder = dict(
    architectures=("CLIPTextModel",),
    model_type="clip_text_model",
    hidden_size=160,
    intermediate_size=640,
    num_hidden_layers=3,
    num_attention_heads=5,
    max_position_embeddings=32,
    vocab_size=1024,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=1,
  )
  config.scheduler = dict(
    _class_name="DDIMScheduler",
    num_train_timesteps=1000,
    beta_schedule="squaredcos_cap_v2",
    # The picture, as SuTI's equations have it.
    prediction_type="sample",
  )
  if arg == "tiny":
    config.pool.num_subjects, config.pool.shots_each = 16, 4
    config.batch_size, config.num_steps = 4, 4
    config.warmup_steps, config.log_every, config.checkpoint_every = 1, 1, 2
    config.unet.block_out_channels, config.unet.attention_head_dim = (16,), (1,)
    config.unet.down_block_types = ("CrossAttnDownBlock2D",)
    config.unet.up_block_types = ("CrossAttnUpBlock2D",)
    config.text_encoder.num_hidden_layers = 1
  return config
