# SPDX-License-Identifier: Apache-2.0
"""Low-rank experts of Stable Diffusion 1.5, on your own clusters of pictures.

  python -m experts.mine --config configs/experts/lora_sd15.py:web.parquet \
    --workdir runs/sd15        # then .prompts .finetune .sample .filter .pack
  suti plan --config configs/experts/lora_sd15.py --topology v5e:2x4

Hardware: TPU v5e or newer, as many experts on a chip as it has room for. Time:
docs/plans.md.

Differs from configs/quickstart.py in the base, a folder that you give; in low
rank, at the values of the published DreamBooth recipe for it (rank 4, Adam,
1e-4, 500 steps, one picture a step); in bfloat16; and in the judges, which are
the paper's.
"""

from ml_collections import ConfigDict

from configs import quickstart
from configs.backbones import judges, sd15


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: path of the table of (url, path, text) rows.

  Returns: the config.
  """
  config = quickstart.get_config().unlock()
  config.size_px = 512
  config.backbone = "models/stable-diffusion-v1-5"
  config.clip = "models/clip-vit-large-patch14"
  config.identity = "models/dino-vits16"
  config.mine.update(
    source="table",
    path=arg,
    num_pages=1_000_000,
    similarity_low=0.82,
    similarity_high=0.98,
  )
  config.prompts.num_per_cluster = 1
  config.finetune.update(
    teacher="lora",
    rank=4,
    num_steps=500,
    batch_size=1,
    learning_rate=1e-4,
    optimizer="adam",
    weighting="uniform",  # of eps, which this base predicts
    log_snr_mean=None,  # uniform steps
    experts_per_device="auto",
    inner="vmap",
    dtype="bfloat16",
    text_dtype="bfloat16",
  )
  config.sample.update(
    guidance=7.5, sampler="dpmpp_2m", num_steps=25, batch_size=1
  )
  config.filter.rule = "delta_clip > 0.02"
  config.plan.update(
    stages=("finetune", "sample", "filter"), num_subjects=100_000
  )
  config.plan.backbone = sd15.get_config()
  config.plan.clip = judges.get_clip()
  config.plan.identity = judges.get_identity()
  return config.lock()
