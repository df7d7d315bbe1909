# SPDX-License-Identifier: Apache-2.0
"""How parameters move: rate, optimizer, moving average, and their first state.

For the three loops that train: an apprentice, its experts, the models of
SubjectWorld. What a loop's steps and batches are is its own business.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

Params = Mapping[str, jax.Array]

_TABLES = ("embeddings", "positional_embedding")


def make_schedule(
  peak: float, *, num_steps: int, warmup_steps: int, fall_steps: int
) -> optax.Schedule:
  """Linear warm-up, plateau, and a linear fall to zero at the end.

  Args:
    peak: the rate of the plateau.
    num_steps: all of them.
    warmup_steps: the first ones, which rise from zero.
    fall_steps: the last ones; 0 stays on the plateau.
  """
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, peak, warmup_steps),
      optax.constant_schedule(peak),
      # A fall of no steps begins where the last step lies behind.
      optax.linear_schedule(peak, 0.0, max(fall_steps, 1)),
    ],
    [warmup_steps, num_steps - fall_steps],
  )


def make_optimizer(
  name: str, rate: float | optax.Schedule
) -> optax.GradientTransformation:
  """Adafactor (arXiv 1804.04235), Adam or Muon.

  Adafactor's steps are of size `rate`, not relative to a parameter's own size:
  relative ones would hold new layers, which start at zero, where they are, and
  at the rate of SuTI's experts, 1e-5 for 500 steps, would come to nothing.

  Args:
    name: "adafactor", "adam" or "muon".
    rate: constant, or of a step.
  """
  if name == "muon":
    return make_muon(rate)
  if name == "adam":
    return optax.adam(rate)
  assert name == "adafactor", name  # suti.config.options has looked
  return optax.adafactor(rate, multiply_by_parameter_scale=False)


def make_muon(
  rate: float | optax.Schedule, *, weight_decay: float = 0.0
) -> optax.GradientTransformation:
  """Muon (Jordan et al. 2024) for what is a matrix inside a net.

  Vectors, tables and what meets pixels move by AdamW, at half the rate.

  Args:
    rate: constant, or of a step.
    weight_decay: times the rate, a step.
  """
  return muon(
    rate,
    beta=0.95,
    weight_decay=weight_decay,
    adam_b2=0.99,
    adam_learning_rate=lambda step: (
      0.5 * (rate(step) if callable(rate) else rate)
    ),
    # Updates as large as AdamW's: one rate does for both.
    consistent_rms=0.2,
    muon_weight_dimension_numbers=_matrices,
  )


def _matrices(params: Any) -> dict[str, Any]:
  """MuonDimensionNumbers of what Muon makes orthogonal, None of the rest.

  Kernels are matrices of (height width in, out).
  """

  def is_matrix(name: str, array: Any) -> bool:
    # Asked again for its own share, optax has masked the rest.
    return (
      not isinstance(array, optax.MaskedNode)
      and array.ndim > 1
      # Tables of tokens and of positions.
      and not any(each in name for each in _TABLES)
      and not name.startswith(("conv_in.", "conv_out."))
    )

  return {
    name: MuonDimensionNumbers(tuple(range(array.ndim - 1)), array.ndim - 1)
    if is_matrix(name, array)
    else None
    for name, array in params.items()
  }


def start_state(
  params: Params, tx: optax.GradientTransformation, *, seed: int
) -> dict[str, Any]:
  """What a training carries on, before its first step.

  Args:
    params: those that learn.
    tx: the optimizer.
    seed: of what is random in a step, with the step's number.
  """
  return {
    "params": params,
    "opt": tx.init(params),
    "ema": jax.tree.map(jnp.copy, params),
    "step": jnp.zeros((), jnp.int32),
    "key": jax.random.key_data(jax.random.key(seed)),
  }


def step_key(state: Mapping[str, Any]) -> jax.Array:
  """The key of a state's next step."""
  return jax.random.fold_in(
    jax.random.wrap_key_data(state["key"]), state["step"]
  )


def ema_decay(step: jax.Array, *, decay: float) -> jax.Array:
  """How much of a moving average stays: it follows fast at first.

  A young average of full weight would be the initial noise for a long time.
  """
  step = step.astype(jnp.float32)
  return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def average(ema: Params, params: Any, *, step: Any, decay: float) -> Params:
  """The exponential moving average after a step."""
  kept = ema_decay(step, decay=decay)
  return jax.tree.map(lambda old, new: new + kept * (old - new), ema, params)
