# SPDX-License-Identifier: Apache-2.0
"""The main table: apprentice, experts, base, copies, true renders.

  suti study --config configs/studies/systems.py --workdir runs/studies/systems

Experts have the paper's 500 steps each: about an hour of two cores. Those of
textual inversion are a run of their own, as a run has experts of one teacher.
"""

from ml_collections import ConfigDict

from configs.evaluation import dreambench
from configs.experts import textual_inversion
from configs.studies import study


def get_config(arg: str = "") -> ConfigDict:
  """The study; `:tiny` has the least of everything, for tests."""
  run = study.of_sampling(arg)
  if arg != "tiny":
    run = ConfigDict(dreambench.get_config()).unlock()
  made = study.make_study(
    title="Systems",
    question="Who shows the subject where the prompt wants it?",
    paper="DINO, CLIP-T: real pictures 0.774, -; SuTI 0.741, 0.304; DreamBooth "
    "on Imagen 0.696, 0.306; Re-Imagen 0.600, 0.270 (arXiv 2304.00186, "
    "table 1).",
    run=run,
    reference="apprentice",
    variants={
      "shipped": {"row": ""},
      "textual_inversion": {
        "row": "textual inversion",
        "systems": ("experts",),
        "finetune": textual_inversion.CHANGES,
        "apprentice_sample": {"systems": ("apprentice",)},
      },
    },
  ).unlock()
  made.seeds = (0,)
  made.systems = (
    *("scenes", "apprentice", "experts", "base", "text_only"),
    *("copy", "wrong_subject"),
  )
  made.labels = ConfigDict(
    {"scenes": "true renders", "experts": "an expert each"}
  )
  return made.lock()
