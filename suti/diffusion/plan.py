# SPDX-License-Identifier: Apache-2.0
"""A sampler as data: where the net is evaluated, and how x_t is updated.

Whatever a net predicts, its prediction at x_t stands for a clean picture x_0
and a noise eps. Given these, a step of every published sampler is linear in
what the sampler remembers: a few slots, of which the first is the net's next
input.

  new slots = update [slots, x_0, eps, fresh noise]

So a sampler is a table, worked out once in float64, and one loop
(`suti.diffusion.samplers.sample`) runs them all. Pictures are held in the
variance-preserving scale of the nets' inputs (alpha^2 + sigma^2 = 1); the
samplers that are published for x / alpha (Euler) are rewritten in it.

Shape legend: `N` net evaluations, `S` slots, `K` = S + 3 terms of a step.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np

Array = np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
  """How far an estimate of x_0 may go.

  Attributes:
    clip: x_0 is clipped to [-clip, clip]; None leaves it.
    percentile: of dynamic thresholding, which then stands in for clipping.
    max_value: what dynamic thresholding divides by at most.
  """

  clip: float | None = None
  percentile: float | None = None
  max_value: float = math.inf


_PER_EVALUATION = (
  "index_N",
  "t_N",
  "alpha_N",
  "sigma_N",
  "update_NSK",
  "log_variance_N2",
)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=(*_PER_EVALUATION, "noise_scale"),
  meta_fields=("prediction", "bounds", "random"),
)
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
  """A sampler, made for a number of steps.

  A tree of arrays: handed to a jitted function as an argument, another plan of
  the same shape and kind does not compile again.

  Attributes:
    index_N: number of the evaluation, by which fresh noise is drawn; int32.
    t_N: the time step of each evaluation; int32, or float32 where the sampler
      evaluates the net between two steps.
    alpha_N: signal in what the net sees there, float32.
    sigma_N: noise in it, float32; alpha^2 + sigma^2 = 1.
    update_NSK: what each new slot is of [slots, x_0, eps, noise], float32.
    noise_scale: what standard normal noise is multiplied by at the start.
    log_variance_N2: logarithms of the least and the largest variance of fresh
      noise, between which a net of learned variance interpolates; else None.
    prediction: what the net predicts, as `Schedule.prediction`.
    bounds: limits of x_0.
    random: whether any step adds noise.
  """

  index_N: Array
  t_N: Array
  alpha_N: Array
  sigma_N: Array
  update_NSK: Array
  noise_scale: Array
  log_variance_N2: Array | None
  prediction: str
  bounds: Bounds
  random: bool

  @property
  def num_evaluations(self) -> int:
    """Net evaluations, which are more than `num_steps` for PNDM."""
    return self.t_N.shape[0]

  def pieces(self, max_pieces: int = 20) -> "list[Plan]":
    """The plan in pieces of one length, which share a compiled program.

    Args:
      max_pieces: how many there may be; as many as divide the evaluations.

    Returns:
      Plans that follow one another; see `suti.diffusion.samplers.advance`.
    """
    total = self.num_evaluations
    num = max(n for n in range(1, max_pieces + 1) if total % n == 0)
    if num == 1 and total > max_pieces:
      num = total  # a prime number: one by one
    size = total // num
    return [
      dataclasses.replace(
        self,
        **{
          name: value[start : start + size]
          for name in _PER_EVALUATION
          if (value := getattr(self, name)) is not None
        },
      )
      for start in range(0, total, size)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
  """Where steps start and where they lead; arrays (N,).

  Attributes:
    t_N: as in `Plan`.
    alpha_N: signal where a step starts, float64.
    sigma_N: noise where it starts.
    alpha_to_N: signal where it leads.
    sigma_to_N: noise where it leads. Mostly that of the next start, but not in
      all published samplers.
  """

  t_N: np.ndarray
  alpha_N: np.ndarray
  sigma_N: np.ndarray
  alpha_to_N: np.ndarray
  sigma_to_N: np.ndarray


def terms(num_slots: int) -> np.ndarray:
  """Names the terms of a step, so that updates can be written as equations.

  Args:
    num_slots: S.

  Returns:
    One unit vector for each slot, for x_0, for eps and for noise, in this
    order, (K, K): `x, x0, eps, noise = terms(1)`, and `2 * x - x0` is a slot.
  """
  return np.eye(num_slots + 3)


def make_plan(
  steps: Steps,
  update: Sequence | np.ndarray,
  *,
  prediction: str,
  bounds: Bounds,
  noise_scale: float = 1.0,
  log_variance_N2: np.ndarray | None = None,
) -> Plan:
  """Puts a plan together, in the dtypes that the loop takes.

  Args:
    steps: of which the starts are kept.
    update: (N, S, K), float64.
    prediction: see `Plan`, as all other arguments.
    bounds: limits of x_0.
    noise_scale: of the noise that sampling starts from.
    log_variance_N2: for learned variance.

  Returns:
    The plan.

  Raises:
    FloatingPointError: a number of it is not finite.
  """
  update_NSK = np.asarray(update, np.float32)
  for values in (update_NSK, steps.t_N, steps.alpha_N, steps.sigma_N):
    if not np.isfinite(values).all():
      raise FloatingPointError("a step of the plan is not finite")
  whole = np.all(steps.t_N == np.round(steps.t_N))
  return Plan(
    index_N=np.arange(len(steps.t_N), dtype=np.int32),
    t_N=steps.t_N.astype(np.int32 if whole else np.float32),
    alpha_N=steps.alpha_N.astype(np.float32),
    sigma_N=steps.sigma_N.astype(np.float32),
    update_NSK=update_NSK,
    noise_scale=np.asarray(noise_scale, np.float32),
    log_variance_N2=(
      None if log_variance_N2 is None else log_variance_N2.astype(np.float32)
    ),
    prediction=prediction,
    bounds=bounds,
    random=bool(update_NSK[..., -1].any()),
  )
