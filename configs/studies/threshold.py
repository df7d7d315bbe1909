# SPDX-License-Identifier: Apache-2.0
"""How strict the filter should be.

suti study --config configs/studies/threshold.py \
      --workdir runs/studies/threshold
"""

from ml_collections import ConfigDict

from configs.studies import study


def get_config(arg: str = "") -> ConfigDict:
  """The study; `:tiny` has the least of everything, for tests."""
  return study.make_study(
    title="The filter's threshold",
    question="At which delta-CLIP should an expert's image be kept?",
    paper="people's overall score is 0.54 without a filter, then 0.70, 0.78, "
    "0.84, 0.88 and 0.87 at 0, 0.01, 0.015, 0.02 and 0.025 (arXiv 2304.00186, "
    "section 4).",
    run=study.of_training(arg),
    reference="0.02",
    x="threshold of delta-CLIP",
    variants={
      "none": {"row": "no filter", "train": {"rule": ""}},
      **{
        f"above_{round(1000 * value):03d}": {
          "row": f"{value:g}",
          "x": value,
          "train": {"rule": f"delta_clip > {value:g}"},
        }
        for value in (0.0, 0.01, 0.015, 0.02, 0.025)
      },
    },
  )
