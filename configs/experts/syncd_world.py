# SPDX-License-Identifier: Apache-2.0
"""SynCD's sets of SubjectWorld: three images of a subject at once, rigid.

  suti run --config configs/experts/syncd_world.py --workdir runs/sets \
    --until experts.pack

Hardware: a CPU with 2 cores. Before it, but for ":tiny", the net that sees
depths: configs/pretrain/depth.py.

Differs from configs/quickstart.py in the teacher, which tunes nothing and asks
for labels, in prompts that describe the subject in three places, and in the
filter. `set_teacher` is that alone, for configs of apprentices.
"""

from ml_collections import ConfigDict

from configs import quickstart

DEPTH_NET = "runs/pretrain/depth/model"


def set_teacher(config: ConfigDict, *, depth_net: str) -> None:
  """Changes the sections of stages 1 to 5.

  Args:
    config: unlocked.
    depth_net: `config.finetune.depth_net`.
  """
  config.label.source = "world"
  config.mine.captions = "descriptive"
  # A set shows one subject in three places, as it is.
  config.prompts.update(num_per_cluster=3, skills=("recontextualization",))
  config.finetune.update(teacher="syncd", depth_net=depth_net)
  config.sample.update(
    together=3,
    batch_size=3,
    # What is warped is no picture that the net knows: fresh noise mends it,
    # where ddim and dpmpp_2m leave specks. The published code takes 30 steps,
    # with FLUX.
    sampler="ddpm",
    num_steps=30,
    # Subjects are smaller in their pictures than renders of assets are.
    view_area=0.05,
    view_overlap=0.02,
  )
  config.sample.syncd.update(
    # Latents and patches mean little here, pixels do: docs/syncd.md.
    warp="finest",
    warp_method="nearest",
    dilate=3,  # of 8 positions a side, as 9 of 32
  )
  config.filter.update(
    name="syncd", crop=True, rule="distinct_pair_identity >= 0.7"
  )
  config.pack.update(demonstrations="group", prompts="noun")
  # Nothing is tuned: there are no experts to compare with.
  config.benchmark.num_expert_subjects = 0


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: "" or "tiny", as in configs/quickstart.py.

  Returns: the config.
  """
  config = quickstart.get_config(arg).unlock()
  set_teacher(config, depth_net="none" if arg == "tiny" else DEPTH_NET)
  if arg == "tiny":
    config.sample.update(num_steps=2, view_area=0.0, view_overlap=0.0)
    # Two steps make no images that agree.
    config.filter.rule = "pair_identity > -1"
  return config.lock()
