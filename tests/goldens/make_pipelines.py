# SPDX-License-Identifier: Apache-2.0
"""Draws with the publishers' pipelines, on folders that we wrote.

  python -m tests.goldens.make_pipelines

with the extra `parity` (torch, diffusers, accelerate). Noise is ours, handed to
their code wherever it would draw its own. Writes `pipelines.safetensors`.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from suti.diffusion import samplers
from tests.pipeline import tiny_pipelines

FILE = pathlib.Path(__file__).parent / "pipelines.safetensors"
PROMPTS = ["a photo of a dog", "a red teapot on the beach"]
SEEDS = [3, 8]
STEPS = 4
SMALL_PM1 = np.random.RandomState(0).uniform(-1, 1, (2, 8, 8, 3))
# name -> what differs from the defaults of a call
CALLS = {
  "sd1": {"negative": "a hat"},
  "sd2": {"size": (16, 24)},
  "sdxl": {"size": (24, 16)},
  "sdxl_normal": {"size": (24, 16)},
  "if1": {},
  "if2": {},
}


def noise(name: str) -> dict[str, np.ndarray]:
  """Our noise, in the order in which the pipeline asks for it."""
  keys_B = samplers.row_keys(jax.random.key(0), np.asarray(SEEDS))
  height, width = CALLS[name].get("size", (16, 16))
  if name.startswith("sd"):
    shape = (height // 2, width // 2, 4)
    return {"start": samplers.draw_noise(keys_B, shape)}
  shape = (8, 8, 3) if name == "if1" else (16, 16, 3)
  found = {"start": samplers.draw_noise(keys_B, shape)}
  if name == "if2":
    other_B = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys_B)
    found["small"] = samplers.draw_noise(other_B, shape)
  for i in range(STEPS - 1):  # the last step adds none
    found[f"step{i}"] = samplers._normal(keys_B, i, shape)
  return found


def theirs(
  name: str,
  folder: pathlib.Path,
  *,
  change: Callable[[Any], None] = lambda pipeline: None,
) -> np.ndarray:
  """Pictures of a publisher's pipeline, NHWC, within [-1, 1].

  Args:
    name: of `tiny_pipelines.PIPELINES`.
    folder: holds it.
    change: of their pipeline, before it draws.
  """
  import diffusers
  import torch

  pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
  pipeline.set_progress_bar_config(disable=True)
  change(pipeline)
  drawn = [_nchw(x) for x in noise(name).values()]
  call = dict(CALLS[name])
  options = {"num_inference_steps": STEPS, "output_type": "pt"}
  if "negative" in call:
    options["negative_prompt"] = [call["negative"]] * len(PROMPTS)
  if "size" in call:
    options["height"], options["width"] = call["size"]
  if name.startswith("sd"):
    options["latents"] = drawn[0]
  else:
    options["clean_caption"] = False
  if name == "if2":
    options["image"] = _nchw(SMALL_PM1.astype(np.float32))
  with torch.no_grad(), _handing_out(drawn):
    images = pipeline(PROMPTS, **options).images
  if name.startswith("sd"):
    images = images * 2 - 1
  return images.permute(0, 2, 3, 1).clamp(-1, 1).contiguous().numpy()


@contextlib.contextmanager
def _handing_out(drawn: Sequence) -> Iterator[None]:
  """Lets the publishers' code take noise from a list."""
  from diffusers.pipelines.deepfloyd_if import (
    pipeline_if,
    pipeline_if_superresolution,
  )
  from diffusers.schedulers import scheduling_ddpm

  rest = iter(drawn)
  places = (pipeline_if, pipeline_if_superresolution, scheduling_ddpm)
  kept = [place.randn_tensor for place in places]
  for place in places:
    place.randn_tensor = lambda *_, **__: next(rest)
  try:
    yield
  finally:
    for place, function in zip(places, kept, strict=True):
      place.randn_tensor = function


def _nchw(x):
  import torch

  return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2).contiguous()


def main() -> None:
  """Writes the pictures, and the noise that they were drawn from."""
  stored = {}
  for name in tiny_pipelines.PIPELINES:
    with tempfile.TemporaryDirectory() as place:
      folder = tiny_pipelines.write(name, pathlib.Path(place))
      stored[name] = theirs(name, folder)
    stored[f"{name}.noise"] = np.asarray(noise(name)["start"])
  safetensors.numpy.save_file(stored, FILE)


if __name__ == "__main__":
  main()
