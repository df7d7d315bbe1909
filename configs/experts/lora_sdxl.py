# SPDX-License-Identifier: Apache-2.0
"""Low-rank experts of SDXL on photographs, 1024 px.

  python -m experts.mine --config configs/experts/lora_sdxl.py:my_photos \
    --workdir runs/sdxl        # then .prompts .finetune .sample .filter .pack
  suti convert runs/sdxl/experts/finetune OUT --to diffusers

Hardware: an accelerator; not run here, as the weights could not be fetched.

Differs from configs/experts/photos.py in the base, and in the teacher: rank,
rate and steps are those of diffusers' DreamBooth-LoRA recipe for SDXL. `choice`
marks what is ours.
"""

from ml_collections import ConfigDict

from configs.experts import photos


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: path of the folder of subject folders.

  Returns: the config.
  """
  config = photos.get_config(arg).unlock()
  config.size_px = 1024
  config.backbone = "models/stable-diffusion-xl-base-1.0"
  config.clip = "models/clip-vit-large-patch14"
  config.identity = "models/dino-vits16"
  config.finetune.update(
    teacher="lora",
    rank=4,
    num_steps=500,
    batch_size=4,
    learning_rate=1e-4,
    optimizer="adam",
    weighting="uniform",
    text_dtype="bfloat16",  # choice
  )
  config.sample.update(
    guidance=5.0,
    sampler="dpmpp_2m",  # choice
    num_steps=30,  # choice
    batch_size=1,
  )
  # CLIP ViT-L/14 knows photographs: the paper's threshold.
  config.filter.threshold = 0.02
  return config.lock()
