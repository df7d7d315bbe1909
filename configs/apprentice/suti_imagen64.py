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

Where the new layers stand is inferred from two things that the paper gives. Its
Figures 1 and 3: the outputs of two encoders, of the target and of the
demonstrations, meet in an attention, and the result goes on into the decoder.
Its section 4: 2.5B parameters, 400M of them new. On
configs/backbones/imagen64.py, of 2,125,500,419 parameters,

  sites           feed-forward   new          all
  the decoder's   4 widths       398,678,016  2,524,178,435  (here)
  the decoder's   none           155,279,360  2,280,779,779
  all             none           263,346,176  2,388,846,595
  all             1 width        378,302,464  2,503,802,883

so that a layer like any other of a transformer, an attention and a feed-forward
of four widths, in the 12 blocks of the decoder, is within 0.4% of 400M. The
number alone does not exclude `ALL` for `sites`: the target's encoder and middle
attend to demonstrations too, 10 sites more, which no figure shows.
"""

from ml_collections import ConfigDict

from configs.experts import suti_imagen64

DECODER = r"up_blocks\.\d+\.attentions\.\d+$"
ALL = r"attentions\.\d+$"


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
    log_snr_mean=None,  # uniform steps
    warmup_steps=10_000,  # choice
    decay=None,
    min_demonstrations=3,
    num_demonstrations=3,
    max_demonstrations=10,
    joint_dropout=0.1,  # choice: of its text, Imagen's
    text_dropout=0.05,  # choice
    demonstration_dropout=0.05,  # choice
    ema=0.9999,  # choice: Imagen's
    grad_clip=1.0,  # choice
    checkpoint_every=2_000,  # choice
    log_every=100,  # choice
  )
  config.method.update(
    sites=DECODER,  # inference, see above
    feed_forward=4,  # inference, see above
    num_heads=8,  # choice
    encoder_gradient=True,
  )
  config.apprentice_sample.update(
    num_demonstrations=4,
    images_per_prompt=4,
    guidance_mode="joint",  # choice
    guidance=15.0,
    text_guidance=None,
    base_guidance=15.0,  # choice: as the apprentice
    sampler="ddpm",
    num_steps=256,  # choice
    percentile=99.5,  # choice
    batch_size=128,
  )
  # The folder of DreamBench: 30 subjects, 25 prompts each, 4 images a prompt.
  # Its 4 to 6 photographs of a subject are references, 4 demonstrations too.
  config.benchmark.update(
    source="folder",
    path="data/dreambench",
    num_subjects=30,
    num_prompts=25,
    num_expert_subjects=30,
  )
  config.plan.stages = ("train", "apprentice_sample")
  return config.lock()
