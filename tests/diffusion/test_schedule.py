# SPDX-License-Identifier: Apache-2.0
"""Schedules against closed forms, and the three predictions against each other.

Shape legend: `B` batch, `T` diffusion steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.diffusion import schedule as schedules

COSINE = {"beta_schedule": "squaredcos_cap_v2"}
SD15 = {
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "prediction_type": "epsilon",
  "num_train_timesteps": 1000,
  # Of no concern to the process; published configs have them.
  "clip_sample": False,
  "steps_offset": 1,
  "_class_name": "PNDMScheduler",
}


def test_linear_is_the_product_of_its_betas():
  schedule = schedules.make_schedule({"num_train_timesteps": 4})
  betas = [1e-4, 1e-4 + 0.0199 / 3, 1e-4 + 2 * 0.0199 / 3, 0.02]
  expected = np.cumprod([1 - beta for beta in betas])
  np.testing.assert_allclose(schedule.alphas_cumprod_T, expected, rtol=1e-6)
  assert schedule.prediction == "epsilon"
  assert schedule.num_steps == 4


def test_scaled_linear_of_stable_diffusion():
  schedule = schedules.make_schedule(SD15)
  # Betas are squares of numbers evenly between the roots of both ends.
  beta = ((0.00085**0.5 * 999 + (0.012**0.5 - 0.00085**0.5) * 500) / 999) ** 2
  acp = schedule.alphas_cumprod_T.astype(np.float64)
  assert acp[0] == pytest.approx(1 - 0.00085, rel=1e-6)
  assert 1 - acp[500] / acp[499] == pytest.approx(beta, rel=1e-3)
  # The published process keeps about 0.47% of the signal's power at its end.
  assert acp[-1] == pytest.approx(0.00466, rel=2e-3)


def test_cosine_follows_its_curve_until_the_cap():
  schedule = schedules.make_schedule(COSINE)
  t_T = np.arange(1, 1001) / 1000
  curve = np.cos((t_T + 0.008) / 1.008 * np.pi / 2) ** 2
  curve /= np.cos(0.008 / 1.008 * np.pi / 2) ** 2
  # The product of 1 - beta telescopes to the curve while no beta is capped.
  np.testing.assert_allclose(
    schedule.alphas_cumprod_T[:998], curve[:998], rtol=1e-4
  )
  # The last beta would be 1: capped at 0.999 it leaves a thousandth.
  acp = schedule.alphas_cumprod_T.astype(np.float64)
  assert acp[999] / acp[998] == pytest.approx(1e-3, rel=1e-3)
  betas = 1 - acp[1:] / acp[:-1]
  assert betas.max() <= 0.999 + 1e-6
  other_name = schedules.make_schedule({"beta_schedule": "cosine"})
  np.testing.assert_array_equal(
    schedule.alphas_cumprod_T, other_name.alphas_cumprod_T
  )


def test_betas_can_be_given_one_by_one():
  betas = [0.1, 0.2, 0.4]
  schedule = schedules.make_schedule(
    {"trained_betas": betas, "num_train_timesteps": 3, "beta_schedule": None}
  )
  np.testing.assert_allclose(
    schedule.alphas_cumprod_T, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.6], rtol=1e-6
  )


def test_zero_terminal_snr_keeps_the_first_step_and_empties_the_last():
  plain = schedules.make_schedule(SD15)
  rescaled = schedules.make_schedule(
    SD15 | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
  )
  assert rescaled.alpha_T[0] == pytest.approx(plain.alpha_T[0], rel=1e-6)
  assert rescaled.alpha_T[-1] == 0.0
  assert rescaled.sigma_T[-1] == 1.0
  assert np.all(np.diff(rescaled.alpha_T) < 0)


def test_variance_is_preserved_and_constants_are_float32():
  schedule = schedules.make_schedule(COSINE)
  for constant in (schedule.alphas_cumprod_T, schedule.alpha_T):
    assert constant.dtype == np.float32
  power = np.square([schedule.alpha_T, schedule.sigma_T], dtype=float).sum(0)
  np.testing.assert_allclose(power, 1.0, atol=2e-7)


@pytest.mark.parametrize("prediction", schedules.PREDICTIONS)
def test_every_prediction_gives_back_picture_and_noise(prediction):
  schedule = schedules.make_schedule(COSINE | {"prediction_type": prediction})
  keys = jax.random.split(jax.random.key(0))
  x0_BHWC = jax.random.uniform(keys[0], (5, 3, 2, 4), minval=-1.0)
  noise_BHWC = jax.random.normal(keys[1], x0_BHWC.shape)
  t_B = jnp.array([1, 100, 400, 700, 900])
  x_BHWC = schedules.add_noise(schedule, x0_BHWC, noise_BHWC, t_B)
  said = schedules.target(schedule, x0_BHWC, noise_BHWC, t_B)
  alpha = jnp.asarray(schedule.alpha_T)[t_B][:, None, None, None]
  sigma = jnp.asarray(schedule.sigma_T)[t_B][:, None, None, None]
  for read, truth in (
    (schedules.read_x0, x0_BHWC),
    (schedules.read_eps, noise_BHWC),
  ):
    # Steps with next to no noise or no signal amplify rounding by 1 / sigma.
    np.testing.assert_allclose(
      read(prediction, x_BHWC, said, alpha, sigma), truth, atol=2e-4
    )
  # What a net of this kind must have said.
  expected = {
    "epsilon": noise_BHWC,
    "v_prediction": alpha * noise_BHWC - sigma * x0_BHWC,
    "sample": x0_BHWC,
  }
  np.testing.assert_allclose(said, expected[prediction], atol=1e-6)


def test_snr_is_alpha_over_sigma_squared():
  schedule = schedules.make_schedule(COSINE)
  t_B = jnp.array([10, 500, 990])
  acp_B = schedule.alphas_cumprod_T[np.array(t_B)].astype(np.float64)
  np.testing.assert_allclose(
    schedules.snr(schedule, t_B), acp_B / (1 - acp_B), rtol=1e-4
  )


@pytest.mark.parametrize(
  ("config", "words"),
  [
    ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid'"),
    ({"prediction_type": "noise"}, "prediction_type='noise'"),
    ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
    (
      {"trained_betas": [0.1]},
      "trained_betas .* has 1 values: .* num_train_timesteps=1000",
    ),
    ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr needs"),
  ],
)
def test_unknown_schedules_are_named(config, words):
  with pytest.raises(ValueError, match=words):
    schedules.make_schedule(config)
