# SPDX-License-Identifier: Apache-2.0
"""Segmenter of SubjectWorld: a U-Net of three levels at 64 px.

Command to run:
  python -m suti.pretrain.segmenter \
      --config configs/pretrain/segmenter.py --workdir runs/pretrain
"""

import ml_collections

from configs.pretrain import pool


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The segmenter; `:tiny` is a few steps, for tests."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.size_px = 64
  config.dtype = "float32"
  config.pool = pool.get_config("segmenter")
  # Pictures enough for a net of 0.13M parameters.
  config.pool.num_subjects = 1024
  # Pictures of experts show pairs of places, outfits and looks, too.
  config.pool.compositions = 0.3

  config.batch_size = 32
  config.num_steps = 1500
  config.learning_rate = 2e-3
  config.warmup_steps = 50
  config.weight_decay = 0.01
  config.grad_clip = 1.0
  config.ema = 0.99
  config.log_every = 25
  config.checkpoint_every = 250
  config.num_examined = 100  # validation subjects, four pictures each

  config.model = dict(
    model_type="segmenter",
    image_size=64,
    widths=(16, 32, 64),
  )
  if arg == "tiny":
    config.pool.num_subjects, config.pool.shots_each = 4, 4
    config.batch_size, config.num_steps = 4, 4
    config.warmup_steps, config.log_every, config.checkpoint_every = 1, 1, 2
    config.num_examined = 1
    config.model.widths = (4, 8)
  return config
