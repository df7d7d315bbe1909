# SPDX-License-Identifier: Apache-2.0
"""Text-to-image base of SubjectWorld: 64 px, as 16 x 16 patches of pixels.

Command to run:
  python -m suti.pretrain.text_to_image \
      --config configs/pretrain/text_to_image.py --workdir runs/pretrain
"""

import ml_collections

from configs.pretrain import pool


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The shipped base; `:gpu` on a large GPU, `:tiny` a few steps for tests."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.size_px = 64
  config.dtype = "float32"
  config.pool = pool.get_config("text_to_image")
  # A subject a picture: a base is to know shapes and colours in general. A
  # third of the pictures are more than one template says.
  config.pool.num_subjects, config.pool.shots_each = 65_536, 1
  config.pool.compositions, config.pool.styles = 0.2, 0.12
  # Shares of texts: as DreamBench's prompts are, "a dog in the snow"; with the
  # subject's colours and parts; in the many ways in which people put it.
  config.texts = dict(plain=0.4, detailed=0.3, other_words=0.3)
  config.text_dropout = 0.1
  # Pixels a side of a patch, one position of the U-Net's input.
  config.patch_size = 4
  # The error of v, capped; steps where layout and parts are decided. On these
  # axes Karras et al. (arXiv 2206.00364, table 1) centre 64 px at a log SNR of
  # 2.4 with a deviation of 2.4.
  config.weighting = "snr_plus_one"
  config.snr_gamma = 200.0
  config.log_snr = (-0.5, 2.0)  # mean, deviation; None is uniform steps
  # A base to go on from, of the same kind: a shipped model's name or a folder;
  # "" starts from random weights.
  config.init = ""
  config.guidance = 3.0

  config.batch_size = 32
  # The shipped base was trained to 5,000, on to 7,000 and on to 9,500: each end
  # has its fall of the rate, and the next run goes on from its checkpoint.
  config.num_steps = 9_500
  config.optimizer = "muon"
  config.learning_rate = 2e-3
  config.warmup_steps = 150
  config.weight_decay = 0.01
  config.grad_clip = 1.0
  config.ema = 0.9995
  config.log_every = 50
  config.checkpoint_every = 500

  config.unet = _unet()
  config.text_encoder = _text_encoder()
  config.scheduler = dict(
    _class_name="DDIMScheduler",
    num_train_timesteps=1000,
    beta_schedule="squaredcos_cap_v2",
    # The picture, as SuTI's equations have it.
    prediction_type="sample",
  )
  if arg == "gpu":
    # Minutes of one large GPU, by its arithmetic: it has not run there.
    config.dtype = "bfloat16"
    config.pool.num_subjects = 262_144
    config.batch_size, config.num_steps = 512, 12_000
    config.learning_rate, config.warmup_steps = 4e-3, 500
    config.log_every, config.checkpoint_every = 100, 1000
  if arg == "tiny":
    _shorten(config)
  return config


def _shorten(config: ml_collections.ConfigDict) -> None:
  """The least of everything."""
  config.pool.num_subjects, config.pool.shots_each = 16, 4
  config.batch_size, config.num_steps = 4, 4
  config.warmup_steps, config.log_every, config.checkpoint_every = 1, 1, 2
  config.unet.update(
    block_out_channels=(16,),
    attention_head_dim=(1,),
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    transformer_layers_per_block=1,
  )
  config.text_encoder.num_hidden_layers = 1


def _unet() -> dict:
  """9.2M parameters."""
  return dict(
    _class_name="UNet2DConditionModel",
    sample_size=16,
    in_channels=48,
    out_channels=48,
    block_out_channels=(96, 160),
    layers_per_block=1,
    # Convolutions at 16 x 16 make edges and hide the seams of patches;
    # attention at 8 x 8 has most of the products.
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    mid_block_type="UNetMidBlock2DCrossAttn",
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=2,
    # diffusers reads this as the number of heads: 32 channels a head.
    attention_head_dim=(3, 5),
    cross_attention_dim=160,
    # The pooled text joins the time, as in DeepFloyd IF: every block reads it.
    addition_embed_type="text",
    addition_embed_type_num_heads=5,
    norm_num_groups=16,
    use_linear_projection=True,
    resnet_time_scale_shift="scale_shift",
    flip_sin_to_cos=True,
    freq_shift=0,
    act_fn="silu",
  )


def _text_encoder() -> dict:
  """1.2M parameters, which learn with the net."""
  return dict(
    architectures=("CLIPTextModel",),
    model_type="clip_text_model",
    hidden_size=160,
    intermediate_size=640,
    num_hidden_layers=3,
    num_attention_heads=5,
    max_position_embeddings=32,
    vocab_size=1536,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=1,
  )
