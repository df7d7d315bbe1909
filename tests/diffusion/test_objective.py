# SPDX-License-Identifier: Apache-2.0
"""The loss: what it measures, how it weighs, which steps it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.config import options
from suti.diffusion import objective
from suti.diffusion import schedule as schedules


def make(prediction="epsilon"):
  return schedules.make_schedule(
    {"beta_schedule": "cosine", "prediction_type": prediction}
  )


def test_a_net_that_says_zero_pays_the_power_of_the_noise():
  schedule = make()
  x0_BHWC = jnp.zeros((512, 4, 4, 3))
  loss_B = objective.denoising_loss(
    schedule, lambda x, t: jnp.zeros_like(x), x0_BHWC, jax.random.key(0)
  )
  assert loss_B.shape == (512,)
  assert loss_B.dtype == jnp.float32
  assert float(loss_B.mean()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("prediction", schedules.PREDICTIONS)
@pytest.mark.parametrize("weighting", objective.WEIGHTINGS)
def test_a_perfect_net_pays_nothing(prediction, weighting):
  schedule = make(prediction)
  x0_BHWC = jnp.full((16, 2, 2, 3), 0.25)
  key = jax.random.key(1)

  def denoise(x_BHWC, t_B):
    alpha = jnp.asarray(schedule.alpha_T)[t_B][:, None, None, None]
    sigma = jnp.asarray(schedule.sigma_T)[t_B][:, None, None, None]
    noise = (x_BHWC - alpha * x0_BHWC) / sigma
    return schedules.target(schedule, x0_BHWC, noise, t_B)

  loss_B = objective.denoising_loss(
    schedule, denoise, x0_BHWC, key, weighting=weighting
  )
  np.testing.assert_allclose(loss_B, 0.0, atol=1e-6)


def test_min_snr_weighs_the_same_mistake_the_same_in_every_prediction():
  # The same wrong x_0, said as eps, as v and as itself.
  t_B = jnp.array([50, 300, 600, 900])
  keys = jax.random.split(jax.random.key(2), 3)
  x0_BHWC = jax.random.normal(keys[0], (4, 3, 3, 2))
  noise_BHWC = jax.random.normal(keys[1], x0_BHWC.shape)
  wrong_BHWC = x0_BHWC + 0.1 * jax.random.normal(keys[2], x0_BHWC.shape)
  losses = []
  for prediction in schedules.PREDICTIONS:
    schedule = make(prediction)

    def denoise(x_BHWC, t_B, schedule=schedule):
      alpha = jnp.asarray(schedule.alpha_T)[t_B][:, None, None, None]
      sigma = jnp.asarray(schedule.sigma_T)[t_B][:, None, None, None]
      noise = (x_BHWC - alpha * wrong_BHWC) / sigma
      return schedules.target(schedule, wrong_BHWC, noise, t_B)

    losses.append(
      objective.denoising_loss_at(
        schedule, denoise, x0_BHWC, noise_BHWC, t_B, weighting="min_snr"
      )
    )
  np.testing.assert_allclose(losses[0], losses[2], rtol=2e-3)
  np.testing.assert_allclose(losses[1], losses[2], rtol=2e-3)
  # Where there is little noise the cap holds: 5 times the error of x_0.
  error = jnp.square(wrong_BHWC - x0_BHWC).mean(axis=(1, 2, 3))
  assert float(losses[2][0] / error[0]) == pytest.approx(5.0, rel=1e-3)


def test_weights_of_x_0():
  schedule = make("sample")
  t_B = jnp.array([10, 500, 990])
  snr_B = np.asarray(schedules.snr(schedule, t_B))
  assert snr_B[0] > 5.0 and snr_B[2] < 1.0
  for weighting, expected_B in {
    "uniform": np.ones(3),
    "min_snr": np.minimum(snr_B, 5.0),
    "truncated_snr": np.maximum(snr_B, 1.0),
    "clamped_snr": np.clip(snr_B, 1.0, 5.0),
    "snr_plus_one": np.minimum(snr_B + 1.0, 5.0),
  }.items():
    weight_B = objective.loss_weight(
      schedule, t_B, weighting=weighting, gamma=5.0
    )
    np.testing.assert_allclose(weight_B, expected_B, rtol=1e-5)


def test_the_error_of_v_is_snr_plus_one_times_that_of_x_0():
  t_B = jnp.array([200, 500, 900])
  weights = [
    objective.loss_weight(
      make(prediction), t_B, weighting="snr_plus_one", gamma=1e9
    )
    for prediction in ("v_prediction", "sample")
  ]
  np.testing.assert_allclose(weights[0], 1.0, rtol=1e-5)
  np.testing.assert_allclose(
    weights[1], schedules.snr(make(), t_B) + 1.0, rtol=1e-5
  )


def test_rows_are_measured_apart():
  schedule = make("sample")
  x0_BHWC = jnp.stack([jnp.full((2, 2, 1), v) for v in (0.0, 1.0, 2.0)])
  t_B = jnp.array([5, 500, 995])
  loss_B = objective.denoising_loss_at(
    schedule, lambda x, t: jnp.zeros_like(x), x0_BHWC, x0_BHWC, t_B
  )
  np.testing.assert_allclose(loss_B, [0.0, 1.0, 4.0])


@pytest.mark.parametrize("stratified", [False, True])
def test_steps_are_uniform(stratified):
  schedule = make()

  def draw(key):
    return objective.draw_steps(
      schedule, key, batch_size=8, stratified=stratified
    )

  t = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(4), 4000)))
  assert t.min() >= 0 and t.max() <= 999
  counts, _ = np.histogram(t, bins=10, range=(0, 1000))
  np.testing.assert_allclose(counts / t.size, 0.1, atol=0.01)
  # Also at each place of the batch, not only over the batch.
  np.testing.assert_allclose(t.mean(axis=0), 499.5, atol=20)
  eighths = np.sort(t // 125, axis=1)
  evenly = (eighths == np.arange(8)).all(axis=1).mean()
  assert evenly == 1.0 if stratified else evenly < 0.05


@pytest.mark.parametrize("stratified", [False, True])
def test_steps_have_a_normal_log_snr(stratified):
  schedule = make()

  def draw(key):
    return objective.draw_steps(
      schedule, key, batch_size=8, stratified=stratified, log_snr=(0.5, 2.0)
    )

  t = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(4), 4000)))
  log_snr = np.log(np.asarray(schedules.snr(schedule, t)))
  assert log_snr.mean() == pytest.approx(0.5, abs=0.05)
  assert log_snr.std() == pytest.approx(2.0, abs=0.05)
  # A batch has each eighth of the distribution once, in any order.
  np.testing.assert_allclose(log_snr.mean(axis=0), 0.5, atol=0.15)
  middle = (np.sort(log_snr, axis=1)[:, 3] < 0.52).mean()
  assert middle == 1.0 if stratified else middle < 0.9


def test_same_key_same_loss():
  schedule = make()
  x0_BHWC = jnp.ones((3, 2, 2, 1))
  one, two, other = (
    objective.denoising_loss(
      schedule, lambda x, t: x, x0_BHWC, jax.random.key(seed)
    )
    for seed in (5, 5, 6)
  )
  np.testing.assert_array_equal(one, two)
  assert bool(jnp.any(one != other))


def test_unknown_weighting_is_named():
  with pytest.raises(ValueError, match="weighting='p2' is unknown"):
    objective.loss_weight(make(), jnp.array([1]), weighting="p2")


def test_configs_offer_the_same_weightings():
  assert options.WEIGHTINGS == objective.WEIGHTINGS
