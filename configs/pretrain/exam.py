# SPDX-License-Identifier: Apache-2.0
"""Exam of the embedded judges on held-out subjects.

Command to run:
  python -m suti.pretrain.exam \
      --config configs/pretrain/exam.py --workdir runs/pretrain
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """200 test subjects; `:tiny` is 6, for tests."""
  config = ml_collections.ConfigDict()
  config.clip = "world_clip"
  config.identity = "world_identity"
  config.judge = "world_judge"
  config.split = "test"
  config.num_subjects = 6 if arg == "tiny" else 200
  config.num_styled = 1 if arg == "tiny" else 40  # 12 pictures each
  # Each is rendered among 24 look-alikes, twice: 250 pictures a subject.
  config.num_judged = 2 if arg == "tiny" else 40
  config.templates_each = 2 if arg == "tiny" else 5
  return config
