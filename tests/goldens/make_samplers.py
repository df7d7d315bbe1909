# SPDX-License-Identifier: Apache-2.0
"""Runs the publisher's schedulers on the cases and stores where they went.

`python -m tests.goldens.make_samplers`, with the extra `parity` (torch,
diffusers).
"""

import pathlib
import sys
import unittest.mock

import diffusers
import numpy as np
import safetensors.numpy
import torch

from tests.goldens import sampler_cases as cases

FILE = pathlib.Path(__file__).parent / "samplers.safetensors"


def run(case: str) -> np.ndarray:
  """What the net saw at each evaluation and, last, the result (N + 1, B, ...).

  Noise is the case's own, not the publisher's generator's.
  """
  config, num_steps = cases.CASES[case]
  start, fresh = (
    torch.from_numpy(np.moveaxis(noise, -1, -3).copy())
    for noise in cases.draw(case)
  )
  kind = getattr(diffusers, config["_class_name"])
  scheduler = kind.from_config({k: v for k, v in config.items() if k != "eta"})
  scheduler.set_timesteps(num_steps)
  if hasattr(scheduler, "set_begin_index"):
    # Found by its time, the first of two equal ones would be passed over.
    scheduler.set_begin_index(0)
  x = start * scheduler.init_noise_sigma
  options = {"eta": config["eta"]} if "eta" in config else {}
  module = sys.modules[kind.__module__]
  path = []
  for n, t in enumerate(scheduler.timesteps):
    seen = scheduler.scale_model_input(x, t)
    path.append(seen)
    said = cases.say(config, seen, t.float(), library=torch, axis=1)
    with unittest.mock.patch.object(
      module, "randn_tensor", lambda *_, n=n, **__: fresh[n], create=True
    ):
      x = scheduler.step(said, t, x, **options, return_dict=False)[0]
  return np.moveaxis(torch.stack([*path, x]).numpy(), -3, -1)


def main() -> None:
  safetensors.numpy.save_file(
    {case: np.ascontiguousarray(run(case)) for case in cases.CASES}, FILE
  )


if __name__ == "__main__":
  main()
