# SPDX-License-Identifier: Apache-2.0
"""What a super-resolution stage is shown, against closed forms.

Shape legend: `B` batch, `H` `W` `C` picture.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.diffusion import cascade
from suti.diffusion.schedule import make_schedule


def test_upscaling_puts_corners_on_corners_and_is_linear_between():
  down, across = jnp.meshgrid(jnp.arange(3.0), jnp.arange(5.0), indexing="ij")
  image_BHWC = (2.0 * down - across)[None, :, :, None]
  found_BHWC = cascade.upscale(image_BHWC, height_px=9, width_px=12)
  down, across = np.meshgrid(
    np.linspace(0, 2, 9), np.linspace(0, 4, 12), indexing="ij"
  )
  np.testing.assert_allclose(
    found_BHWC[0, :, :, 0], 2 * down - across, atol=1e-6
  )


def test_noise_is_of_the_level_that_the_net_is_told():
  schedule = make_schedule({"beta_schedule": "squaredcos_cap_v2"})
  noise_BHWC = jax.random.normal(jax.random.key(0), (64, 8, 8, 3))
  image_BHWC = jnp.full_like(noise_BHWC, 0.5)
  found_BHWC = cascade.augment(schedule, image_BHWC, noise_BHWC, level=250)
  alpha = np.cos((0.251 + 0.008) / 1.008 * np.pi / 2)
  assert float(found_BHWC.mean()) == pytest.approx(0.5 * alpha, abs=0.02)
  assert float(found_BHWC.std()) ** 2 == pytest.approx(1 - alpha**2, abs=0.01)


def test_a_level_that_does_not_exist_is_named():
  schedule = make_schedule({})
  image_BHWC = jnp.zeros((1, 2, 2, 3))
  with pytest.raises(ValueError, match="level=1000 must be between 0 and 999"):
    cascade.augment(schedule, image_BHWC, image_BHWC, level=1000)
