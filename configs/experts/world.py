# SPDX-License-Identifier: Apache-2.0
"""Hundreds of SubjectWorld's experts, for studies of what is learned from them.

  suti run --config configs/experts/world.py --workdir runs/teachers

Hardware and time: 2 CPU cores, seconds an expert; several workers share it
(docs/farm.md).

Differs from configs/quickstart.py in the number of clusters, and in that every
image is packed with its measures: `config.train.rule` chooses which are learned
from, here as the paper does.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: "" or "tiny", as in configs/quickstart.py.

  Returns: the config.
  """
  config = quickstart.get_config(arg).unlock()
  if arg != "tiny":
    config.mine.num_pages = 640  # about 430 clusters
    config.finetune.experts_per_wave = 16
  config.filter.rule = ""
  if arg != "tiny":
    config.train.rule = "delta_clip > 0.02"
  return config.lock()
