# SPDX-License-Identifier: Apache-2.0
"""The paper's experts on a public base: DeepFloyd IF's first stage, 64 px.

  python -m experts.mine --config configs/experts/suti_if.py:web.parquet \
    --workdir runs/if        # then .prompts .finetune .sample .filter .pack
  suti plan --config configs/experts/suti_if.py --topology v4:2x2x1

Hardware: an accelerator; not run here, as the weights could not be fetched.

Differs from configs/experts/suti_imagen64.py in the base: IF-I is, like Imagen,
a pixel model that reads a T5-XXL, and its weights are public. `publisher` marks
what its publisher's pipeline has, `choice` what is ours.
"""

from ml_collections import ConfigDict

from configs.backbones import if1
from configs.experts import suti_imagen64


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: path of the table of (url, path, text) rows.

  Returns: the config.
  """
  config = suti_imagen64.get_config(arg).unlock()
  config.backbone = "models/IF-I-L-v1.0"  # choice: M is half of it, XL five
  config.sample.update(
    num_steps=100,  # publisher
    percentile=95.0,  # publisher
  )
  config.plan.backbone = if1.get_config()
  return config.lock()
