# SPDX-License-Identifier: Apache-2.0
"""How well benchmark scores rank pictures whose truth is known.

Command to run:
  python -m suti.pretrain.judged \
      --config configs/pretrain/judged.py --workdir runs/judged
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """30 test subjects, 5 prompts each, 2 pictures of 5 kinds; `:tiny` is 2."""
  config = ml_collections.ConfigDict()
  # "world", or a folder of published encoders as `suti evaluate` takes it.
  config.encoders = "world"
  config.split = "test"
  # Published encoders are shown larger pictures: 224 or more.
  config.size_px = 64
  config.num_subjects = 2 if arg == "tiny" else 30
  config.num_prompts = 2 if arg == "tiny" else 5
  config.num_seeds = 1 if arg == "tiny" else 2
  return config
