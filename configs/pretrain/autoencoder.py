# SPDX-License-Identifier: Apache-2.0
"""Autoencoder of SubjectWorld: 64 px to 8 x 8 latents of 16 channels.

Command to run:
  python -m suti.pretrain.autoencoder \
      --config configs/pretrain/autoencoder.py --workdir runs/pretrain
"""

import ml_collections

from configs.pretrain import pool


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The shipped autoencoder; `:tiny` is a few steps, for tests."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.size_px = 64
  # The net starts on 4x4 pixel patches: convolutions at 64 px cost most.
  config.patch_size = 4
  config.pool = pool.get_config("text_to_image")
  # Weights of the loss beside that of the pixels.
  config.edges = 1.0
  config.kl = 5e-3

  # A picture is hundreds of patches, so that few pictures make a good gradient
  # and there is time for more steps.
  config.batch_size = 8
  config.num_steps = 7_000
  config.learning_rate = 1e-3
  config.warmup_steps = 200
  config.weight_decay = 0.0
  config.grad_clip = 1.0
  config.ema = 0.998
  config.log_every = 200
  config.checkpoint_every = 1000

  config.vae = dict(
    _class_name="AutoencoderKL",
    in_channels=48,
    out_channels=48,
    latent_channels=16,
    block_out_channels=(96, 96),
    layers_per_block=1,
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=16,
    mid_block_add_attention=False,
    use_quant_conv=False,
    use_post_quant_conv=False,
    act_fn="silu",
    sample_size=16,
  )
  if arg == "tiny":
    config.pool.num_subjects, config.pool.shots_each = 16, 4
    config.batch_size, config.num_steps = 4, 4
    config.warmup_steps, config.log_every, config.checkpoint_every = 1, 1, 2
    config.vae.block_out_channels = (16, 16)
  return config
