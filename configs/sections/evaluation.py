# SPDX-License-Identifier: Apache-2.0
"""Fields of stage 8, of the report, and of `suti plan`."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def benchmark() -> ConfigDict:
  """Held-out subjects and prompts, after DreamBooth's benchmark."""
  return ConfigDict(
    {
      "source": "world",  # world | folder
      "path": "",
      # Of the world's subjects: validation to choose by, test once at the end.
      "split": "test",
      # A file of prompts (suti/evaluation/prompt_list.py), such as
      # suti/world/prompts_beforehand.csv; "" for DreamBench's.
      "prompts": "",
      "templates": "all",  # of DreamBench's: all | seen | held_out
      "num_subjects": 6,  # DreamBench: 30
      # Of the world's subjects, those of these classes, as ("dog", "boot"); ()
      # of all.
      "nouns": (),
      # Real pictures of a subject, which generated images are compared with;
      # the first are demonstrations too. Of a folder all are taken.
      "images_each": 5,
      "num_prompts": 6,  # DreamBench: 25
      "num_expert_subjects": 2,  # of them, how many get an expert too
    }
  )


def report() -> ConfigDict:
  """What the page shows."""
  return ConfigDict(
    {
      "title": "SuTI quickstart",
      "num_subjects": 6,
      "num_prompts": 6,
      "num_examples": 8,  # best and worst of the kept and of the dropped
    }
  )


def plan() -> ConfigDict:
  """For `suti plan` alone, which compiles for TPUs and runs nothing."""
  return ConfigDict(
    {
      "stages": ("finetune", "sample", "filter", "train", "apprentice_sample"),
      "num_subjects": 1000,  # paper: 1.8M
      # Share of a chip's peak that matrix products reach: an assumption, not a
      # measurement.
      "share_of_peak": 0.4,
      # XLA's optimization effort: stages run with 0. -1 compiles the paper's
      # experts in 5 minutes instead of 18, to a step of twice the time.
      "effort": 0.0,
      # By your contract, in any currency; without it no cost is printed.
      "price_per_chip_hour": ConfigDict(
        {kind: placeholder(float) for kind in ("v4", "v5e", "v5p", "v6e")}
      ),
      # Published configs (configs/backbones) of models whose folders are not
      # here; {} reads their own folders, as config.backbone names one.
      "backbone": ConfigDict(),
      "clip": ConfigDict(),
      "identity": ConfigDict(),
      "encoder": ConfigDict(),  # of config.method.encoder
    }
  )
