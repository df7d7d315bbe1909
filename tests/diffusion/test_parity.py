# SPDX-License-Identifier: Apache-2.0
"""Our samplers against the publisher's own code, run here."""

import numpy as np
import pytest

from suti.diffusion import cascade
from suti.diffusion.schedule import make_schedule
from tests.diffusion import ours
from tests.goldens import sampler_cases as cases

pytestmark = [
  pytest.mark.parity,
  # Not our code: what torch and its friends warn about when imported.
  pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def make():
  for name in ("torch", "diffusers"):
    pytest.importorskip(name, reason=f"{name} is not installed: [parity]")
  from tests.goldens import make_samplers

  return make_samplers


@pytest.mark.parametrize("case", cases.CASES)
def test_every_step_of_a_sampler(case, make, monkeypatch, record_property):
  expected = make.run(case)
  found = ours.run(case, monkeypatch)
  record_property("largest_error", float(np.abs(found - expected).max()))
  np.testing.assert_allclose(found, expected, rtol=0, atol=cases.atol(case))


def test_the_low_resolution_picture_of_a_cascade(make):
  import diffusers
  import torch

  rng = np.random.default_rng(0)
  small = rng.uniform(-1, 1, (2, 5, 7, 3)).astype(np.float32)
  noise = rng.standard_normal((2, 16, 20, 3)).astype(np.float32)
  upscaled = torch.nn.functional.interpolate(
    torch.from_numpy(small).permute(0, 3, 1, 2),
    (16, 20),
    mode="bilinear",
    align_corners=True,
  )
  scheduler = diffusers.DDPMScheduler.from_config(cases.IF)
  expected = scheduler.add_noise(
    upscaled,
    torch.from_numpy(noise).permute(0, 3, 1, 2),
    torch.tensor([250, 250]),
  )
  found = cascade.augment(
    make_schedule(cases.IF),
    cascade.upscale(small, height_px=16, width_px=20),
    noise,
    level=250,
  )
  np.testing.assert_allclose(
    found, expected.permute(0, 2, 3, 1).numpy(), atol=1e-5
  )
