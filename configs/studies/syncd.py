# SPDX-License-Identifier: Apache-2.0
"""Which parts of SynCD's method its apprentice needs, and how many sets.

  suti study --config configs/studies/syncd.py --workdir runs/studies/syncd

Each apprentice starts from the base and takes as many steps, on the same sets,
made before by the config configs/experts/syncd_world.py, see docs/syncd.md.

The paper's row without shared attention is the method ip_adapter here: without
the low-rank updates too, and all pictures seen as a whole, not one.
"""

from ml_collections import ConfigDict

from configs.apprentice import syncd_world
from configs.studies import study


def get_config(arg: str = "") -> ConfigDict:
  """The study; `:tiny` has the least of everything, for tests."""
  config = syncd_world.get_config(arg).unlock()
  # Of the method that takes the place of shared attention.
  config.method.shows = "demonstrations"
  # Eq. 4, as published; the weights are of this world.
  config.apprentice_sample.update(
    guidance_mode="normalised",
    guidance=1.5,
    guidance_ramp=1.0,
    text_guidance=3.0,
  )
  return study.make_study(
    title="SynCD's parts",
    question="What does an apprentice owe to shared attention, to masks, to "
    "the whole picture, and to the number of its subjects?",
    paper="its geometric score is 0.825; without masks 0.817, without the "
    "whole picture 0.795, without shared attention 0.819 (arXiv 2502.01720, "
    "table 4, one picture of a subject); of 100, 1,000, 10,000 and 95,000 sets "
    "0.790, 0.805, 0.810 and 0.813.",
    run=study.trained(config, arg, examples=study.SETS),
    reference="all of it",
    variants={
      "full": {"row": "all of it"},
      # Shared attention shows references before anything is learned.
      "untrained": {
        "row": "after one step",
        "train": {"num_steps": 1, "warmup_steps": 0},
      },
      "no_masks": {
        "row": "without masks",
        "train": {"condition_dropout": 1.0},
        "label": {"source": "none"},
      },
      "no_picture": {
        "row": "without the whole picture",
        "method": {"picture": False},
        "apprentice_sample": {"subject_scale": 1.0},  # of that picture
      },
      "no_shared_attention": {
        "row": "IP-Adapter-Plus alone",
        "train": {"method": "ip_adapter"},
      },
      # "full" takes all that there are.
      "subjects_90": {"row": "90 subjects", "train": {"num_clusters": 90}},
      "subjects_30": {"row": "30 subjects", "train": {"num_clusters": 30}},
    },
  )
