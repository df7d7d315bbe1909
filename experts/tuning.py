# SPDX-License-Identifier: Apache-2.0
"""The state and the compiled step of a wave of experts.

SuTI (arXiv 2304.00186), section 3.3: 500 steps of Adafactor at 1e-5 an expert.
Batch size, augmentation (none here) and text dropout (none) are not public.

Experts are independent by construction: the step is a `shard_map` over every
axis of the mesh, inside which experts are mapped (`config.finetune.inner`), so
that no device ever speaks to another. An expert's randomness follows from its
cluster's key, so in a wave, alone or on another mesh it is the same expert. One
whose loss or gradient is not finite is quarantined: it stops where it was.

Which clusters a wave has, and what becomes of it, is not known here.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experts.teacher import Teacher
from experts.waves import map_experts
from suti.backbone import Backbone
from suti.parallel.mesh import batch_sharding, replicated

# E experts, K pictures of a cluster, B batch of one expert, H W C picture or
# latent, L text tokens, D width, T steps of the loop.

Params = dict[str, jax.Array]


def make_optimizer(config) -> optax.GradientTransformation:
  """Adafactor (the paper's) or Adam, at a constant rate.

  Adafactor's steps are not scaled by the parameter: at the paper's 1e-5 and 500
  steps such steps would come to nothing.
  """
  if config.optimizer == "adafactor":
    return optax.adafactor(
      config.learning_rate, multiply_by_parameter_scale=False
    )
  return optax.adam(config.learning_rate)


def make_start(
  trainable: Params, tx, mesh: Mesh, *, num_steps: int
) -> Callable[[int], dict[str, Any]]:
  """Makes the function that starts a wave: E copies of the base, fresh state.

  `failed_E` is the step at which an expert failed, -1 if it did not; `loss_ET`
  is the whole curve, on the device, so that it is in every checkpoint.
  """

  @functools.partial(
    jax.jit, static_argnums=1, out_shardings=batch_sharding(mesh)
  )
  def start_experts(base: Params, num_experts: int) -> dict[str, Any]:
    params = {
      name: jnp.broadcast_to(x, (num_experts, *x.shape))
      for name, x in base.items()
    }
    return {
      "params": params,
      "opt": jax.vmap(tx.init)(params),
      "failed_E": jnp.full((num_experts,), -1, jnp.int32),
      "loss_ET": jnp.zeros((num_experts, num_steps), jnp.float32),
    }

  def start(num_experts: int) -> dict[str, Any]:
    step = jax.device_put(np.int32(0), replicated(mesh))
    return start_experts(trainable, num_experts) | {"step": step}

  return start


def fail(state: dict[str, Any], failed_E: np.ndarray) -> dict[str, Any]:
  """Makes some experts stay where they are, as if their loss were not finite.

  Args:
    state: of a wave.
    failed_E: which.
  """
  before_E = np.asarray(state["failed_E"])
  now_E = np.where(
    failed_E & (before_E < 0), np.asarray(state["step"]), before_E
  )
  sharding = state["failed_E"].sharding
  return state | {"failed_E": jax.device_put(now_E, sharding)}


def make_step(
  teacher: Teacher, apply, backbone: Backbone, tx, mesh: Mesh, config
) -> Callable[..., dict[str, Any]]:
  """Makes the compiled step of a wave: (state, frozen, data) -> state."""
  fit = teacher.fit
  assert fit is not None, "a teacher without fit has nothing to tune"

  def step_expert(shared, params, opt, failed, loss_T, data):
    frozen, step = shared
    key = jax.random.fold_in(jax.random.wrap_key_data(data["key"]), step)
    pick_key, loss_key = jax.random.split(key)
    rows_B = jax.random.randint(pick_key, (config.batch_size,), 0, data["num"])
    batch = {
      "x_BHWC": data["x_KHWC"][rows_B],
      "text_BLD": data["text_KLD"][rows_B],
      "text_mask_BL": data["text_mask_KL"][rows_B],
    }

    def loss_of(params):
      return fit(apply, backbone, frozen | params, batch, loss_key, config)

    loss, grads = jax.value_and_grad(loss_of)(params)
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    failed = jnp.where((failed < 0) & ~finite, step, failed)
    updates, new_opt = tx.update(grads, opt, params)
    new = optax.apply_updates(params, updates), new_opt
    params, opt = jax.tree.map(
      lambda new, old: jnp.where(failed < 0, new, old), new, (params, opt)
    )
    return params, opt, failed, loss_T.at[step].set(loss)

  step_all = map_experts(step_expert, mesh, inner=config.inner)

  def step_wave(state, frozen, data):
    names = ("params", "opt", "failed_E", "loss_ET")
    step = state["step"]
    new = step_all((frozen, step), *[state[name] for name in names], data)
    return dict(zip(names, new, strict=True)) | {"step": step + 1}

  return jax.jit(step_wave, donate_argnums=0)
