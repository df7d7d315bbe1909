# SPDX-License-Identifier: Apache-2.0
"""Experts as low-rank changes of one base: smaller files, more in one step.

  suti run --config configs/experts/lora_world.py --workdir runs/lora

Hardware and time: a CPU with 2 cores, as configs/quickstart.py.

Differs from configs/quickstart.py in the teacher: the base is stored once and
shared, each expert is rank-8 matrices beside its attention layers (LoRA, arXiv
2106.09685). The paper fine-tunes all weights.
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
  config.finetune.update(
    teacher="lora",
    rank=8,
    learning_rate=1e-3,  # only the low-rank matrices move, from zero
    optimizer="adam",
  )
  return config.lock()
