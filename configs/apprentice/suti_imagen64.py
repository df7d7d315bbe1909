# SPDX-License-Identifier: Apache-2.0
"""The paper's apprentice: 2.5B parameters, 150K steps on about 500K examples.

  python -m apprentice.train --workdir runs/suti \
    --config configs/apprentice/suti_imagen64.py:web.parquet

Hardware: 128 Cloud TPU v4 chips. Time: about a day, by the authors' account.

Differs from configs/experts/suti_imagen64.py in nothing that the experts read,
so that both can work in one --workdir; it adds stages 6 to 8. Values are those
of SuTI (arXiv 2304.00186), sections 3.3 and 4. `choice` marks where the paper
is silent and the value is ours. The paper's 64 -> 256 -> 1024 upscalers are
unchanged Imagen models and no part of this project.
"""

from ml_collections import ConfigDict

from configs.experts import suti_imagen64


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: path of the table of (url, path, text) rows.

  Returns: the config.
  """
  config = suti_imagen64.get_config(arg).unlock()
  # 2.5B parameters and their state, split over eight devices.
  config.mesh.update(data=-1, fsdp=8)  # choice
  config.train.update(
    method="suti",
    init="models/imagen64",
    num_steps=150_000,
    batch_size=512,  # choice; 128 to 1024 fit the time that the authors give
    dtype="bfloat16",  # choice
    optimizer="adafactor",
    learning_rate=1e-4,
    weighting="uniform",
    warmup_steps=10_000,  # choice
    min_demonstrations=3,
    num_demonstrations=3,
    max_demonstrations=10,
    text_dropout=0.1,  # choice: Imagen's
    demonstration_dropout=0.1,  # choice: Re-Imagen's
    ema=0.9999,  # choice: Imagen's
    grad_clip=1.0,  # choice
    checkpoint_every=2_000,  # choice
    log_every=100,  # choice
  )
  # 400M new parameters "in extra attention layers"; the paper does not say
  # where. Beside every attention of configs/backbones/imagen64.py they are
  # 263M.
  config.method.update(
    sites=r"(transformer_blocks|attentions)\.\d+$",  # choice
    num_heads=8,  # choice
    encoder_gradient=True,
  )
  config.apprentice_sample.update(
    num_demonstrations=4,
    images_per_prompt=4,
    guidance=15.0,
    guidance_mode="joint",  # choice
    sampler="ddpm",
    num_steps=256,  # choice
    percentile=99.5,  # choice
    batch_size=128,
  )
  # The folder of DreamBench: 30 subjects, 25 prompts each, 4 pictures a prompt.
  config.benchmark.update(
    source="folder",
    path="data/dreambench",
    num_subjects=30,
    images_each=4,
    num_prompts=25,
    num_expert_subjects=30,
  )
  config.plan.stages = ("train", "apprentice_sample")
  return config.lock()
