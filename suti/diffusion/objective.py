# SPDX-License-Identifier: Apache-2.0
"""The training loss of a denoiser, one number per example.

Squared error of the net's own prediction, plain or weighted (`WEIGHTINGS`). It
does not average over the batch: a caller may mask rows, or report them.

Shape legend: `B` batch, `H` `W` `C` picture or latent, `T` diffusion steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from suti.diffusion import schedule as schedules

Array = jax.Array
Schedule = schedules.Schedule
Denoise = Callable[[Array, Array], Array]  # (x_BHWC, t_B) -> prediction_BHWC

# Weight of the error of x_0, whatever the net predicts:
#   uniform        1 for the net's own prediction (arXiv 2006.11239, eq. 14).
#                  Of a net of x_0, and of no other, this is w_t = 1 of SuTI
#                  (arXiv 2304.00186, eqs. 5 and 6).
#   min_snr        min(SNR, gamma) (Hang et al., arXiv 2303.09556)
#   truncated_snr  max(SNR, 1) (Salimans and Ho, arXiv 2202.00512, section 4)
#   clamped_snr    the same, and no more than gamma
#   snr_plus_one   min(SNR + 1, gamma): the error of v, capped (same section)
WEIGHTINGS = (
  "uniform",
  "min_snr",
  "truncated_snr",
  "clamped_snr",
  "snr_plus_one",
)


def denoising_loss(
  schedule: Schedule,
  denoise: Denoise,
  x0_BHWC: Array,
  key: Array,
  *,
  weighting: str = "uniform",
  gamma: float = 5.0,
  stratified: bool = False,
  log_snr: tuple[float, float] | None = None,
) -> Array:
  """Corrupts pictures at random steps and measures the net's error.

  Args:
    schedule: the process.
    denoise: (x_BHWC, t_B) -> what `schedule.prediction` names, perhaps with a
      variance behind it.
    x0_BHWC: clean pictures or latents, float32.
    key: for steps and noise.
    weighting: one of `WEIGHTINGS`.
    gamma: the cap of those that have one.
    stratified: spread the steps of a batch evenly over their distribution,
      which takes away much of the loss's variance; each row's own keeps it.
    log_snr: mean and deviation of the steps' log SNR, which is then normal
      (Karras et al., arXiv 2206.00364, table 1, draw log sigma so); None draws
      steps uniformly.

  Returns:
    Loss of each row, float32 (B,).
  """
  t_key, noise_key = jax.random.split(key)
  t_B = draw_steps(
    schedule,
    t_key,
    batch_size=len(x0_BHWC),
    stratified=stratified,
    log_snr=log_snr,
  )
  noise_BHWC = jax.random.normal(noise_key, x0_BHWC.shape, jnp.float32)
  return denoising_loss_at(
    schedule,
    denoise,
    x0_BHWC,
    noise_BHWC,
    t_B,
    weighting=weighting,
    gamma=gamma,
  )


def normal_steps(config: Any) -> tuple[float, float] | None:
  """`log_snr` of a config that has log_snr_mean and log_snr_std."""
  if config.log_snr_mean is None:
    return None
  return config.log_snr_mean, config.log_snr_std


def draw_steps(
  schedule: Schedule,
  key: Array,
  *,
  batch_size: int,
  stratified: bool = False,
  log_snr: tuple[float, float] | None = None,
) -> Array:
  """Draws a step for each row, int32 (B,) in [0, T): see `denoising_loss`."""
  if not stratified:
    if log_snr is None:
      return jax.random.randint(key, (batch_size,), 0, schedule.num_steps)
    u_B = jax.random.uniform(key, (batch_size,))
    return _steps_at(schedule, u_B, log_snr)
  offset_key, order_key = jax.random.split(key)
  offset_B = jax.random.uniform(offset_key, (batch_size,))
  rows_B = jnp.arange(batch_size, dtype=jnp.float32)
  u_B = (rows_B + offset_B) / batch_size
  if log_snr is None:
    t_B = jnp.minimum(
      (u_B * schedule.num_steps).astype(jnp.int32), schedule.num_steps - 1
    )
  else:
    t_B = _steps_at(schedule, u_B, log_snr)
  # The order is drawn too: rows of a batch may mean something (an expert's
  # pictures), and no picture should see always the same steps.
  return jax.random.permutation(order_key, t_B)


def _steps_at(
  schedule: Schedule, u_B: Array, log_snr: tuple[float, float]
) -> Array:
  """Steps at the quantiles `u_B`, in [0, 1), of a normal log SNR."""
  mean, deviation = log_snr
  # A float32 of 0 or 1 would be infinitely far out; the ends of the schedule
  # lie within these bounds.
  u_B = jnp.clip(u_B, 1e-4, 1 - 1e-4)
  wanted_B = mean + deviation * jax.scipy.special.ndtri(u_B)
  log_snr_T = jnp.log(schedules.snr(schedule, jnp.arange(schedule.num_steps)))
  t_B = jnp.searchsorted(-log_snr_T, -wanted_B)  # it falls with t
  return jnp.clip(t_B, 0, schedule.num_steps - 1).astype(jnp.int32)


def denoising_loss_at(
  schedule: Schedule,
  denoise: Denoise,
  x0_BHWC: Array,
  noise_BHWC: Array,
  t_B: Array,
  *,
  weighting: str = "uniform",
  gamma: float = 5.0,
) -> Array:
  """The loss at given noise and steps; arguments as in `denoising_loss`.

  Of a net that predicts a variance too, in as many channels again (DeepFloyd
  IF), the prediction alone enters the loss, as its publisher fine-tunes it: the
  bound that teaches a variance (Nichol and Dhariwal, arXiv 2102.09672) is left
  out.
  """
  x_BHWC = schedules.add_noise(schedule, x0_BHWC, noise_BHWC, t_B)
  target_BHWC = schedules.target(schedule, x0_BHWC, noise_BHWC, t_B)
  prediction_BHWC = denoise(x_BHWC, t_B).astype(jnp.float32)
  prediction_BHWC = prediction_BHWC[..., : x_BHWC.shape[-1]]
  error_BHWC = jnp.square(prediction_BHWC - target_BHWC)
  loss_B = error_BHWC.reshape(len(error_BHWC), -1).mean(axis=1)
  return loss_B * loss_weight(schedule, t_B, weighting=weighting, gamma=gamma)


def loss_weight(
  schedule: Schedule, t_B: Array, *, weighting: str, gamma: float = 5.0
) -> Array:
  """Weight of each row's error in the space of the prediction, float32 (B,)."""
  if weighting == "uniform":
    return jnp.ones(t_B.shape, jnp.float32)
  if weighting not in WEIGHTINGS:
    raise ValueError(
      f"weighting={weighting!r} is unknown: it must be one of"
      f" {', '.join(WEIGHTINGS)}."
    )
  ratio_B = schedules.snr(schedule, t_B)
  weight_B = {
    "min_snr": lambda: jnp.minimum(ratio_B, gamma),
    "truncated_snr": lambda: jnp.maximum(ratio_B, 1.0),
    "clamped_snr": lambda: jnp.clip(ratio_B, 1.0, gamma),
    "snr_plus_one": lambda: jnp.minimum(ratio_B + 1.0, gamma),
  }[weighting]()
  # These weigh the error of x_0; an error of eps is SNR times that of x_0, one
  # of v is SNR + 1 times.
  if schedule.prediction == "sample":
    return weight_B
  if schedule.prediction == "v_prediction":
    return weight_B / (ratio_B + 1.0)
  return weight_B / ratio_B
