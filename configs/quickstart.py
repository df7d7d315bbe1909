# SPDX-License-Identifier: Apache-2.0
"""The whole loop, small, on SubjectWorld: eight stages and a report.

  suti run --config configs/quickstart.py --workdir runs/quickstart
  suti run --config configs/quickstart.py:tiny --workdir runs/tiny

Hardware: a CPU with 2 cores, no accelerator. `:tiny` is the same loop with
the least of everything: it shows that all parts work and measures nothing.
Each field can be given on the command line: `--config.train.num_steps=500`.

This is the config that all others differ from. Its fields are in
configs/sections, each value sized for two cores; where the paper has one, it
stands beside it.
"""

from ml_collections import ConfigDict

from configs.sections import apprentice, evaluation, experts


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: "" or "tiny", what follows the colon in the path.

  Returns: the config.
  """
  config = ConfigDict()
  config.seed = 0
  config.size_px = 64
  # A shipped model's name (suti/pretrained), or a folder in the published
  # layout.
  config.backbone = "world_base"
  config.clip = "world_clip"  # paper: ViT-L/14
  config.identity = "world_identity"
  # Evaluates alone, and neither filters nor conditions; by the world's truth,
  # so that on photographs it is not used.
  config.judge = "world_judge"

  # For training: over how many devices its batch is spread (both axes) and its
  # parameters (fsdp); -1 takes those that the other leaves. Tuning of experts
  # and sampling use all devices of a host, whatever stands here.
  config.mesh = ConfigDict({"data": -1, "fsdp": 1})

  config.mine = experts.mine()
  config.prompts = experts.prompts()
  config.finetune = experts.finetune()
  config.sample = experts.sample()
  config.filter = experts.filter_()
  config.label = experts.label()
  config.pack = experts.pack()

  config.train = apprentice.train()
  config.method = apprentice.method()
  config.apprentice_sample = apprentice.apprentice_sample()

  config.benchmark = evaluation.benchmark()
  config.plan = evaluation.plan()
  config.report = evaluation.report()

  if arg == "tiny":
    _make_tiny(config)
  elif arg:
    raise ValueError(
      f"configs/quickstart.py:{arg}: expected ':tiny' or nothing after the "
      "path."
    )
  return config.lock()


def _make_tiny(config: ConfigDict) -> None:
  """The least of everything, for CI: minutes, and no result worth reading."""
  config.mine.num_pages = 8
  config.prompts.num_per_cluster = 2
  config.finetune.update(num_steps=2, experts_per_wave=2, batch_size=2)
  config.sample.update(num_steps=2, batch_size=4)
  # Two steps teach nothing, so nothing would pass the paper's rule.
  config.filter.rule = "delta_clip > -1"
  config.pack.shard_size = 4
  config.train.update(
    num_steps=4, batch_size=8, warmup_steps=1, checkpoint_every=2, log_every=1
  )
  config.train.validation_clusters = 1
  config.apprentice_sample.update(num_steps=2, batch_size=8)
  config.benchmark.update(
    num_subjects=2, images_each=4, num_prompts=2, num_expert_subjects=1
  )
  config.report.update(title="SuTI quickstart, tiny", num_examples=2)
