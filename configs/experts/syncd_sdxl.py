# SPDX-License-Identifier: Apache-2.0
"""SynCD's sets by SDXL, without tuning: three images of a subject at once.

  python -m experts.mine --config configs/experts/syncd_sdxl.py:web.parquet \
    --workdir runs/syncd       # then .prompts .finetune .sample .filter .pack
  suti plan --config configs/experts/syncd_sdxl.py --topology v6e:2x4

Hardware: TPU v6e or v5p; nothing was measured. "web.parquet,tiny" is the same
with the least of everything.

Differs from configs/experts/lora_sdxl.py in the teacher, which tunes nothing.
The published code has FLUX.1-dev for it (arXiv 2502.01720, appendix C.1): 1024
px, 50 steps, three images, prompts that describe the subject, and ". wide angle
shot" behind them; its guidance is distilled into the net. SDXL's is the usual
one. Mined subjects have no geometry: this is the variant of deformable ones. Of
the table only the texts are used, and the pictures only to choose clusters.
"""

from ml_collections import ConfigDict

from configs.experts import lora_sdxl


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: path of the table of (url, path, text) rows; with ",tiny" behind it the
      least of everything.

  Returns: the config.
  """
  path, _, size = arg.partition(",")
  if size not in ("", "tiny"):
    raise ValueError(
      f"configs/experts/syncd_sdxl.py:{arg}: expected the path of a table, or "
      "that and ',tiny'."
    )
  config = lora_sdxl.get_config(path).unlock()
  config.mine.captions = "descriptive"
  config.prompts.num_per_cluster = 3
  config.finetune.teacher = "syncd"
  config.sample.update(
    together=3,
    batch_size=3,
    sampler="ddim",
    num_steps=50,
    suffix=". wide angle shot",
  )
  config.filter.update(
    name="syncd",
    crop=True,
    # As published, once a head of CLIP ViT-L/14 is given:
    # config.filter.aesthetic and the filter's own rule, None.
    rule="distinct_pair_identity >= 0.7",
  )
  config.pack.update(demonstrations="group", prompts="noun")
  # What is tuned is nothing: there are no experts to compare with.
  config.benchmark.num_expert_subjects = 0
  if size:
    config.mine.num_pages = 8
    config.sample.num_steps = 2
  return config.lock()
