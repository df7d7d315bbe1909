# SPDX-License-Identifier: Apache-2.0
"""A net that sees depths, for SynCD's rigid teacher, out of the shipped base.

  python -m suti.pretrain.depth \
      --config configs/pretrain/depth.py --workdir runs/pretrain

Then `--config.finetune.depth_net=runs/pretrain/depth/model`. A step takes as
long as one of the base.
"""

import ml_collections

from configs.pretrain import pool


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The net; `arg` "tiny" is a few steps, for tests."""
  if arg not in ("", "tiny"):
    raise ValueError(
      f"configs/pretrain/depth.py:{arg}: expected ':tiny' or nothing."
    )
  config = ml_collections.ConfigDict()
  config.name = "depth"
  config.seed = 0
  config.base = "world_base"
  # The base's own pictures: what is new is the depth.
  config.pool = pool.get_config("text_to_image")
  config.pool.num_subjects, config.pool.shots_each = 8192, 1
  # Share of texts that describe the subject, as the teacher's prompts do, and
  # of those left out, for guidance.
  config.detailed = 0.5
  config.text_dropout = 0.1
  # As configs/pretrain/text_to_image.py has them.
  config.weighting = "snr_plus_one"
  config.snr_gamma = 200.0
  config.log_snr = (-0.5, 2.0)
  config.batch_size = 32
  config.num_steps = 2_000
  config.optimizer = "adamw"
  config.learning_rate = 2e-4
  config.warmup_steps = 100
  config.weight_decay = 0.0
  config.grad_clip = 1.0
  config.ema = 0.999
  config.log_every = 50
  config.checkpoint_every = 500
  if arg == "tiny":
    config.pool.num_subjects = 8
    config.batch_size, config.num_steps = 4, 4
    config.warmup_steps, config.log_every, config.checkpoint_every = 1, 1, 2
  return config
