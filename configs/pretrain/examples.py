# SPDX-License-Identifier: Apache-2.0
"""Examples of a perfect teacher, for the apprentice's first lessons.

Command to run:
  python -m suti.pretrain.examples \
      --config configs/pretrain/examples.py --workdir runs/pretrain
"""

import ml_collections

from configs.pretrain import pool


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """32,000 examples of 5 demonstrations; `:tiny` is 16, for tests."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.size_px = 64
  config.clip = "world_clip"
  config.pool = pool.get_config("examples")
  # As the base's: a third of the pictures are more than one template says.
  config.pool.compositions, config.pool.styles = 0.2, 0.12
  config.pool.shots_each = 8
  config.num_examples = 32_000
  config.num_demonstrations = 5
  # Demonstrations of the target's own subject, or each of another subject of
  # its "class", Re-Imagen's supervision, to compare with.
  config.shown = "subject"
  config.shard_size = 4096
  if arg == "tiny":
    config.pool.num_subjects, config.pool.shots_each = 8, 8
    config.num_examples = 16
  return config
