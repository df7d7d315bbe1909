# SPDX-License-Identifier: Apache-2.0
"""Low-rank experts of SDXL, on your own clusters of pictures.

  python -m experts.mine --config configs/experts/lora_sdxl.py:web.parquet \
    --workdir runs/sdxl        # then .prompts .finetune .sample .filter .pack
  suti plan --config configs/experts/lora_sdxl.py --topology v6e:2x4

Hardware: TPU v6e or v5p. Time: 100,000 experts in 35,000 hours of v6e chips at
most, as planned (docs/plans.md); nothing was measured.

Differs from configs/experts/lora_sd15.py in the base, of 1024 px, in four
pictures a step, over which the recipe for SDXL accumulates gradients, in
rematerialising the insides of layers to save memory, and in how it samples.
"""

from ml_collections import ConfigDict

from configs.backbones import sdxl
from configs.experts import lora_sd15


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: path of the table of (url, path, text) rows.

  Returns: the config.
  """
  config = lora_sd15.get_config(arg).unlock()
  config.size_px = 1024
  config.backbone = "models/stable-diffusion-xl-base-1.0"
  config.finetune.update(batch_size=4, remat=True)
  config.sample.update(guidance=5.0, num_steps=30)
  config.plan.backbone = sdxl.get_config()
  return config.lock()
