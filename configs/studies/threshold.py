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
    paper="0.02 is best of 0.0 to 0.025, and no filter is worst "
    "(arXiv 2304.00186, section 4.4).",
    run=study.of_training(arg),
    reference="0.02",
    x="threshold of delta-CLIP",
    variants={
      "none": {"label": "no filter", "train": {"rule": ""}},
      **{
        f"above_{round(1000 * value):03d}": {
          "label": f"{value:g}",
          "x": value,
          "train": {"rule": f"delta_clip > {value:g}"},
        }
        for value in (0.0, 0.01, 0.015, 0.02, 0.025)
      },
    },
  )
