# SPDX-License-Identifier: Apache-2.0
"""How the apprentice's parameters move: rate, optimizer, average.

SuTI (arXiv 2304.00186), section 4: Adafactor (arXiv 1804.04235), lr 1e-4. Its
warm-up, clipping and averaging are not published; ours are config fields.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from suti.pipeline.backbone import Params


def learning_rate(train: Any) -> optax.Schedule:
  """Linear warm-up, constant, and a linear fall over the share `decay`."""
  fall = int((train.get("decay") or 0.0) * train.num_steps)
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, train.learning_rate, train.warmup_steps),
      optax.constant_schedule(train.learning_rate),
      optax.linear_schedule(train.learning_rate, 0.0, max(fall, 1)),
    ],
    [train.warmup_steps, train.num_steps - fall],
  )


def optimizer(train: Any, rate: optax.Schedule) -> optax.GradientTransformation:
  """Adafactor, or Adam, behind a clip of the gradient's norm."""
  if (train.get("optimizer") or "adafactor") == "adam":
    tx = optax.adam(rate)
  else:
    # Steps of size `rate`, not relative to a parameter's own size: relative
    # ones would hold the new layers, which start at zero, where they are.
    tx = optax.adafactor(rate, multiply_by_parameter_scale=False)
  return optax.chain(optax.clip_by_global_norm(train.grad_clip), tx)


def average(ema: Params, params: Any, *, step: Any, decay: float) -> Params:
  """Exponential moving average; a young one follows fast at first."""
  step = step.astype(jnp.float32)
  kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda old, new: new + kept * (old - new), ema, params)
