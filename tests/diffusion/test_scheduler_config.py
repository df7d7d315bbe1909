# SPDX-License-Identifier: Apache-2.0
"""Plans of published configs: stored runs of the publisher's, and a Gaussian.

For x_0 ~ N(mean, std^2) the best estimate of x_0 given x_t is linear, and what
a sampler should reach is known, picture by picture if it draws no noise.

Shape legend: `B` batch, `H` `W` `C` picture.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from suti.diffusion import samplers
from suti.diffusion.plans.steps import ratios
from suti.diffusion.schedule import make_schedule
from suti.diffusion.scheduler_config import from_config
from tests.diffusion import ours
from tests.goldens import sampler_cases as cases

MEAN, STD = 0.3, 0.25
SD = cases.SD15 | {"set_alpha_to_one": True}
KARRAS = {"use_karras_sigmas": True}


@pytest.fixture(scope="module")
def goldens(root):
  path = root / "tests" / "goldens" / "samplers.safetensors"
  return safetensors.numpy.load_file(path)


def as_(name, config=SD, **options):
  return SD | config | {"_class_name": f"{name}Scheduler"} | options


@pytest.mark.parametrize("case", cases.CASES)
def test_every_step_is_the_publishers(case, goldens, monkeypatch):
  found = ours.run(case, monkeypatch)
  np.testing.assert_allclose(
    found, goldens[case], rtol=0, atol=cases.atol(case)
  )


def test_both_large_variances_are_one():
  # The publisher takes the root of the logarithm of one: nothing to compare.
  plans = [
    from_config(as_("DDPM", variance_type=f"fixed_large{end}"), num_steps=9)
    for end in ("", "_log")
  ]
  np.testing.assert_array_equal(plans[0].update_NSK, plans[1].update_NSK)


def test_karras_times_of_a_cosine_schedule_are_cut_off():
  config = {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}
  cut, rounded, exact = (
    from_config(as_(name, config), num_steps=9).t_N
    for name in ("DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete")
  )
  assert cut.dtype == rounded.dtype == np.int32
  assert exact.dtype == np.float32
  # Euler's levels start from the same ends, so its times are the same. The
  # first is whole but for a rounding, which is cut off too, as published.
  np.testing.assert_array_equal(cut[1:], np.floor(exact[1:]))
  assert (cut[0], exact[0]) == (998, 999)
  np.testing.assert_array_equal(rounded, np.round(exact))


@pytest.mark.parametrize(
  ("config", "num_steps", "evaluations"),
  [
    (cases.SD15, 50, 51),
    (as_("PNDM", skip_prk_steps=False), 50, 59),
    (cases.SD21, 50, 50),
    (cases.SDXL, 50, 50),
    (cases.IF, 100, 100),
    (as_("UniPCMultistep"), 20, 20),
  ],
)
def test_the_number_of_evaluations_is_visible(config, num_steps, evaluations):
  assert from_config(config, num_steps=num_steps).num_evaluations == evaluations


@pytest.mark.parametrize(
  ("name", "foreign"),
  [
    # What the class asked for does not read, whatever it says.
    ("DDIM", {"use_exponential_sigmas": True, "interpolation_type": "log"}),
    ("EulerAncestralDiscrete", {"use_beta_sigmas": True, "solver_p": {}}),
    ("EulerDiscrete", {"use_lu_lambdas": True, "use_flow_sigmas": True}),
    ("UniPCMultistep", {"use_lu_lambdas": True, "timestep_type": "continuous"}),
    ("PNDM", {"tensor_format": "pt", "use_karras_sigmas": True}),
    ("EulerDiscrete", {"use_karras_sigmas": None, "predict_epsilon": True}),
    # A latent consistency model's.
    ("DDIM", {"original_inference_steps": 50, "timestep_scaling": 10.0}),
  ],
)
def test_keys_of_other_classes_are_passed_over(name, foreign):
  found = from_config(as_(name, foreign), num_steps=9)
  expected = from_config(as_(name), num_steps=9)
  np.testing.assert_array_equal(found.t_N, expected.t_N)
  np.testing.assert_array_equal(found.update_NSK, expected.update_NSK)


def test_euler_goes_up_where_the_publisher_does():
  # Where the last step's noise is bounded, the one before may have more of it.
  config = as_(
    "EulerDiscrete",
    beta_schedule="linear",
    beta_end=0.05,
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
  )
  plan = from_config(config, num_steps=50)
  assert plan.sigma_N[1] / plan.alpha_N[1] > plan.sigma_N[0] / plan.alpha_N[0]


def exact_denoiser(schedule, prediction):
  """The perfect net for N(MEAN, STD^2), also between two steps."""
  ratio_T = jnp.asarray(ratios(schedule), jnp.float32)

  def denoise(x_BHWC, t_B):
    steps_T = jnp.arange(len(ratio_T), dtype=jnp.float32)
    ratio_B = jnp.interp(t_B.astype(jnp.float32), steps_T, ratio_T)
    ratio = ratio_B.reshape(-1, 1, 1, 1)
    alpha = 1 / jnp.sqrt(1 + ratio**2)
    sigma = ratio * alpha
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    x0 = MEAN + gain * (x_BHWC - alpha * MEAN)
    eps = (x_BHWC - alpha * x0) / sigma
    if prediction == "epsilon":
      return eps
    return x0 if prediction == "sample" else alpha * eps - sigma * x0

  return denoise


def reach(config, *, num_steps, batch_size, eta=0.0):
  """Samples at the least noise of the schedule; also where the path leads."""
  plan = from_config(config, num_steps=num_steps, eta=eta)
  schedule = make_schedule(config)
  keys_B = samplers.row_keys(jax.random.key(0), np.arange(batch_size))
  noise_BHWC = samplers.draw_noise(keys_B, (4, 4, 2))
  denoise = exact_denoiser(schedule, plan.prediction)
  x_BHWC = samplers.sample(denoise, plan, noise_BHWC, keys_B)
  z_BHWC = noise_BHWC * plan.noise_scale - plan.alpha_N[0] * MEAN
  z_BHWC /= np.hypot(plan.alpha_N[0] * STD, plan.sigma_N[0])
  end = schedule.alpha_T[0], schedule.sigma_T[0]
  if "Euler" in config["_class_name"]:
    end = 1.0, end[1] / end[0]
  truth_BHWC = end[0] * MEAN + np.hypot(end[0] * STD, end[1]) * z_BHWC
  return x_BHWC, truth_BHWC


@pytest.mark.parametrize(
  ("config", "eta"),
  [
    (as_("DDPM"), 0.0),
    (as_("DDPM", variance_type="fixed_large"), 0.0),
    (as_("DDIM"), 1.0),
    (as_("EulerAncestralDiscrete"), 0.0),
    (as_("DPMSolverMultistep", algorithm_type="sde-dpmsolver++"), 0.0),
  ],
)
def test_random_samplers_reach_mean_and_variance(config, eta):
  config = config | {
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
  }
  x_BHWC, _ = reach(config, num_steps=500, batch_size=512, eta=eta)
  # 16K draws: the mean is known to 0.002, the deviation to 0.0014.
  assert float(x_BHWC.mean()) == pytest.approx(MEAN, abs=0.006)
  assert float(x_BHWC.std()) == pytest.approx(STD, abs=0.006)


@pytest.mark.parametrize(
  ("config", "first_order"),
  [
    (as_("DDIM", prediction_type="sample"), True),
    (as_("EulerDiscrete"), True),
    (as_("EulerDiscrete", KARRAS), True),
    (as_("PNDM"), False),
    (as_("PNDM", prediction_type="sample"), False),
    (as_("PNDM", skip_prk_steps=False), False),
    (as_("DPMSolverMultistep", KARRAS, solver_order=1), True),
    (as_("DPMSolverMultistep", KARRAS), False),
    (as_("DPMSolverMultistep", KARRAS, solver_type="heun"), False),
    (as_("DPMSolverMultistep", KARRAS, solver_order=3), False),
    # The corrector adds an order.
    (as_("UniPCMultistep", KARRAS, solver_order=1), False),
    (as_("UniPCMultistep", KARRAS), False),
    (as_("UniPCMultistep", KARRAS, solver_order=3), False),
    (as_("UniPCMultistep", KARRAS, predict_x0=False), False),
  ],
)
def test_errors_of_the_others_fall_as_their_order_says(config, first_order):
  config = config | {
    "set_alpha_to_one": False,
    "final_sigmas_type": "sigma_min",
  }

  def error(num_steps):
    x_BHWC, truth_BHWC = reach(config, num_steps=num_steps, batch_size=4)
    return float(jnp.abs(x_BHWC - truth_BHWC).mean())

  coarse, fine = error(20), error(80)
  # Times are rounded, which leaves an error of about 1e-4.
  assert fine < (0.016 if first_order else 1e-3)
  assert coarse / fine > (3 if first_order else 8) or fine < 2e-4


def test_plans_of_one_shape_compile_once_and_guidance_never():
  traces = []

  @jax.jit
  def draw(plan, noise_BHWC, keys_B, scale):
    def denoise(x_BHWC, t_B):
      traces.append(None)
      return scale * x_BHWC

    return samplers.sample(denoise, plan, noise_BHWC, keys_B)

  keys_B = samplers.row_keys(jax.random.key(0), np.arange(2))
  noise_BHWC = samplers.draw_noise(keys_B, (2, 2, 1))
  results = [
    draw(from_config(config, num_steps=6), noise_BHWC, keys_B, scale)
    for config in (cases.SDXL, as_("DDIM", cases.SDXL))
    for scale in (0.8, 0.9)
  ]
  assert len(traces) == 1
  assert len({float(x_BHWC.sum()) for x_BHWC in results}) == 4


def test_a_net_without_variance_is_named():
  plan = from_config(cases.IF, num_steps=3)
  x_BHWC = jnp.zeros((1, 2, 2, 3))
  with pytest.raises(ValueError, match="reads a variance from 6 channels, but"):
    samplers.sample(lambda x, t: x, plan, x_BHWC, jax.random.key(0))


def test_a_variance_nobody_reads_is_left():
  config = as_("DPMSolverMultistep", cases.IF)
  plan = from_config(config, num_steps=5)
  x_BHWC = jax.random.normal(jax.random.key(0), (2, 2, 2, 3))

  def sample(denoise):
    return samplers.sample(denoise, plan, x_BHWC, jax.random.key(0))

  both = sample(lambda x, t: jnp.concatenate([0.9 * x, x], axis=-1))
  np.testing.assert_array_equal(both, sample(lambda x, t: 0.9 * x))


@pytest.mark.parametrize(
  "options",
  [
    {"solver_type": "bh1"},
    {"predict_x0": False},
    {"lower_order_final": False, "solver_order": 3},
  ],
)
def test_unipc_ends_without_noise_where_the_published_divides_by_zero(options):
  clean = as_("UniPCMultistep", KARRAS)
  expected, _ = reach(clean, num_steps=40, batch_size=4)
  found, _ = reach(clean | options, num_steps=40, batch_size=4)
  assert float(jnp.abs(found - expected).max()) < 2e-3


@pytest.mark.parametrize(
  ("config", "num_steps", "words"),
  [
    (as_("Heun"), 9, r"_class_name='HeunScheduler' .* one of DDPMScheduler, "),
    ({}, 9, "_class_name=None of the scheduler config is unknown"),
    (as_("DDIM", sigma_data=1.0), 9, "sigma_data=1.0 .* is unknown: remove it"),
    (
      as_("DDIM", timestep_spacing="even"),
      9,
      "timestep_spacing='even' .* trai",
    ),
    (as_("DDIM", steps_offset=-1), 9, "steps_offset=-1 .* a whole number"),
    (as_("DDIM", steps_offset=1), 1000, "num_steps=1000 does not fit the 1000"),
    (as_("UniPCMultistep"), 1000, "num_steps=1000 does not fit the 1000 steps"),
    (as_("DDIM"), 0, "num_steps=0 must be between 1 and 1000"),
    (as_("PNDM", skip_prk_steps=False), 3, "num_steps=3 .* at least 4"),
    (
      as_("DDPM", variance_type="learned"),
      9,
      "variance_type='learned' .* lear",
    ),
    (as_("DPMSolverMultistep", solver_order=4), 9, "solver_order=4 .* 1, 2, 3"),
    (
      as_("DPMSolverMultistep", algorithm_type="dpmsolver"),
      9,
      "type='dpmsolver' .* sde-",
    ),
    (
      as_(
        "DPMSolverMultistep", solver_order=3, algorithm_type="sde-dpmsolver++"
      ),
      9,
      "solver_order=3 .* not supported with algorithm_type='sde-dpmsolver",
    ),
    (
      as_("UniPCMultistep", final_sigmas_type="one"),
      9,
      "final_sigmas_type='on",
    ),
    (as_("UniPCMultistep", solver_p={}), 9, "solver_p={} .* must be None"),
    (as_("DDIM", predict_epsilon=False), 9, "epsilon=False .* must be True"),
    (
      as_("EulerDiscrete", KARRAS, sigma_min=0.0),
      9,
      "sigma_min=0, and both above 0",
    ),
    (
      as_(
        "EulerAncestralDiscrete",
        beta_schedule="linear",
        beta_end=0.05,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
      ),
      50,
      r"num_steps=50 of EulerAncestral.* not finite, .*\(rescale_betas_zero_snr"
      r"=True, beta_end=0\.05 of the scheduler config\): correct them, or take",
    ),
    (
      as_("UniPCMultistep", predict_x0=False, thresholding=True),
      9,
      "thresholding=True .* needs predict_x0=True",
    ),
    (
      as_("EulerDiscrete", use_beta_sigmas=True),
      9,
      "use_beta_sigmas=True .* Fa",
    ),
    (
      as_("EulerDiscrete", interpolation_type="log_linear"),
      9,
      "interpolation_type='log_linear' .* must be 'linear'",
    ),
    (
      as_("EulerDiscrete", cases.IF),
      9,
      "thresholding=True .* nothing that EulerDiscreteScheduler does: .* DDPM",
    ),
    (
      as_("PNDM", cases.SD21, rescale_betas_zero_snr=True),
      9,
      "rescale_betas_zero_snr=True .* nothing that PNDMScheduler does",
    ),
    (
      cases.IF | {"dynamic_thresholding_ratio": 95},
      9,
      "dynamic_thresholding_ratio=95 .* at most 1",
    ),
    (
      cases.IF | {"sample_max_value": 0.5},
      9,
      "sample_max_value=0.5 .* at least",
    ),
    (as_("DDIM", trained_betas=[0.1]), 9, "trained_betas .* has 1 values"),
  ],
)
def test_configs_that_cannot_be_followed_are_named(config, num_steps, words):
  with pytest.raises(ValueError, match=words) as error:
    from_config(config, num_steps=num_steps)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "eta"), [("DDIM", 1.5), ("DDPM", 0.5)])
def test_eta_out_of_place_is_named(name, eta):
  with pytest.raises(ValueError, match=f"eta={eta} with {name}Scheduler"):
    from_config(as_(name), num_steps=9, eta=eta)
