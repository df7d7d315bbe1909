# SPDX-License-Identifier: Apache-2.0
"""How many pictures of a subject an apprentice should be shown.

suti study --config configs/studies/demonstrations.py \
      --workdir runs/studies/demonstrations
"""

from ml_collections import ConfigDict

from configs.studies import study


def get_config(arg: str = "") -> ConfigDict:
  """The study; `:tiny` has the least of everything, for tests."""
  run = study.of_sampling(arg)
  run.benchmark.images_each = 10
  run.mine.max_images = 10
  return study.make_study(
    title="How many demonstrations",
    question="How does a generated image follow the number of pictures shown?",
    paper="people's overall score of 1 to 5: 62, 69, 74, 78, 80 "
    "(arXiv 2304.00186, figure 7).",
    run=run,
    reference="4",
    x="demonstrations",
    variants={
      f"shown_{num:02d}": {
        "row": str(num),
        "x": float(num),
        "apprentice_sample": {"num_demonstrations": num},
      }
      for num in (0, 1, 2, 3, 4, 5, 10)
    },
  )
