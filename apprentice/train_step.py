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
from apprentice.model import Apprentice
from suti.diffusion.objective import denoising_loss
from suti.nn.optimizer import average, start_state, step_key
from suti.parallel.mesh import batch_sharding, replicated

__all__ = ("make_step", "start_state")

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
  apply = apprentice.apply
  dtype = train.dtype  # of the arithmetic

  def step(state, frozen, vae_params, batch):
    drop_key, loss_key = jax.random.split(step_key(state))
    batch = to_latents(backbone, vae_params, batch, dtype=jnp.float32)
    batch = drop(batch, drop_key, null_text=null_text, config=train)

    def loss(params):
      whole = {n: p.astype(dtype) for n, p in (params | frozen).items()}
      context = method.encode(apply, whole, batch)
      return denoising_loss(
        backbone.schedule,
        lambda x, t_B: method.denoise(
          apply, whole, x, t_B, batch["text"], context
        ),
        batch["image"],
        loss_key,
        weighting=train.weighting,
        gamma=train.snr_gamma,
        stratified=True,
      ).mean()

    value, grads = jax.value_and_grad(loss)(state["params"])
    updates, opt = tx.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    ema = average(state["ema"], params, step=state["step"], decay=train.ema)
    new = {"params": params, "opt": opt, "ema": ema, "key": state["key"]}
    scalars = {"loss": value, "grad_norm": optax.tree.norm(grads)}
    return new | {"step": state["step"] + 1}, scalars

  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(placed, None, replicated(mesh), batch_sharding(mesh)),
    out_shardings=(placed, replicated(mesh)),
  )
