# SPDX-License-Identifier: Apache-2.0
"""Samplers against a Gaussian, whose exact denoiser is known.

For x_0 ~ N(mean, std^2) the best estimate of x_0 given x_t is linear, and the
path without noise leads from z sqrt(alpha^2 std^2 + sigma^2) + alpha mean to
mean + std z: both the distribution and each single picture can be checked.

Shape legend: `B` batch, `H` `W` `C` picture.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.diffusion import samplers
from suti.diffusion import schedule as schedules

MEAN, STD = 0.3, 0.25
SAMPLERS = tuple(samplers.SAMPLERS.values())


def make(prediction="v_prediction", **config):
  config = {"beta_schedule": "cosine", "prediction_type": prediction} | config
  return schedules.make_schedule(config)


def exact_denoiser(schedule, *, mean=MEAN, std=STD):
  """The perfect net for N(mean, std^2), in the schedule's own prediction."""

  def denoise(x_BHWC, t_B):
    alpha = jnp.asarray(schedule.alpha_T)[t_B][:, None, None, None]
    sigma = jnp.asarray(schedule.sigma_T)[t_B][:, None, None, None]
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    x0 = mean + gain * (x_BHWC - alpha * mean)
    noise = (x_BHWC - alpha * x0) / sigma
    return schedules.target(schedule, x0, noise, t_B)

  return denoise


def noise_and_keys(batch_size, shape=(4, 4, 2), seed=0):
  keys_B = samplers.row_keys(jax.random.key(seed), np.arange(batch_size))
  return samplers.draw_noise(keys_B, shape), keys_B


@pytest.mark.parametrize(
  ("sampler", "num_steps", "prediction"),
  [
    (samplers.ddpm, 400, "epsilon"),
    (samplers.ddim, 200, "sample"),
    (functools.partial(samplers.ddim, eta=1.0), 400, "v_prediction"),
    (samplers.dpmpp_2m, 50, "epsilon"),
    (samplers.dpmpp_2m, 50, "sample"),
    (samplers.dpmpp_2m, 50, "v_prediction"),
  ],
)
def test_reaches_mean_and_variance(sampler, num_steps, prediction):
  schedule = make(prediction)
  noise_BHWC, keys_B = noise_and_keys(1024)
  x0_BHWC = sampler(
    exact_denoiser(schedule),
    schedule,
    noise_BHWC,
    keys_B,
    num_steps=num_steps,
    clip=False,
  )
  assert x0_BHWC.dtype == jnp.float32
  # 32K draws: the mean is known to 0.0014, the deviation to 0.001.
  assert float(x0_BHWC.mean()) == pytest.approx(MEAN, abs=0.006)
  assert float(x0_BHWC.std()) == pytest.approx(STD, abs=0.006)


@pytest.mark.parametrize(
  ("sampler", "order"), [(samplers.ddim, 1), (samplers.dpmpp_2m, 2)]
)
def test_error_falls_as_the_order_says(sampler, order):
  # A process that keeps a little noise at its start and signal at its end, so
  # that no single step's error hides that of the others.
  schedule = make("sample", beta_schedule="linear", num_train_timesteps=1000)
  noise_BHWC, keys_B = noise_and_keys(8)
  alpha, sigma = float(schedule.alpha_T[-1]), float(schedule.sigma_T[-1])
  z = (noise_BHWC - alpha * MEAN) / np.sqrt(alpha**2 * STD**2 + sigma**2)
  truth = MEAN + STD * z

  def error(num_steps):
    x0_BHWC = sampler(
      exact_denoiser(schedule),
      schedule,
      noise_BHWC,
      keys_B,
      num_steps=num_steps,
      clip=False,
    )
    return float(jnp.abs(x0_BHWC - truth).mean())

  coarse, fine = error(20), error(80)
  assert fine < 0.02
  # Four times the steps: a quarter of the error, or a sixteenth, with the
  # slack that unequal steps ask for.
  assert coarse / fine > (2.5 if order == 1 else 7)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_does_not_depend_on_its_batch(sampler):
  schedule = make()
  key = jax.random.key(3)

  def sample(seeds):
    keys_B = samplers.row_keys(key, np.array(seeds))
    noise_BHWC = samplers.draw_noise(keys_B, (4, 4, 1))
    return sampler(
      exact_denoiser(schedule), schedule, noise_BHWC, keys_B, num_steps=12
    )

  together = sample([7, 8, 9, 10])
  alone = sample([9])
  moved = sample([10, 9, 8, 7])
  np.testing.assert_allclose(together[2], alone[0], atol=1e-6)
  np.testing.assert_allclose(together, moved[::-1], atol=1e-6)
  assert float(jnp.abs(together[0] - together[1]).max()) > 0.05


def test_keys_matter_to_the_ancestral_sampler_alone():
  schedule = make()
  noise_BHWC, keys_B = noise_and_keys(2)
  other_B = samplers.row_keys(jax.random.key(99), np.arange(2))
  for sampler, differs in zip(SAMPLERS, (True, False, False), strict=True):
    one, two = (
      sampler(exact_denoiser(schedule), schedule, noise_BHWC, k, num_steps=5)
      for k in (keys_B, other_B)
    )
    assert bool(jnp.any(one != two)) == differs


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_starts_from_noise_alone(sampler):
  # Zero terminal SNR: alpha is 0 at the first step, which divides by it.
  schedule = make(rescale_betas_zero_snr=True)
  noise_BHWC, keys_B = noise_and_keys(64)
  x0_BHWC = sampler(
    exact_denoiser(schedule), schedule, noise_BHWC, keys_B, num_steps=40
  )
  assert bool(jnp.isfinite(x0_BHWC).all())
  assert float(x0_BHWC.mean()) == pytest.approx(MEAN, abs=0.03)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_returns_the_first_estimate(sampler):
  schedule = make("sample")
  noise_BHWC, keys_B = noise_and_keys(2)
  x0_BHWC = sampler(
    lambda x, t: 0.5 * x, schedule, noise_BHWC, keys_B, num_steps=1, clip=False
  )
  np.testing.assert_allclose(x0_BHWC, 0.5 * noise_BHWC, rtol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clipping_bounds_pictures_and_only_if_asked(sampler):
  schedule = make()
  noise_BHWC, keys_B = noise_and_keys(4)
  denoise = exact_denoiser(schedule, mean=2.0)
  run = functools.partial(
    sampler, denoise, schedule, noise_BHWC, keys_B, num_steps=10
  )
  assert float(jnp.abs(run()).max()) <= 1.0
  assert float(run(clip=False).mean()) > 1.5
  dynamic = run(percentile=99.5)
  assert float(jnp.abs(dynamic).max()) <= 1.0
  # Dynamic thresholding rescales where clipping saturates.
  assert float(dynamic.mean()) < float(run().mean())


def test_timesteps_by_every_spacing():
  schedule = make()
  chosen = functools.partial(samplers.timesteps, schedule, 4)
  np.testing.assert_array_equal(chosen(), [999, 749, 499, 249])
  np.testing.assert_array_equal(chosen(spacing="leading"), [750, 500, 250, 0])
  np.testing.assert_array_equal(chosen(spacing="linspace"), [999, 666, 333, 0])
  every = samplers.timesteps(schedule, 1000)
  np.testing.assert_array_equal(every, np.arange(1000)[::-1])
  for num_steps in (3, 7, 64, 999):
    assert np.all(np.diff(samplers.timesteps(schedule, num_steps)) < 0)


def test_impossible_step_counts_are_named():
  schedule = make()
  with pytest.raises(ValueError, match="num_steps=0 must be between 1"):
    samplers.timesteps(schedule, 0)
  with pytest.raises(ValueError, match="num_steps=1001"):
    samplers.timesteps(schedule, 1001)
  with pytest.raises(ValueError, match="spacing='even'"):
    samplers.timesteps(schedule, 10, spacing="even")


def test_a_sampler_is_one_loop():
  schedule = make()
  noise_BHWC, keys_B = noise_and_keys(2)
  for sampler in SAMPLERS:
    traces = []

    def denoise(x_BHWC, t_B, traces=traces):
      traces.append(None)
      return x_BHWC

    jax.make_jaxpr(functools.partial(sampler, denoise, schedule, num_steps=50))(
      noise_BHWC, keys_B
    )
    assert len(traces) == 1
