# SPDX-License-Identifier: Apache-2.0
"""SynCD (arXiv 2502.01720) in SubjectWorld, the whole loop.

Differs from configs/quickstart.py in the teacher, that of
configs/experts/syncd_world.py, in the method, and in sizes: steps, subjects,
rates. Masks are the teacher's; those of the benchmark's subjects the world's.

Command to run:
  suti run --config configs/apprentice/syncd_world.py --workdir runs/syncd_world
  suti run --config configs/apprentice/syncd_world.py:tiny --workdir runs/tiny
Hardware: 2 CPU cores. Before it, but for ":tiny", the net that sees depths,
configs/pretrain/depth.py; --config.finetune.depth_net="" does without.
"""

from ml_collections import ConfigDict

from configs.experts import syncd_world


def get_config(arg: str = "") -> ConfigDict:
  """All sections; "tiny" is the least of everything."""
  config = syncd_world.get_config(arg).unlock()
  config.train.update(
    method="syncd",
    init="world_base",
    log_snr_mean=-0.5,  # as the base was trained; published: uniform steps
    # Published: 2 references. Of a subject that has one, mirror images too.
    num_demonstrations=2,
    min_demonstrations=2,
    max_demonstrations=4,
    mirror="all",
    # As published, and excluding each other; a mask is dropped of a tenth.
    joint_dropout=0.05,
    text_dropout=0.05,
    demonstration_dropout=0.05,
    exclusive_dropout=True,
    condition_dropout=0.1,
  )
  config.method = ConfigDict(
    {
      "rank": 16,  # of the updates; published: 128, of widths up to 1280
      # At the target's step with noise of their own, as the published U-Net's |
      # clean, as those of its FLUX model.
      "references": "noised",  # noised | clean
      # Whether one reference is also seen as a whole, by the adapter, whose
      # weight is config.apprentice_sample.subject_scale.
      "picture": True,
      # What is missing where a picture is dropped in training: CLIP's view |
      # the references too, as in sampling.
      "dropped": "picture",  # picture | all
      # How many cells of the latent a mask is widened to; published: 5 of 128
      # a side. 1 is not.
      "mask_dilation": 1,
      # Whether masks have soft edges there, where a reference counts less.
      "mask_edges": "soft",  # soft | whole
      "remat": False,  # rematerialise the insides of layers
      # The adapter, see configs/apprentice/ip_adapter_world.py.
      "encoder": "world_clip",
      "kind": "plus",
      "num_tokens": 8,  # published: 16
      "width": 128,
      "depth": 2,
      "num_heads": 2,
      "null": "grey",
      # Published: ip-adapter-plus_sdxl_vit-h. "" starts from the text's keys
      # and values, and the resampler is trained as well.
      "adapter": "",
      "trainable": r"\.lora_[AB]\.weight$|^adapter:",
    }
  )
  # Published: normalised guidance, eq. 4, of 8 to 13 for pictures and 7.5 for
  # the text. Here one weight shows as much of the subject and more of the
  # prompt: docs/syncd.md.
  config.apprentice_sample.update(
    systems=("apprentice", "before", "base", "copy", "wrong_subject"),
    num_demonstrations=3,
    guidance_mode="joint",
    guidance=3.0,
    text_guidance=None,
    subject_scale=0.6,
  )
  if arg != "tiny":
    config.mine.num_pages = 500
    config.train.update(
      num_steps=6_000,
      batch_size=16,
      learning_rate=4e-4,
      warmup_steps=200,
      decay=0.2,
      ema=0.999,
      checkpoint_every=500,
      log_every=50,
    )
  config.report.title = "SynCD in SubjectWorld"
  return config.lock()
