# SPDX-License-Identifier: Apache-2.0
"""The benchmark at full size: 30 subjects x 25 prompts x 4 pictures.

  suti run --config configs/evaluation/dreambench.py --workdir runs/dreambench

  # the same prompts on DreamBench's photographs
  suti run --config configs/evaluation/dreambench.py:data/dreambench \
    --workdir runs/dreambench-photos

Differs from configs/quickstart.py in the size of its last two stages, in that
nothing is trained (the apprentice is the shipped one as it is, and
`--config.train.init=FOLDER` evaluates another), and in its experts: one for
each subject, tuned for the paper's 500 steps instead of the quickstart's 60. As
in every benchmark, they know the pictures that the apprentice is shown and no
others, and begin with its noise.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: "" for held-out SubjectWorld subjects, else the folder of DreamBench.

  Returns: the config.
  """
  config = quickstart.get_config().unlock()
  config.train.update(init="world_apprentice", num_steps=0, warmup_steps=0)
  config.method.update(features="encoder", positions=False)  # of this one
  config.benchmark.update(
    source="folder" if arg else "world",
    path=arg,
    num_subjects=30,
    images_each=5,
    num_prompts=25,
    num_expert_subjects=30,
  )
  # To be chosen on validation subjects: docs/results.md, "What is compared".
  config.finetune.update(num_steps=500, learning_rate=1e-4)
  config.apprentice_sample.update(
    images_per_prompt=4,
    batch_size=32,
    systems=(
      "apprentice",
      "base",
      "text_only",
      "copy",
      "wrong_subject",
      "shuffled",
    ),
  )
  config.report.update(
    title="DreamBench, 30 subjects", num_subjects=30, num_prompts=8
  )
  return config.lock()
