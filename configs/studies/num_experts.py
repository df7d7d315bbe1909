# SPDX-License-Identifier: Apache-2.0
"""How many experts an apprentice needs.

suti study --config configs/studies/num_experts.py \
      --workdir runs/studies/num_experts
"""

from ml_collections import ConfigDict

from configs.studies import study


def get_config(arg: str = "") -> ConfigDict:
  """The study; `:tiny` has the least of everything, for tests."""
  nums = (1, 2) if arg == "tiny" else (25, 50, 100, 200, 400)
  return study.make_study(
    title="How many experts",
    question="How does an apprentice follow the number of experts that it "
    "learns from?",
    paper="about 500,000 examples are kept of 1.8M experts'; fewer are not "
    "tried (arXiv 2304.00186, section 4).",
    run=study.of_training(arg),
    reference=str(nums[-1]),
    x="experts",
    variants={
      f"experts_{num}": {
        "row": str(num),
        "x": float(num),
        "train": {"num_clusters": num, "rule": "delta_clip > 0.02"},
      }
      for num in nums
    },
  )
