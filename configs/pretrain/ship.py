# SPDX-License-Identifier: Apache-2.0
"""Cards and copies of what the pretrainings made.

Command to run:
  python -m suti.pretrain.ship \
      --config configs/pretrain/ship.py --workdir runs/pretrain
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The exam on 200 test subjects; `:tiny` is 6, for tests."""
  config = ml_collections.ConfigDict()
  config.split = "test"
  config.num_subjects = 6 if arg == "tiny" else 200
  config.num_judged = 2 if arg == "tiny" else 40
  config.templates_each = 2 if arg == "tiny" else 5
  config.images_each = 1 if arg == "tiny" else 4
  # Where each model goes in suti/pretrained.
  config.names = dict(
    clip="world_clip",
    identity="world_identity",
    judge="world_judge",
    text_to_image="world_base",
  )
  config.only = ()  # some of these alone, by their trainers: ("judge",)
  return config
