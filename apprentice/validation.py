# SPDX-License-Identifier: Apache-2.0
"""What training is worth on subjects that it does not see.

The loss of the averaged weights on held-out clusters
(`apprentice.selection.hold_out`), always under the same noise: with their
demonstrations, and without, as a branch of guidance sees it. The first falls
while there is something to learn and rises once examples are learned by heart;
how far it lies below the second is what the apprentice reads from
demonstrations. It needs no sampling, and resolves what scores of few sampled
images do not. The target is never shown, nor its mirror image, whatever a
method is shown in training.

Not in SuTI, which reports no validation.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp

from apprentice.data import batches
from apprentice.fields import to_latents
from apprentice.method import DEMONSTRATION_MASK, IMAGE
from apprentice.model import Apprentice
from apprentice.train_step import make_loss
from suti.diffusion.guidance_modes import SUBJECT
from suti.parallel.mesh import batch_sharding, put_batch, replicated
from suti.schema import seed_of

# B batch, K demonstrations.

LOSS, BLIND_LOSS = "validation_loss", "validation_loss_no_demonstrations"
# The share of the second that demonstrations take away.
GAIN = "validation_gain"
_MOST = 64  # examples, or one batch: seconds a checkpoint


def make_validation(
  apprentice: Apprentice,
  train: Any,
  held_out: Sequence[Any],
  *,
  batch_args: Mapping[str, Any],
  placed: Any,
  mesh: Any,
  seed: int,
) -> Callable[..., dict[str, float]]:
  """Makes (ema, frozen, vae_params) -> {name in the log: loss}.

  Args:
    apprentice: declared.
    train: `config.train`.
    held_out: datasets of examples; without one nothing is measured.
    batch_args: of `apprentice.data.batches`, as in training.
    placed: shardings of the averaged weights.
    mesh: its devices share a batch.
    seed: of the choice of examples and demonstrations, and of the noise.

  Returns: the function, which compiles when it is first called: `LOSS` and, of
    methods that see demonstrations, `BLIND_LOSS` and `GAIN`.
  """
  num = sum(map(len, held_out))
  if not num:
    return lambda *_: {}
  if batch_args.get("mirror") == "all":
    batch_args = {**batch_args, "mirror": "demonstrations"}
  chosen = list(
    islice(
      batches(held_out, seed=seed, **batch_args),
      -(-min(num, _MOST) // train.batch_size),
    )
  )
  measure = _make_measure(apprentice, train, placed=placed, mesh=mesh)

  def validate(ema, frozen, vae_params):
    found = [
      measure(
        ema,
        frozen,
        vae_params,
        put_batch(batch, mesh),
        jax.random.key(seed_of("validation", seed, number)),
      )
      for number, batch in enumerate(chosen)
    ]
    rows = jax.device_get(found)
    means = {name: statistics.fmean(r[name] for r in rows) for name in rows[0]}
    if BLIND_LOSS in means:
      means[GAIN] = 1 - means[LOSS] / means[BLIND_LOSS]
    return means

  return validate


def _without_demonstrations(
  batch: Mapping[str, Any], gone_B: jax.Array
) -> dict[str, Any]:
  """Rows of a batch without any demonstration."""
  mask_BK = batch[DEMONSTRATION_MASK.name] & ~gone_B[:, None]
  return {**batch, DEMONSTRATION_MASK.name: mask_BK}


def _make_measure(
  apprentice: Apprentice, train: Any, *, placed: Any, mesh: Any
) -> Callable[..., dict[str, jax.Array]]:
  """Makes the compiled losses of one batch."""
  backbone = apprentice.backbone
  fields = apprentice.method.fields(apprentice.config)
  hide = apprentice.method.hide.get(SUBJECT, _without_demonstrations)
  loss_of = make_loss(apprentice, train)
  # What some methods see of the target beside its noisy self.
  targets = {f.name for f in fields if f.source == "image"} - {IMAGE.name}

  def measure(ema, frozen, vae_params, batch, key):
    params = {n: p.astype(train.dtype) for n, p in (ema | frozen).items()}
    batch = to_latents(
      backbone, vae_params, batch, dtype=jnp.float32, fields=fields
    )
    batch = {name: x for name, x in batch.items() if name not in targets}
    losses = {LOSS: loss_of(params, batch, key)[0]}
    if DEMONSTRATION_MASK.name in batch:
      gone_B = jnp.ones(len(batch[IMAGE.name]), bool)
      blind = dict(hide(batch, gone_B))
      losses[BLIND_LOSS] = loss_of(params, blind, key)[0]
    return losses

  return jax.jit(
    measure,
    in_shardings=(
      placed,
      None,
      replicated(mesh),
      batch_sharding(mesh),
      replicated(mesh),
    ),
    out_shardings=replicated(mesh),
  )
