# SPDX-License-Identifier: Apache-2.0
"""How SynCD's apprentice should be guided, by eq. 4 and by other modes.

  suti study --config configs/studies/syncd_guidance.py \
      --workdir runs/studies/syncd_guidance

Nothing is trained: the apprentice is that of configs/apprentice/syncd_world.py,
of ":tiny" that of its ":tiny", in the workdirs that docs/syncd.md has.
"""

from ml_collections import ConfigDict

from configs.apprentice import syncd_world
from configs.studies import study

_APPRENTICE = "runs/{}/apprentice/train/model"


def get_config(arg: str = "") -> ConfigDict:
  """The study; `:tiny` has the least of everything, for tests."""
  config = syncd_world.get_config(arg).unlock()
  config.train.init = _APPRENTICE.format(
    "syncd_tiny" if arg == "tiny" else "syncd_world"
  )
  return study.make_study(
    title="SynCD's guidance",
    question="What does normalised guidance do that others do not?",
    paper="a geometric score of 0.756 with it, 0.699 with InstructPix2Pix's, "
    "0.710 with rescaled and 0.675 with plain guidance, of an IP-Adapter-Plus "
    "(arXiv 2502.01720).",
    run=study.sampled(config, arg),
    reference="normalised, pictures 1.5, text 3",
    variants={
      f"{mode}_{subject:g}_{text:g}".replace(".", "_"): {
        "row": f"{mode}, pictures {subject:g}, text {text:g}",
        "apprentice_sample": {
          "guidance_mode": mode,
          "guidance": subject,
          "text_guidance": text,
          "guidance_ramp": 0.0,
        },
      }
      for mode, subject, text in (
        ("normalised", 1.5, 3.0),
        ("normalised", 0.5, 3.0),
        ("normalised", 0.5, 6.0),
        ("normalised", 1.5, 6.0),
        # The whole weight of pictures is one more in normalised guidance.
        ("two", 2.5, 3.0),
        ("two", 1.5, 3.0),
      )
    }
    | {
      "joint": {
        "row": "joint, 3",
        "apprentice_sample": {
          "guidance_mode": "joint",
          "guidance": 3.0,
          "text_guidance": None,
          "guidance_ramp": 0.0,
        },
      }
    },
  )
