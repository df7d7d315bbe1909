# SPDX-License-Identifier: Apache-2.0
"""The optimizer of an apprentice and its learning rate schedule.

SuTI (arXiv 2304.00186), section 4: Adafactor, lr 1e-4. Its body gives neither
warm-up nor clipping; ours are config fields.
"""

from typing import Any

import optax

from suti.nn.optimizer import make_optimizer, make_schedule


def learning_rate(train: Any) -> optax.Schedule:
  """Linear warm-up, constant, and linear decay over the last share `decay`."""
  return make_schedule(
    train.learning_rate,
    num_steps=train.num_steps,
    warmup_steps=train.warmup_steps,
    fall_steps=int((train.decay or 0.0) * train.num_steps),
  )


def optimizer(train: Any, rate: optax.Schedule) -> optax.GradientTransformation:
  """Adafactor, Adam or Muon, after clipping by the global gradient norm."""
  return optax.chain(
    optax.clip_by_global_norm(train.grad_clip),
    make_optimizer(train.optimizer, rate),
  )
