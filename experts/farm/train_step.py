# SPDX-License-Identifier: Apache-2.0
"""The training state and the compiled step of a wave of experts.

SuTI (arXiv 2304.00186), section 3.3: 500 steps of Adafactor at 1e-5 an expert.
Batch size, augmentation (none here) and text dropout (none) are not public.

Experts are independent by construction: the step is a `shard_map` over every
axis of the mesh, inside which experts are mapped (`config.finetune.inner`), so
that devices never communicate. An expert's randomness depends on its cluster's
key and its own step, so it is the same expert in a wave, alone or on another
mesh. An expert is quarantined, and keeps its last state, if its loss or
gradient is not finite, or its loss rises far above its initial value. One whose
loss no longer falls may stop early.

The net computes in `config.finetune.dtype`, trained parameters are kept in
`config.finetune.master_dtype`, and the optimizer computes in float32.

Reading clusters and writing waves is done elsewhere.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from experts.farm.expert_model import ExpertModel
from experts.farm.waves import DIVERGENCE_WINDOW, map_experts
from experts.teacher import Teacher
from suti.nn.param import cast
from suti.nn.rounding import stochastic_round
from suti.parallel.mesh import batch_sharding, described, replicated
from suti.pipeline.backbone import Backbone

# E experts, K pictures of a cluster, B batch of one expert, H W C picture or
# latent, T steps of the loop.

Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
  """The programs of a wave; see the functions of the same names.

  Attributes:
    start: of `make_start`.
    restart: of `make_restart`.
    describe_start: `describe_start`, with all but the number of experts bound.
    step: of `make_step`.
  """

  start: Callable[[int], dict[str, Any]]
  restart: Callable[..., dict[str, Any]]
  describe_start: Callable[[int], dict[str, Any]]
  step: Callable[..., dict[str, Any]]


def make_programs(model: ExpertModel, tune) -> Programs:
  """Makes the programs that tune the waves of a run.

  Args:
    model: opened.
    tune: `config.finetune`, with `inner` no longer "auto".
  """
  tx = make_optimizer(tune)
  base, mesh = model.trainable, model.mesh
  kind = {"num_steps": tune.num_steps, "dtype": tune.master_dtype}
  return Programs(
    start=make_start(base, tx, mesh, **kind),
    restart=make_restart(base, tx, mesh, **kind),
    describe_start=lambda num_experts: describe_start(
      base, tx, mesh, num_experts=num_experts, **kind
    ),
    step=make_step(model.teacher, model.apply, model.backbone, tx, mesh, tune),
  )


def make_optimizer(config) -> optax.GradientTransformation:
  """Adafactor (the paper's) or Adam, at a constant rate.

  Adafactor's updates are not scaled by the parameter: at the paper's 1e-5 and
  500 steps scaled updates would be negligible.
  """
  if config.optimizer == "adafactor":
    return optax.adafactor(
      config.learning_rate, multiply_by_parameter_scale=False
    )
  return optax.adam(config.learning_rate)


def make_start(
  trainable: Params, tx, mesh: Mesh, *, num_steps: int, dtype: Any = jnp.float32
) -> Callable[[int], dict[str, Any]]:
  """Makes the function that starts a wave: E copies of the base, fresh state.

  Beside `params` and `opt` a state has `step`, the steps of the loop, and for
  each expert `number_E`, its number in the wave, `step_E`, the steps it has
  taken, `done_E`, whether it takes no more, `failed_E`, the step at which it
  failed or -1, `diverged_E`, whether it failed by divergence, and `loss_ET`,
  the whole curve, on the device, so that it is in every checkpoint. Experts are
  numbered from 0, in the order of their slots.

  Args:
    trainable: of one expert.
    tx: the optimizer.
    mesh: all of its axes divide the experts.
    num_steps: T.
    dtype: of the experts' parameters.
  """

  @functools.partial(
    jax.jit, static_argnums=1, out_shardings=batch_sharding(mesh)
  )
  def start_experts(base: Params, num_experts: int) -> dict[str, Any]:
    number_E = jnp.arange(num_experts, dtype=jnp.int32)
    return _fresh(base, number_E, tx=tx, num_steps=num_steps, dtype=dtype)

  def start(num_experts: int) -> dict[str, Any]:
    step = jax.device_put(np.int32(0), replicated(mesh))
    return start_experts(trainable, num_experts) | {"step": step}

  return start


def make_restart(
  trainable: Params, tx, mesh: Mesh, *, num_steps: int, dtype: Any = jnp.float32
) -> Callable[..., dict[str, Any]]:
  """Makes the function that starts new experts in some slots of a wave.

  It is (state, number_E, fresh_E) -> state: the state is donated, `number_E`
  are the experts in the slots from then on, and where `fresh_E` is true the
  slot is reset to the start.

  Arguments are those of `make_start`.
  """
  each = batch_sharding(mesh)

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=each)
  def restart_experts(experts, base, number_E, fresh_E):
    fresh = _fresh(base, number_E, tx=tx, num_steps=num_steps, dtype=dtype)

    def choose(new, old):
      return jnp.where(fresh_E.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    chosen = jax.tree.map(choose, fresh, experts)
    return chosen | {"number_E": number_E}

  def restart(state, number_E, fresh_E):
    experts = {name: x for name, x in state.items() if name != "step"}
    given = jax.device_put((number_E, fresh_E), each)
    new = restart_experts(experts, trainable, *given)
    return new | {"step": state["step"]}

  return restart


def _fresh(
  base: Params, number_E: jax.Array, *, tx, num_steps: int, dtype: Any
) -> dict[str, Any]:
  """Experts that have taken no step."""
  (num,) = number_E.shape
  params = {
    name: jnp.broadcast_to(x, (num, *x.shape)) for name, x in base.items()
  }
  return {
    "params": cast(params, dtype),
    "opt": jax.vmap(tx.init)(params),
    "number_E": number_E,
    "step_E": jnp.zeros((num,), jnp.int32),
    "done_E": jnp.zeros((num,), bool),
    "failed_E": jnp.full((num,), -1, jnp.int32),
    "diverged_E": jnp.zeros((num,), bool),
    "loss_ET": jnp.zeros((num, num_steps), jnp.float32),
  }


def describe_start(
  trainable: Params,
  tx,
  mesh: Mesh,
  *,
  num_experts: int,
  num_steps: int,
  dtype: Any = jnp.float32,
) -> dict[str, Any]:
  """The shapes of what `make_start` returns, with their shardings.

  Arguments are those of `make_start`, arrays or their shapes, and E.
  """

  def start(trainable: Params) -> dict[str, Any]:
    make = make_start(trainable, tx, mesh, num_steps=num_steps, dtype=dtype)
    return make(num_experts)

  state = jax.eval_shape(start, described(trainable))
  step = described(state.pop("step"), replicated(mesh))
  return described(state, batch_sharding(mesh)) | {"step": step}


def fail(state: dict[str, Any], failed_E: np.ndarray) -> dict[str, Any]:
  """Marks some experts as failed, as if their loss were not finite.

  Args:
    state: of a wave.
    failed_E: which.
  """
  before_E = np.asarray(state["failed_E"])
  now_E = np.where(
    failed_E & (before_E < 0), np.asarray(state["step_E"]), before_E
  )
  sharding = state["failed_E"].sharding
  done_E = np.asarray(state["done_E"]) | (now_E >= 0)
  new = {"failed_E": now_E, "done_E": done_E}
  return state | jax.device_put(new, sharding)


def make_step(
  teacher: Teacher, apply, backbone: Backbone, tx, mesh: Mesh, config
) -> Callable[..., dict[str, Any]]:
  """Makes the compiled step of a wave: (state, frozen, data) -> state."""
  loss_fn = teacher.loss
  assert loss_fn is not None, "a teacher without a loss has nothing to tune"

  def step_expert(frozen, expert, data):
    step = expert["step_E"]
    key = jax.random.fold_in(jax.random.wrap_key_data(data["key"]), step)
    pick_key, loss_key, round_key = jax.random.split(key, 3)
    rows_B = jax.random.randint(pick_key, (config.batch_size,), 0, data["num"])
    batch = {
      "x_BHWC": data["x_KHWC"][rows_B],
      "conditioning": jax.tree.map(
        lambda x_K: x_K[rows_B], data["conditioning"]
      ),
    } | {name: x_K[rows_B] for name, x_K in data.get("asked", {}).items()}

    def loss_of(params):
      params = frozen | cast(params, config.dtype)
      return loss_fn(apply, backbone, params, batch, loss_key, config)

    loss, grads = jax.value_and_grad(loss_of)(expert["params"])
    grads = cast(grads, jnp.float32)
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))
    wide = cast(expert["params"], jnp.float32)
    updates, opt = tx.update(grads, expert["opt"], wide)
    params = _narrow(optax.apply_updates(wide, updates), config, round_key)

    alive = ~expert["done_E"]
    params, opt = jax.tree.map(
      lambda new, old: jnp.where(alive & finite, new, old),
      (params, opt),
      (expert["params"], expert["opt"]),
    )
    curve_T = expert["loss_ET"]
    loss_T = jnp.where(alive, curve_T.at[step].set(loss), curve_T)
    failed = jnp.where(alive & ~finite, step, expert["failed_E"])
    step = step + (alive & finite).astype(jnp.int32)
    enough = _is_enough(loss_T, step, config)
    is_wild = _has_diverged(loss_T, step, config, ends=enough)
    is_wild &= alive & finite
    failed = jnp.where(is_wild, step, failed)
    return {
      "params": params,
      "opt": opt,
      "number_E": expert["number_E"],
      "step_E": step,
      "done_E": (failed >= 0) | enough,
      "failed_E": failed,
      "diverged_E": expert["diverged_E"] | is_wild,
      "loss_ET": loss_T,
    }

  step_all = map_experts(step_expert, mesh, inner=config.inner)

  def step_wave(state, frozen, data):
    experts = {name: x for name, x in state.items() if name != "step"}
    return step_all(frozen, experts, data) | {"step": state["step"] + 1}

  return jax.jit(step_wave, donate_argnums=0)


def sync_metrics(
  state: dict[str, Any], *, num: int
) -> tuple[float, np.ndarray]:
  """Waits for the devices.

  Args:
    state: of a wave.
    num: slots that experts take, the first ones.

  Returns: the mean of their last losses, if finite, and which are done.
  """
  step_E, loss_ET, done_E = (
    x[:num]
    for x in jax.device_get(
      [state[name] for name in ("step_E", "loss_ET", "done_E")]
    )
  )
  last_E = loss_ET[np.arange(num), np.maximum(step_E - 1, 0)]
  last_E = last_E[np.isfinite(last_E)]
  return float(last_E.mean()) if len(last_E) else np.nan, done_E


def _narrow(params: Any, config, key: jax.Array) -> Params:
  """float32 -> the kept dtype, rounded stochastically if that is narrower."""
  if config.master_dtype == "float32":
    return params
  keys = jax.random.split(key, len(params))
  return {
    name: stochastic_round(params[name], key)
    for name, key in zip(sorted(params), keys, strict=True)
  }


def _is_enough(loss_T: jax.Array, step: jax.Array, config) -> jax.Array:
  """Whether an expert takes no step after `step` of them.

  It has taken all, or the sum of its last `stop_window` losses is not lower by
  the share `stop_gain` than that of as many before them. This is checked once
  per window, or noise would stop every expert.
  """
  enough = step >= config.num_steps
  if window := config.stop_window:
    last_T = lax.dynamic_slice_in_dim(
      loss_T, jnp.maximum(step - 2 * window, 0), 2 * window
    )
    before, now = last_T.reshape(2, window).mean(1)
    due = (step >= 2 * window) & (step % window == 0)
    enough |= due & (now > (1 - config.stop_gain) * before)
  return enough


def _has_diverged(
  loss_T: jax.Array, step: jax.Array, config, *, ends: jax.Array
) -> jax.Array:
  """Whether the loss of an expert is far above its initial value.

  The mean of its last `DIVERGENCE_WINDOW` losses is more than `diverged` times
  that of as many first ones. At too high a learning rate the first ones may be
  large themselves: so it is also compared with a multiple of the very first
  loss, which is the base's own. A single loss is noisy, and more so the smaller
  the batch: the multiple is 50 over the batch size. This is checked once per
  window, and when the expert `ends`.
  """
  if not config.diverged:
    return jnp.bool(False)
  window = DIVERGENCE_WINDOW
  at_T = jnp.arange(len(loss_T))
  first = jnp.where(at_T < window, loss_T, 0).sum()
  last = jnp.where((at_T >= step - window) & (at_T < step), loss_T, 0).sum()
  # In sums of `window` losses, as these are.
  slack = window * max(1.0, 2 * window / config.batch_size)
  began = jnp.minimum(first, slack * loss_T[0])
  due = (step >= window) & ((step % window == 0) | ends)
  return due & (last > config.diverged * began)
