# SPDX-License-Identifier: Apache-2.0
"""The compiled step of an apprentice's training.

SuTI (arXiv 2304.00186), eq. 6: the squared error of one prediction, conditioned
on demonstrations. Dropout, clipping and averaging are set by config fields; see
`apprentice.train`, which runs the loop.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from apprentice.fields import drop, to_latents
from apprentice.method import predict
from apprentice.model import Apprentice
from suti.diffusion.objective import denoising_loss, normal_steps
from suti.nn.optimizer import average, start_state, step_key
from suti.parallel.mesh import batch_sharding, replicated

__all__ = ("make_loss", "make_step", "start_state")

# B batch, K demonstrations, H W C latent.


def make_step(
  apprentice: Apprentice,
  tx: Any,
  train: Any,
  *,
  null_text: Any,
  placed: Any,
  mesh: Mesh,
) -> Callable[..., tuple[dict[str, Any], dict[str, jax.Array]]]:
  """Makes the compiled step: (state, frozen, vae_params, batch) -> state.

  Args:
    apprentice: declared.
    tx: the optimizer.
    train: `config.train`.
    null_text: of the backbone, one row.
    placed: shardings of the state.
    mesh: its devices share a batch.

  Returns: the step, which also returns the loss and the gradient norm.
  """
  backbone, method = apprentice.backbone, apprentice.method
  dtype = train.dtype  # of the arithmetic
  fields = method.fields(apprentice.config)
  loss_of = make_loss(apprentice, train)

  def step(state, frozen, vae_params, batch):
    drop_key, loss_key = jax.random.split(step_key(state))
    batch = to_latents(
      backbone, vae_params, batch, dtype=jnp.float32, fields=fields
    )
    batch = drop(
      batch,
      drop_key,
      null_text=null_text,
      config=train,
      hide=method.hide,
      fields=fields,
    )

    def loss(params):
      whole = {n: p.astype(dtype) for n, p in (params | frozen).items()}
      return loss_of(whole, batch, loss_key)

    (value, own), grads = jax.value_and_grad(loss, has_aux=True)(
      state["params"]
    )
    updates, opt = tx.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    ema = average(state["ema"], params, step=state["step"], decay=train.ema)
    new = {"params": params, "opt": opt, "ema": ema, "key": state["key"]}
    scalars = {"loss": value, "grad_norm": optax.tree.norm(grads)} | own
    return new | {"step": state["step"] + 1}, scalars

  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(placed, None, replicated(mesh), batch_sharding(mesh)),
    out_shardings=(placed, replicated(mesh)),
  )


def make_loss(
  apprentice: Apprentice, train: Any
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
  """Makes (params, batch, key) -> the loss, and its parts if it has several."""
  backbone, method = apprentice.backbone, apprentice.method
  apply = apprentice.apply

  def denoise(params, batch, context, key):
    return denoising_loss(
      backbone.schedule,
      lambda x, t_B: predict(
        method,
        apply,
        params,
        x,
        t_B,
        batch["text"],
        context,
        # 0 and 1 are the keys that the loss splits this one into.
        keys_B=jax.random.split(jax.random.fold_in(key, 2), len(x)),
      ),
      batch["image"],
      key,
      weighting=train.weighting,
      gamma=train.snr_gamma,
      log_snr=normal_steps(train),
      stratified=True,
    ).mean()

  def loss(params, batch, key):
    context = None
    if method.loss is None or method.losses is not None:
      context = method.encode(apply, params, batch)
    if method.loss is None:
      kind, value = "denoising", denoise(params, batch, context, key)
    else:
      kind = "main"
      value = method.loss(apply, backbone, params, batch, key, train)
    if method.losses is None:
      return value, {}
    own = dict(method.losses(apply, params, batch, context))
    return value + sum(own.values()), {f"loss_{kind}": value} | {
      f"loss_{name}": each for name, each in own.items()
    }

  return loss
