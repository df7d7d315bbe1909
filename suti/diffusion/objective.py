# SPDX-License-Identifier: Apache-2.0
"""The training loss of a denoiser, one number per example.

Squared error of the net's own prediction (arXiv 2006.11239, eq. 14; SuTI, arXiv
2304.00186, eqs. 5 and 6, states it for x_0), plain or weighted: by min-SNR
(Hang et al., arXiv 2303.09556), or by the truncated SNR (Salimans and Ho, arXiv
2202.00512, section 4), which never lets noisy steps weigh less than 1. It does
not average over the batch: a caller may mask rows, or report them.

Shape legend: `B` batch, `H` `W` `C` picture or latent, `T` diffusion steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from suti.diffusion import schedule as schedules

Array = jax.Array
Schedule = schedules.Schedule
Denoise = Callable[[Array, Array], Array]  # (x_BHWC, t_B) -> prediction_BHWC

WEIGHTINGS = ("uniform", "min_snr", "truncated_snr")


def denoising_loss(
  schedule: Schedule,
  denoise: Denoise,
  x0_BHWC: Array,
  key: Array,
  *,
  weighting: str = "uniform",
  gamma: float = 5.0,
  stratified: bool = False,
) -> Array:
  """Corrupts pictures at random steps and measures the net's error.

  Args:
    schedule: the process.
    denoise: (x_BHWC, t_B) -> what `schedule.prediction` names, perhaps with a
      variance behind it.
    x0_BHWC: clean pictures or latents, float32.
    key: for steps and noise.
    weighting: "uniform", "min_snr" or "truncated_snr".
    gamma: cap of the SNR in the last two.
    stratified: spread the steps of a batch evenly over [0, T), which takes away
      much of the loss's variance; each row's own step stays uniform.

  Returns:
    Loss of each row, float32 (B,).
  """
  t_key, noise_key = jax.random.split(key)
  t_B = draw_steps(
    schedule, t_key, batch_size=len(x0_BHWC), stratified=stratified
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


def draw_steps(
  schedule: Schedule, key: Array, *, batch_size: int, stratified: bool = False
) -> Array:
  """Draws a step for each row, uniformly, int32 (B,) in [0, T)."""
  if not stratified:
    return jax.random.randint(key, (batch_size,), 0, schedule.num_steps)
  offset_key, order_key = jax.random.split(key)
  offset_B = jax.random.uniform(offset_key, (batch_size,))
  rows_B = jnp.arange(batch_size, dtype=jnp.float32)
  t_B = (rows_B + offset_B) / batch_size * schedule.num_steps
  # The order is drawn too: rows of a batch may mean something (an expert's
  # pictures), and no picture should see always the same steps.
  t_B = jax.random.permutation(order_key, t_B.astype(jnp.int32))
  return jnp.minimum(t_B, schedule.num_steps - 1)


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
  # min(SNR, gamma) weighs the error of x_0; an error of eps is SNR times that
  # of x_0, one of v is SNR + 1 times.
  ratio_B = schedules.snr(schedule, t_B)
  capped_B = jnp.minimum(ratio_B, gamma)
  if weighting == "truncated_snr":
    capped_B = jnp.maximum(capped_B, 1.0)
  if schedule.prediction == "sample":
    return capped_B
  if schedule.prediction == "v_prediction":
    return capped_B / (ratio_B + 1.0)
  return capped_B / ratio_B
