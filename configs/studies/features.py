# SPDX-License-Identifier: Apache-2.0
"""What SuTI's attention should read of the demonstrations.

  suti study --config configs/studies/features.py \
      --workdir runs/studies/features

Each apprentice starts from the base and takes as many steps on true renders.
"""

from ml_collections import ConfigDict

from configs.studies import study


def get_config(arg: str = "") -> ConfigDict:
  """The study; `:tiny` has the least of everything, for tests."""
  run = study.of_training(arg).unlock()
  run.train.examples = (study.TRUE_RENDERS,)
  features = {
    "encoder": "the encoder's features",
    "self_attention": "what self-attention is given",
  }
  return study.make_study(
    title="What is read of demonstrations",
    question="Does attention learn sooner to look at the subject if it begins "
    "as the base's own self-attention, and if it knows places in the frame?",
    paper="none reported; SuTI reads the features of the encoder (arXiv "
    "2304.00186, figure 3).",
    run=run,
    reference=features["encoder"],
    variants={
      f"{name}_places" if places else name: {
        "row": f"{label}, and places" if places else label,
        "method": {"features": name, "positions": places},
      }
      for name, label in features.items()
      for places in (False, True)
    },
  )
