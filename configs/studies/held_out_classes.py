# SPDX-License-Identifier: Apache-2.0
"""Whether an apprentice knows subjects of classes that nobody taught it.

  suti study --config configs/studies/held_out_classes.py \
      --workdir runs/studies/held_out_classes

The base has learned to draw all classes. Two apprentices learn to use
demonstrations from true renders, one of all classes, one of all but four; both
are tested on subjects of these four.
"""

from ml_collections import ConfigDict

from configs.studies import study

# A living subject, and three kinds of objects: hard, soft, hollow.
HELD_OUT = ("cat", "teapot", "stuffed animal", "boot")


def get_config(arg: str = "") -> ConfigDict:
  """The study; `:tiny` has the least of everything, for tests."""
  run = study.of_training(arg)
  run.train.examples = (study.TRUE_RENDERS,)
  run.benchmark.nouns = HELD_OUT
  return study.make_study(
    title="Classes that it was not taught",
    question="Does what it learned of using demonstrations hold for classes "
    "of which it was shown none?",
    paper="none reported.",
    run=run,
    reference="taught all classes",
    variants={
      "all": {"row": "taught all classes"},
      "without": {
        "row": f"without {', '.join(HELD_OUT)}",
        "train": {"without_nouns": HELD_OUT},
      },
      "none": {
        "row": "taught nothing, the base",
        "train": {"num_steps": 0, "warmup_steps": 0},
      },
    },
  )
