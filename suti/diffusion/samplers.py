# SPDX-License-Identifier: Apache-2.0
"""Samplers: from noise to pictures, each one `lax.scan`.

DDPM (ancestral; Ho et al., arXiv 2006.11239), DDIM (Song et al., arXiv
2010.02502) and DPM-Solver++(2M) (Lu et al., arXiv 2211.01095). With the clean
picture that the net stands for called x_0, a step of any of them is linear:

  x_s = a x_t + b x_0 + c (x_0 of the step before) + d noise

so each sampler is its table of (a, b, c, d), worked out here in float64, and
one loop runs them all. The last step leads to a process without noise, so that
what comes back is the last x_0. The noise of a row is drawn from the row's own
key: a picture is the same whatever else is in its batch. Guidance is part of
`denoise` (`suti.diffusion.guidance.guided`); decoding is the caller's.

Shape legend: `B` batch, `H` `W` `C` picture or latent, `N` sampling steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from suti.diffusion import guidance
from suti.diffusion.schedule import Schedule, to_x0

Array = jax.Array
Denoise = Callable[[Array, Array], Array]  # (x_BHWC, t_B) -> prediction_BHWC

SPACINGS = ("trailing", "leading", "linspace")


def timesteps(
  schedule: Schedule, num_steps: int, *, spacing: str = "trailing"
) -> np.ndarray:
  """Chooses the steps to visit, falling (Lin et al., arXiv 2305.08891, tab. 2).

  Args:
    schedule: the process the net was trained on.
    num_steps: how many.
    spacing: "trailing" starts at the very last step, where pictures are noise
      alone, which is what the sampler is given; "linspace" takes both ends;
      "leading" leaves the last out, as older published samplers do.

  Returns:
    int32 (N,), falling, without repetition.
  """
  total = schedule.num_steps
  if not 1 <= num_steps <= total:
    raise ValueError(
      f"num_steps={num_steps} must be between 1 and {total}, the steps of the"
      " schedule that the model was trained with."
    )
  if spacing == "trailing":
    steps_N = np.round(total - np.arange(num_steps) * (total / num_steps)) - 1
  elif spacing == "leading":
    steps_N = (np.arange(num_steps) * (total // num_steps))[::-1]
  elif spacing == "linspace":
    steps_N = np.round(np.linspace(0, total - 1, num_steps))[::-1]
  else:
    raise ValueError(
      f"spacing={spacing!r} is unknown: it must be one of"
      f" {', '.join(SPACINGS)}."
    )
  return steps_N.astype(np.int32)


def row_keys(key: Array, seeds_B: Array | np.ndarray) -> Array:
  """Derives one key for each row from what the row is, not where it stands.

  Args:
    key: one key.
    seeds_B: a whole number for each row, such as a picture's seed.

  Returns:
    Keys (B,).
  """
  return jax.vmap(lambda seed: jax.random.fold_in(key, seed))(
    jnp.asarray(seeds_B, jnp.uint32)
  )


def draw_noise(keys_B: Array, shape_HWC: tuple[int, ...]) -> Array:
  """Draws the noise that sampling starts from, each row by its own key.

  Args:
    keys_B: as from `row_keys`. The samplers use other numbers of these keys
      than this function does, so the same keys may go to both.
    shape_HWC: shape of one row.

  Returns:
    Standard normal, float32 (B, H, W, C).
  """
  # Steps fold in 0 .. N - 1; no sampler takes this many.
  return _normal(keys_B, 2**31 - 1, shape_HWC)


def _normal(keys_B: Array, index: int | Array, shape: tuple) -> Array:
  """Draws row by row, from the key of each row and a common index."""

  def draw(key: Array) -> Array:
    folded = jax.random.fold_in(key, index)
    return jax.random.normal(folded, shape, jnp.float32)

  return jax.vmap(draw)(keys_B)


def ddpm(
  denoise: Denoise,
  schedule: Schedule,
  noise_BHWC: Array,
  key: Array,
  *,
  num_steps: int,
  spacing: str = "trailing",
  percentile: float | None = None,
  clip: bool = True,
) -> Array:
  """Samples by the posterior of each step (arXiv 2006.11239, eqs. 6 and 7).

  Steps that are left out are taken in one stride: alpha_t / alpha_s stands in
  the place of one step's alpha. The variance is the posterior's own.

  Args:
    denoise: (x_BHWC, t_B) -> what `schedule.prediction` names.
    schedule: the process.
    noise_BHWC: standard normal, float32; see `draw_noise`.
    key: one key for each row (B,), see `row_keys`; or a single key, from which
      rows are told apart by their place in the batch.
    num_steps: net evaluations.
    spacing: see `timesteps`.
    percentile: dynamic threshold of x_0 in percent, such as 99.5; None is off.
    clip: clip x_0 to [-1, 1] where there is no dynamic threshold; off for
      latents.

  Returns:
    Clean pictures or latents, float32.
  """
  steps_N = timesteps(schedule, num_steps, spacing=spacing)
  alpha_t, sigma_t, alpha_s, sigma_s = _levels(schedule, steps_N)
  ratio = alpha_t / alpha_s
  a = ratio * sigma_s**2 / sigma_t**2
  b = alpha_s * (1 - ratio**2) / sigma_t**2
  d = sigma_s * np.sqrt(1 - ratio**2) / sigma_t
  return _run(
    denoise,
    schedule,
    noise_BHWC,
    key,
    steps_N,
    np.stack([a, b, np.zeros_like(a), d], axis=1),
    percentile,
    clip,
  )


def ddim(
  denoise: Denoise,
  schedule: Schedule,
  noise_BHWC: Array,
  key: Array,
  *,
  num_steps: int,
  spacing: str = "trailing",
  eta: float = 0.0,
  percentile: float | None = None,
  clip: bool = True,
) -> Array:
  """Samples without noise, or with less of it (arXiv 2010.02502, eq. 12).

  The noise direction is taken from the x_0 after clipping, so that x_t stays on
  the line between the two.

  Args:
    denoise: see `ddpm`, as all other arguments.
    schedule: the process.
    noise_BHWC: standard normal, float32.
    key: used only where `eta` is above 0.
    num_steps: net evaluations.
    spacing: see `timesteps`.
    eta: 0 is deterministic, 1 adds as much noise as `ddpm`.
    percentile: dynamic threshold of x_0 in percent.
    clip: clip x_0 to [-1, 1].

  Returns:
    Clean pictures or latents, float32.
  """
  steps_N = timesteps(schedule, num_steps, spacing=spacing)
  alpha_t, sigma_t, alpha_s, sigma_s = _levels(schedule, steps_N)
  ratio = alpha_t / alpha_s
  d = eta * sigma_s * np.sqrt(1 - ratio**2) / sigma_t
  a = np.sqrt(np.maximum(sigma_s**2 - d**2, 0)) / sigma_t
  b = alpha_s - alpha_t * a
  return _run(
    denoise,
    schedule,
    noise_BHWC,
    key,
    steps_N,
    np.stack([a, b, np.zeros_like(a), d], axis=1),
    percentile,
    clip,
  )


def dpmpp_2m(
  denoise: Denoise,
  schedule: Schedule,
  noise_BHWC: Array,
  key: Array,
  *,
  num_steps: int,
  spacing: str = "trailing",
  percentile: float | None = None,
  clip: bool = True,
) -> Array:
  """Samples by DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2).

  Second order from the x_0 of two steps; the first step and the last, which
  leads to no noise at all, are of first order. Deterministic.

  Args:
    denoise: see `ddpm`, as all other arguments.
    schedule: the process.
    noise_BHWC: standard normal, float32.
    key: not used.
    num_steps: net evaluations.
    spacing: see `timesteps`.
    percentile: dynamic threshold of x_0 in percent.
    clip: clip x_0 to [-1, 1].

  Returns:
    Clean pictures or latents, float32.
  """
  steps_N = timesteps(schedule, num_steps, spacing=spacing)
  alpha_t, sigma_t, alpha_s, sigma_s = _levels(schedule, steps_N)
  with np.errstate(divide="ignore"):
    # lambda = log(alpha / sigma): -inf where nothing but noise is left, +inf
    # where there is none, so h of the first or the last step may be inf.
    h = np.log(alpha_s / sigma_s) - np.log(alpha_t / sigma_t)
  a = sigma_s / sigma_t
  weight = -alpha_s * np.expm1(-h)
  c = np.zeros_like(a)
  for n in range(1, num_steps):
    if np.isfinite(h[n]) and np.isfinite(h[n - 1]):
      c[n] = -weight[n] * h[n] / (2 * h[n - 1])
  return _run(
    denoise,
    schedule,
    noise_BHWC,
    key,
    steps_N,
    np.stack([a, weight - c, c, np.zeros_like(a)], axis=1),
    percentile,
    clip,
  )


def _levels(
  schedule: Schedule, steps_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Alpha and sigma where each step starts and where it leads, float64 (N,)."""
  alpha_t = schedule.alpha_T[steps_N].astype(np.float64)
  sigma_t = schedule.sigma_T[steps_N].astype(np.float64)
  alpha_s = np.append(alpha_t[1:], 1.0)
  sigma_s = np.append(sigma_t[1:], 0.0)
  return alpha_t, sigma_t, alpha_s, sigma_s


def _run(
  denoise: Denoise,
  schedule: Schedule,
  noise_BHWC: Array,
  key: Array,
  steps_N: np.ndarray,
  table_N4: np.ndarray,
  percentile: float | None,
  clip: bool,
) -> Array:
  """Runs a table of coefficients (a, b, c, d), one row per step."""
  batch_size = len(noise_BHWC)
  random = bool(table_N4[:, 3].any())
  keys_B = key if key.ndim else row_keys(key, np.arange(batch_size))

  def step(carry, inputs):
    x_BHWC, last_BHWC = carry
    index, t, (a, b, c, d) = inputs
    t_B = jnp.full((batch_size,), t)
    prediction_BHWC = denoise(x_BHWC, t_B).astype(jnp.float32)
    x0_BHWC = to_x0(schedule, x_BHWC, prediction_BHWC, t_B)
    if percentile is not None:
      x0_BHWC = guidance.dynamic_threshold(x0_BHWC, percentile)
    elif clip:
      x0_BHWC = jnp.clip(x0_BHWC, -1.0, 1.0)
    x_BHWC = a * x_BHWC + b * x0_BHWC + c * last_BHWC
    if random:
      x_BHWC += d * _normal(keys_B, index, x_BHWC.shape[1:])
    return (x_BHWC, x0_BHWC), None

  x_BHWC = noise_BHWC.astype(jnp.float32)
  columns = tuple(jnp.asarray(table_N4.T, jnp.float32))
  inputs = (jnp.arange(len(steps_N)), jnp.asarray(steps_N), columns)
  carry = (x_BHWC, jnp.zeros_like(x_BHWC))
  (_, x0_BHWC), _ = jax.lax.scan(step, carry, inputs)
  # The last step is x_0 itself but for rounding, which would leave [-1, 1].
  return x0_BHWC
