# SPDX-License-Identifier: Apache-2.0
"""What an apprentice should learn from: experts, filtered or not, or others.

  suti study --config configs/studies/supervision.py \
      --workdir runs/studies/supervision

Each apprentice starts from the base and takes as many steps, on examples of as
many subjects. True renders are the ceiling, a perfect teacher; pictures of
other subjects of the class are Re-Imagen's supervision; SynCD's sets are made
by the base alone (docs/syncd.md).

The two strict rules keep what the paper's filter keeps, 28%, of the candidates
of configs/experts/world.py; `experts.truth` says such thresholds.
"""

from ml_collections import ConfigDict

from configs.studies import study


def get_config(arg: str = "") -> ConfigDict:
  """The study; `:tiny` has the least of everything, for tests."""
  run = study.of_training(arg)
  if arg != "tiny":
    run.train.num_clusters = 400  # what the experts' farm has, and a few less
  return study.make_study(
    title="What it learns from",
    question="Does an apprentice learn from experts, and must their images be "
    "filtered?",
    paper="people's overall score is 0.54 without a filter and 0.88 with it "
    "(arXiv 2304.00186, section 4); supervised by neighbours that need not "
    "show the subject, Re-Imagen has a DINO of 0.600, SuTI 0.741 (table 1).",
    run=run,
    reference="experts, unfiltered",
    variants={
      "unfiltered": {"row": "experts, unfiltered", "train": {"rule": ""}},
      "true_renders": {
        "row": "true renders",
        "train": {"examples": (study.TRUE_RENDERS,)},
      },
      "same_class": {
        "row": "other subjects of the class",
        "train": {"examples": (study.SAME_CLASS,)},
      },
      "sets": {
        "row": "SynCD's sets, nothing tuned",
        "train": {"examples": (study.SETS,), "rule": ""},
      },
      "by_identity": {
        "row": "experts, 28% by identity",
        "train": {"rule": "identity > 0.775"},
      },
      "by_delta_clip": {
        "row": "experts, 28% by delta-CLIP",
        "train": {"rule": "delta_clip > 0.55"},
      },
      "filtered": {
        "row": "experts, delta-CLIP above 0.02",
        "train": {"rule": "delta_clip > 0.02"},
      },
    },
  )
