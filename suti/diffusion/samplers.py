# SPDX-License-Identifier: Apache-2.0
"""Sampling: from noise to pictures, one `lax.scan` whatever the sampler.

`sample` runs a plan (`suti.diffusion.plan`). That of a published model comes
from its own file (`suti.diffusion.scheduler_config`). Our own three need a
schedule alone: `ddpm` (Ho et al., arXiv 2006.11239), `ddim` (Song et al., arXiv
2010.02502) and `dpmpp_2m` (Lu et al., arXiv 2211.01095). Their last step leads
to a process without noise, so that what comes back is the last x_0.

The noise of a row is drawn from the row's own key: a picture is the same
whatever else is in its batch. Guidance is part of `denoise`
(`suti.diffusion.guidance.guided`); decoding is the caller's.

Shape legend: `B` batch, `H` `W` `C` picture or latent, `N` net evaluations,
`S` slots of a plan, `K` terms of its steps.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.diffusion.guidance import dynamic_threshold
from suti.diffusion.plan import Bounds, Plan
from suti.diffusion.plans.ddim import plan_ddim
from suti.diffusion.plans.ddpm import plan_ddpm
from suti.diffusion.plans.dpm_solver import plan_dpm_solver
from suti.diffusion.plans.steps import strides, timesteps
from suti.diffusion.schedule import Schedule, read_eps, read_x0

Array = jax.Array
Denoise = Callable[[Array, Array], Array]  # (x_BHWC, t_B) -> prediction_BHWC
Slots = tuple[Array, ...]  # what a sampler remembers, each (B, H, W, C) float32


def sample(
  denoise: Denoise, plan: Plan, noise_BHWC: Array, key: Array
) -> Array:
  """Runs a plan.

  Args:
    denoise: (x_BHWC, t_B) -> what `plan.prediction` names. With twice the
      channels of x, the second half is what a plan of learned variance reads;
      other plans leave it.
    plan: the sampler's steps. As an argument of a jitted function, plans of one
      shape and kind share a compiled program.
    noise_BHWC: standard normal, float32; see `draw_noise`.
    key: one key for each row (B,), see `row_keys`; or a single key, from which
      each row's is derived by its index in the batch. Deterministic plans do
      not use it.

  Returns:
    Clean pictures or latents, float32.

  Raises:
    ValueError: the net predicts no variance and the plan reads one.
  """
  return advance(denoise, plan, start(plan, noise_BHWC), key)[0]


def start(plan: Plan, noise_BHWC: Array) -> Slots:
  """The slots before a plan's first evaluation.

  Args:
    plan: as in `sample`.
    noise_BHWC: standard normal, float32.
  """
  start_BHWC = noise_BHWC.astype(jnp.float32) * plan.noise_scale
  num_slots = plan.update_NSK.shape[1]
  return (start_BHWC, *[jnp.zeros_like(start_BHWC)] * (num_slots - 1))


def advance(denoise: Denoise, plan: Plan, slots: Slots, key: Array) -> Slots:
  """Runs a piece of a plan, so that progress can be reported between pieces.

  Args:
    denoise: as in `sample`.
    plan: one of `Plan.pieces`, in their order.
    slots: of `start`, or of the piece before.
    key: as in `sample`.

  Returns:
    New slots; after the last piece the first is what `sample` returns.
  """
  return _advance(
    lambda x, t_B, memory: (denoise(x, t_B), memory), plan, slots, key, None
  )[0]


def sample_remembering(
  denoise: Callable[..., tuple[Array, Any]],
  plan: Plan,
  noise_BHWC: Array,
  key: Array,
  *,
  memory: Any,
  change: Callable[[Array, Array], Array] | None = None,
) -> tuple[Array, Any]:
  """Runs a plan with a net that remembers something from step to step.

  Args:
    denoise: (x_BHWC, t_B, memory) -> (prediction_BHWC, memory).
    plan, noise_BHWC, key: as in `sample`.
    memory: a tree of arrays, before the first step.
    change: (x_BHWC, t_B) -> x_BHWC, before each step, for samples that a method
      also changes by itself; None changes nothing.

  Returns:
    What `sample` returns, and the memory after the last step.
  """
  slots = start(plan, noise_BHWC)
  slots, memory = _advance(denoise, plan, slots, key, memory, change=change)
  return slots[0], memory


def _advance(denoise, plan, slots, key, memory, *, change=None):
  """As `advance` and `sample_remembering`; returns slots and memory."""
  batch_size, *shape = slots[0].shape
  keys_B = key if key.ndim else row_keys(key, np.arange(batch_size))

  def step(carried, inputs):
    slots, memory = carried
    index, t, alpha, sigma, update_SK, log_variance_2 = inputs
    t_B = jnp.full((batch_size,), t)
    if change is not None:
      slots = (change(slots[0], t_B), *slots[1:])
    x_BHWC = slots[0]
    prediction_BHWC, memory = denoise(x_BHWC, t_B, memory)
    prediction_BHWC = prediction_BHWC.astype(jnp.float32)
    prediction_BHWC, fraction_BHWC = _split(plan, prediction_BHWC, shape[-1])
    read = (plan.prediction, x_BHWC, prediction_BHWC, alpha, sigma)
    x0_BHWC = _bound(plan.bounds, read_x0(*read))
    terms = [*slots, x0_BHWC, read_eps(*read)]
    if plan.random:
      fresh_BHWC = _normal(keys_B, index, tuple(shape))
      if fraction_BHWC is not None:
        low, high = log_variance_2
        upper_BHWC = (fraction_BHWC + 1) / 2
        log_BHWC = upper_BHWC * high + (1 - upper_BHWC) * low
        fresh_BHWC *= jnp.exp(0.5 * log_BHWC)
      terms.append(fresh_BHWC)
    slots = tuple(_mix(update_K, terms) for update_K in update_SK)
    return (slots, memory), None

  evaluations = (
    plan.index_N,
    plan.t_N,
    plan.alpha_N,
    plan.sigma_N,
    plan.update_NSK,
    plan.log_variance_N2,
  )
  evaluations = jax.tree.map(jnp.asarray, evaluations)
  done: Any = jax.lax.scan(step, (slots, memory), evaluations)
  return done[0]


def _mix(update_K: Array, terms: list[Array]) -> Array:
  """The sum of terms, each with its weight.

  XLA makes one pass over the pictures of it. Accelerators round a product of
  matrices to bfloat16, and a CPU takes 17 ms for a reduction of 8 latents of
  64 x 64 x 4 where this takes 0.1.
  """
  first, *rest = (update_K[k] * term for k, term in enumerate(terms))
  return sum(rest, first)


def _split(
  plan: Plan, prediction_BHWC: Array, channels: int
) -> tuple[Array, Array | None]:
  """The net's prediction of the picture, and of the variance if it is read."""
  fraction_BHWC = None
  if prediction_BHWC.shape[-1] == 2 * channels:
    prediction_BHWC, fraction_BHWC = jnp.split(prediction_BHWC, 2, axis=-1)
  if plan.log_variance_N2 is None:
    return prediction_BHWC, None
  if fraction_BHWC is None:
    raise ValueError(
      "variance_type='learned_range' of the scheduler config reads a variance"
      f" from {2 * channels} channels, but the net returns"
      f" {prediction_BHWC.shape[-1]}: set variance_type='fixed_small'."
    )
  return prediction_BHWC, fraction_BHWC


def _bound(bounds: Bounds, x0_BHWC: Array) -> Array:
  if bounds.percentile is not None:
    return dynamic_threshold(
      x0_BHWC, bounds.percentile, max_value=bounds.max_value
    )
  if bounds.clip is not None:
    return jnp.clip(x0_BHWC, -bounds.clip, bounds.clip)
  return x0_BHWC


def row_keys(key: Array, seeds_B: Array | np.ndarray) -> Array:
  """Derives one key for each row from its seed, not its index in the batch.

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


def own_plan(
  sampler: str,
  schedule: Schedule,
  *,
  num_steps: int,
  spacing: str = "trailing",
  eta: float = 0.0,
  percentile: float | None = None,
  clip: bool = True,
) -> Plan:
  """The plan of one of our own three samplers.

  Args:
    sampler: a name of `SAMPLERS`, whose arguments the others are.
    schedule: the process.
    num_steps: net evaluations.
    spacing: see `timesteps`.
    eta: of ddim.
    percentile: dynamic threshold of x_0 in percent.
    clip: clip x_0 to [-1, 1].
  """
  steps = strides(schedule, timesteps(schedule, num_steps, spacing=spacing))
  kind: Any = {
    "ddpm": plan_ddpm,
    "ddim": functools.partial(plan_ddim, eta=eta, follow_bounds=True),
    "dpmpp_2m": plan_dpm_solver,
  }[sampler]
  return kind(
    steps,
    prediction=schedule.prediction,
    bounds=Bounds(clip=1.0 if clip else None, percentile=percentile),
  )


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
  """Samples by the posterior of each step; see `plans.ddpm`.

  Args:
    denoise: see `sample`, as `noise_BHWC` and `key`.
    schedule: the process.
    noise_BHWC: standard normal, float32.
    key: for the noise of each step.
    num_steps: net evaluations.
    spacing: see `timesteps`.
    percentile: dynamic threshold of x_0 in percent, such as 99.5; None is off.
    clip: clip x_0 to [-1, 1] where there is no dynamic threshold; off for
      latents.

  Returns:
    Clean pictures or latents, float32.
  """
  plan = own_plan(
    "ddpm",
    schedule,
    num_steps=num_steps,
    spacing=spacing,
    percentile=percentile,
    clip=clip,
  )
  return sample(denoise, plan, noise_BHWC, key)


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
  """Samples without noise, or with less of it; see `plans.ddim`.

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
  plan = own_plan(
    "ddim",
    schedule,
    num_steps=num_steps,
    spacing=spacing,
    eta=eta,
    percentile=percentile,
    clip=clip,
  )
  return sample(denoise, plan, noise_BHWC, key)


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
  """Samples by DPM-Solver++(2M); see `plans.dpm_solver`.

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
  plan = own_plan(
    "dpmpp_2m",
    schedule,
    num_steps=num_steps,
    spacing=spacing,
    percentile=percentile,
    clip=clip,
  )
  return sample(denoise, plan, noise_BHWC, key)


# By the names of `suti.config.samplers.OWN`.
SAMPLERS: Mapping[str, Callable[..., Array]] = {
  "ddpm": ddpm,
  "ddim": ddim,
  "dpmpp_2m": dpmpp_2m,
}
