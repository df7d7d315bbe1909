# SPDX-License-Identifier: Apache-2.0
"""The paper's teacher: 1.8M experts of Imagen's 64 px model, 400 at a time.

  python -m experts.mine --config configs/experts/suti_imagen64.py:web.parquet \
    --workdir runs/suti        # then .prompts .finetune .sample .filter .pack

Hardware: 400 TPU cores of 32 GB, one expert a core. Time: the paper gives 5
minutes an expert, 150,000 core hours for all of them.

Differs from configs/quickstart.py in its size, and in standing on a 2.1B pixel
model with a T5-XXL text encoder and on WebLI, none of which is public: give
your own as folders and a table (columns url, path, text; Parquet or CSV).
Values are those of SuTI (arXiv 2304.00186), section 3 and Algorithm 1. `choice`
marks where the paper is silent and the value is ours.
"""

from ml_collections import ConfigDict

from configs import quickstart
from configs.backbones import imagen64, judges


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: path of the table of (url, path, text) rows.

  Returns: the config.
  """
  config = quickstart.get_config().unlock()
  config.backbone = "models/imagen64"
  config.clip = "models/clip-vit-large-patch14"
  config.identity = "models/dino-vits16"
  config.mine.update(
    source="table",
    path=arg,
    num_pages=45_000_000,
    min_images=3,
    max_images=10,  # the paper is silent on how larger pages are cut
    similarity_low=0.82,
    similarity_high=0.98,
    captions="descriptive",
  )
  config.prompts.update(source="unseen", num_per_cluster=1)
  config.train.validation_clusters = 0  # the paper reports no validation
  config.method.update(features="encoder", positions=False)
  config.finetune.update(
    teacher="dreambooth",
    text_dtype="bfloat16",  # choice: T5-XXL is 19 GB in float32
    num_steps=500,
    batch_size=4,  # choice
    learning_rate=1e-5,
    optimizer="adafactor",
    weighting="uniform",
    log_snr_mean=None,  # uniform steps
    # One a core, as in the paper, on however many a host has: a chip of TPU v4
    # is what the paper calls a core of 32 GB.
    experts_per_device=1,
    inner="map",  # choice: one expert a core leaves nothing to vmap
    remat=False,  # by suti plan, half of such a chip's memory is enough
    dtype="bfloat16",  # choice
    checkpoint_every=100,  # choice
    sample_after_tuning=True,
    keep="nothing",
  )
  config.sample.update(
    images_per_prompt=1,
    guidance=30.0,
    sampler="ddpm",
    num_steps=256,  # choice
    percentile=99.5,  # choice: Imagen's, and weight 30 needs one
    batch_size=1,
  )
  config.filter.rule = "delta_clip > 0.02"
  config.pack.shard_size = 4096  # choice
  config.plan.update(
    stages=("finetune", "sample", "filter"), num_subjects=1_800_000
  )
  config.plan.backbone = imagen64.get_config()
  config.plan.clip = judges.get_clip()
  config.plan.identity = judges.get_identity()
  return config.lock()
