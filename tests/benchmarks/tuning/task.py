# SPDX-License-Identifier: Apache-2.0
"""What all sides of the farm's benchmark work on, and how they answer."""

import dataclasses
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.sides import ROOT

# H W C latent, K pictures of a subject, L text tokens, D width.

WORLD = ROOT / "suti" / "pretrained" / "world_base"
WEIGHTS = "diffusion_pytorch_model.safetensors"
STEPS_OF_AN_EXPERT = 500  # SuTI's
CHECKED_STEPS = 3
PICTURES = 5  # of a subject
RANK = 8
LEARNING_RATE = 1e-3
# What a step is given, beside the net.
DRAWS = ("x0_BHWC", "noise_BHWC", "t_B", "text_BLD")

# As Stable Diffusion 1.5 was trained.
_SCHEDULER = {
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "num_train_timesteps": 1000,
  "prediction_type": "epsilon",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """What all sides work on.

  Attributes:
    unet: the folder of the published U-Net.
    config: its config.json.
    scheduler: its published scheduler config.
    latent: (H, W, C) of what it denoises.
    text: (L, D) of its text.
  """

  unet: Path
  config: dict[str, Any]
  scheduler: dict[str, Any]
  latent: tuple[int, int, int]
  text: tuple[int, int]

  def subject(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents x_KHWC and states of texts text_KLD of a subject, float32."""
    draw = np.random.RandomState(index).standard_normal
    shapes = (self.latent, self.text)
    x, text = (draw((PICTURES, *s)).astype(np.float32) for s in shapes)
    return x, text


def find_task(args) -> Task:
  """The model, and the shapes that it works on."""
  if args.model == "world":
    unet, num_tokens = WORLD / "unet", 32
    path = WORLD / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(path.read_text())
  else:
    unet, num_tokens, scheduler = args.folder / "unet", 77, _SCHEDULER
  config = json.loads((unet / "config.json").read_text())
  side = args.latent or config["sample_size"]
  return Task(
    unet=unet,
    config=config,
    scheduler=scheduler,
    latent=(side, side, config["in_channels"]),
    text=(num_tokens, config["cross_attention_dim"]),
  )


def serve(say: Callable[..., None], **actions: Callable[[], dict]) -> None:
  """Does what it is asked, until nobody asks any more."""
  for line in sys.stdin:
    say(**actions[line.strip()]())


def highest_rss() -> int:
  """Bytes of memory that this process had at most."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
