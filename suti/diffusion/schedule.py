# SPDX-License-Identifier: Apache-2.0
"""Noise schedules, and what a net may predict.

x_t = alpha_t x_0 + sigma_t eps with alpha_t^2 + sigma_t^2 = 1, over T integer
steps (Ho et al., arXiv 2006.11239; v of Salimans and Ho, arXiv 2202.00512). A
schedule is read from the `scheduler_config.json` of a published model, of which
only what fixes the process is used: the rest defines the sampler
(`suti.diffusion.scheduler_config`).

Shape legend: `B` batch, `H` `W` `C` picture or latent, `T` diffusion steps.
Functions take any rank after `B`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.config.values import check_kinds

Array = jax.Array

PREDICTIONS = ("epsilon", "v_prediction", "sample")

# What fixes the process, and the publisher's values of it.
_DEFAULTS = {
  "num_train_timesteps": 1000,
  "beta_schedule": "linear",
  "beta_start": 1e-4,
  "beta_end": 0.02,
  "prediction_type": "epsilon",
  "trained_betas": None,
  "rescale_betas_zero_snr": False,
}
_MOST_STEPS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
  """A variance-preserving noise schedule.

  Attributes:
    alphas_cumprod_T: alpha_t^2, float32, falling, in [0, 1).
    alpha_T: what the clean picture is scaled by, float32.
    sigma_T: what the noise is scaled by, float32; kept beside `alpha_T` because
      1 - alpha^2 loses its digits in float32 where there is little noise.
    prediction: what the net predicts: "epsilon", "v_prediction" or "sample".
  """

  alphas_cumprod_T: np.ndarray
  alpha_T: np.ndarray
  sigma_T: np.ndarray
  prediction: str

  @property
  def num_steps(self) -> int:
    """T, the number of steps the net was trained on."""
    return len(self.alphas_cumprod_T)


def make_schedule(scheduler_config: Mapping[str, Any]) -> Schedule:
  """Builds a schedule from a published scheduler config.

  Args:
    scheduler_config: the content of `scheduler_config.json`. Used are
      num_train_timesteps, trained_betas, else beta_schedule ("linear",
      "scaled_linear", "squaredcos_cap_v2" or its other name "cosine"),
      beta_start, beta_end; prediction_type and rescale_betas_zero_snr; with the
      publisher's defaults.

  Returns:
    The schedule.

  Raises:
    ValueError: a field holds something unknown.
  """
  config = {**_DEFAULTS, **scheduler_config}
  # Where betas are given one by one, their schedule has no name.
  kinds = _DEFAULTS | {"beta_schedule": None}
  check_kinds(config, kinds, what="the scheduler config")
  num_steps, name = config["num_train_timesteps"], config["beta_schedule"]
  start, end = config["beta_start"], config["beta_end"]
  prediction, trained = config["prediction_type"], config["trained_betas"]
  if prediction not in PREDICTIONS:
    raise ValueError(
      f"prediction_type={prediction!r} of the scheduler config is unknown:"
      f" it must be one of {', '.join(PREDICTIONS)}."
    )
  if num_steps > _MOST_STEPS:
    raise ValueError(
      f"num_train_timesteps={num_steps} of the scheduler config must be at most"
      f" {_MOST_STEPS}."
    )
  if trained is not None:
    check_kinds(config, {"trained_betas": (0.0,)}, what="the scheduler config")
    betas_T = np.array(trained, np.float64)
    if len(betas_T) != num_steps:
      raise ValueError(
        f"trained_betas of the scheduler config has {betas_T.size} values: it"
        f" must have one for each of the num_train_timesteps={num_steps}."
      )
  elif name == "linear":
    betas_T = np.linspace(start, end, num_steps, dtype=np.float64)
  elif name == "scaled_linear":
    betas_T = np.linspace(start**0.5, end**0.5, num_steps) ** 2
  elif name in ("squaredcos_cap_v2", "cosine"):
    betas_T = _cosine_betas(num_steps)
  else:
    raise ValueError(
      f"beta_schedule={name!r} of the scheduler config is unknown: it must be"
      " linear, scaled_linear or squaredcos_cap_v2 (cosine)."
    )
  if not (betas_T.min() > 0 and betas_T.max() < 1):
    raise ValueError(
      f"The noise of the scheduler config goes from {betas_T.min():.3g} to"
      f" {betas_T.max():.3g} a step: correct its beta_start and beta_end, which"
      " must lie between 0 and 1."
    )
  alpha_T = np.sqrt(np.cumprod(1.0 - betas_T))
  if config["rescale_betas_zero_snr"]:
    if prediction == "epsilon":
      raise ValueError(
        "rescale_betas_zero_snr needs prediction_type v_prediction or sample:"
        " nothing of the picture is left at its last step, and an epsilon"
        " would not say what it was."
      )
    # Lin et al., arXiv 2305.08891, algorithm 1.
    alpha_T = (alpha_T - alpha_T[-1]) * alpha_T[0] / (alpha_T[0] - alpha_T[-1])
  alphas_cumprod_T = alpha_T**2
  return Schedule(
    alphas_cumprod_T=alphas_cumprod_T.astype(np.float32),
    alpha_T=alpha_T.astype(np.float32),
    sigma_T=np.sqrt(1.0 - alphas_cumprod_T).astype(np.float32),
    prediction=prediction,
  )


def _cosine_betas(num_steps: int) -> np.ndarray:
  """The cosine schedule (Nichol and Dhariwal, arXiv 2102.09672, eq. 17)."""

  def alpha_bar(time: float) -> float:
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

  return np.array(
    [
      min(1 - alpha_bar((t + 1) / num_steps) / alpha_bar(t / num_steps), 0.999)
      for t in range(num_steps)
    ]
  )


def _at(values_T: np.ndarray, t_B: Array, x_BHWC: Array) -> Array:
  """Reads a constant at each row's step, ready to be multiplied by `x_BHWC`."""
  values_B = jnp.asarray(values_T)[t_B]
  return values_B.reshape(t_B.shape + (1,) * (x_BHWC.ndim - 1))


def add_noise(
  schedule: Schedule, x0_BHWC: Array, noise_BHWC: Array, t_B: Array
) -> Array:
  """Mixes a picture and its noise to x_t (arXiv 2006.11239, eq. 4).

  Args:
    schedule: the process.
    x0_BHWC: clean pictures or latents, float32.
    noise_BHWC: standard normal, float32.
    t_B: steps, int32 in [0, T).

  Returns:
    Noisy pictures, float32.
  """
  alpha, sigma = _alpha_sigma(schedule, t_B, x0_BHWC)
  return alpha * x0_BHWC + sigma * noise_BHWC


def _alpha_sigma(
  schedule: Schedule, t_B: Array, x_BHWC: Array
) -> tuple[Array, Array]:
  return (
    _at(schedule.alpha_T, t_B, x_BHWC),
    _at(schedule.sigma_T, t_B, x_BHWC),
  )


def read_x0(
  kind: str, x_BHWC: Array, prediction_BHWC: Array, alpha: Array, sigma: Array
) -> Array:
  """Reads the clean picture out of a net's prediction.

  Args:
    kind: what the net predicts, see `PREDICTIONS`.
    x_BHWC: noisy pictures, float32.
    prediction_BHWC: the net's prediction at them, float32.
    alpha, sigma: how much of x_BHWC is picture and how much is noise.

  Returns:
    The clean pictures that this stands for, float32.
  """
  if kind == "sample":
    return prediction_BHWC
  if kind == "v_prediction":
    return alpha * x_BHWC - sigma * prediction_BHWC
  return (x_BHWC - sigma * prediction_BHWC) / alpha


def read_eps(
  kind: str, x_BHWC: Array, prediction_BHWC: Array, alpha: Array, sigma: Array
) -> Array:
  """Reads the noise out of a prediction; arguments as in `read_x0`."""
  if kind == "epsilon":
    return prediction_BHWC
  if kind == "v_prediction":
    return sigma * x_BHWC + alpha * prediction_BHWC
  return (x_BHWC - alpha * prediction_BHWC) / sigma


def target(
  schedule: Schedule, x0_BHWC: Array, noise_BHWC: Array, t_B: Array
) -> Array:
  """What a perfect net would predict; arguments as in `add_noise`."""
  if schedule.prediction == "epsilon":
    return noise_BHWC
  if schedule.prediction == "sample":
    return x0_BHWC
  alpha, sigma = _alpha_sigma(schedule, t_B, x0_BHWC)
  return alpha * noise_BHWC - sigma * x0_BHWC


def snr(schedule: Schedule, t_B: Array) -> Array:
  """Signal-to-noise ratio alpha^2 / sigma^2 of each step, float32."""
  ratio_T = (schedule.alpha_T / schedule.sigma_T) ** 2
  return jnp.asarray(ratio_T)[t_B]
