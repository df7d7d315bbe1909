# SPDX-License-Identifier: Apache-2.0
"""The loop all pretrainings share: AdamW or Muon, EMA, checkpoints, a log.

The learning rate warms up, stays, and falls in the last fifth of the steps, so
that a run can be prolonged before its fall. A batch depends on the seed and the
step alone: a killed run goes on with the batches it would have seen; one that
SIGTERM ends saves where it is.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from suti.io.checkpoint import Checkpoints
from suti.nn.optimizer import (
  ema_decay,
  make_muon,
  make_schedule,
  start_state,
  step_key,
)
from suti.runtime import preemption
from suti.runtime.log import Log, write_overview
from suti.runtime.stage import progress

Params = dict[str, jax.Array]
Batch = dict[str, np.ndarray]


def decays(params: Params) -> dict[str, bool]:
  """Weight decay is for matrices and kernels, not for norms, biases, tables."""
  return {
    name: array.ndim > 1 and "embed" not in name
    for name, array in params.items()
  }


def train(
  config: Any,
  folder: Path,
  *,
  params: Params,
  loss: Callable[[Params, Batch, jax.Array], tuple[jax.Array, dict]],
  batch_at: Callable[[np.random.Generator], Batch],
  preview: Callable[[Params, int], None] | None = None,
) -> tuple[Params, float]:
  """Trains until `config.num_steps`, from a checkpoint where there is one.

  Args:
    config: num_steps, learning_rate, warmup_steps, weight_decay, grad_clip,
      ema, seed, log_every, checkpoint_every; optimizer, "adamw" or "muon",
      where it is not AdamW.
    folder: checkpoints, log.jsonl and parameters.txt go there; a checkpoint of
      a config that differs in more than its length is refused.
    params: where to start from.
    loss: (params, batch, key) -> (scalar, scalars to log).
    batch_at: draws a batch with the generator of a step.
    preview: called with the averaged parameters at every checkpoint.

  Returns: the parameters' exponential moving average; the seconds that all
    runs up to here took together.
  """
  rate = make_schedule(
    config.learning_rate,
    num_steps=config.num_steps,
    warmup_steps=config.warmup_steps,
    fall_steps=config.num_steps // 5,
  )
  tx = _make_optimizer(config, rate)

  step = _make_step(config, loss, tx)
  write_overview(folder, params)
  state = start_state(params, tx, seed=config.seed)
  # Longer training goes on; training of anything else would be a mixture.
  free = ("num_steps", "log_every", "checkpoint_every", "num_examined")
  recipe = {k: v for k, v in config.to_dict().items() if k not in free}
  checkpoints = Checkpoints(folder / "checkpoints", model=recipe)
  state = checkpoints.restore(state)
  first = int(state["step"])
  start = time.monotonic() - (checkpoints.data or {"seconds": 0.0})["seconds"]

  def save(number: int, scalars: Mapping[str, Any]) -> None:
    log.check(number, scalars)  # what is not finite is never saved
    seconds = time.monotonic() - start
    checkpoints.save(number, state, {"seconds": seconds})

  with (
    contextlib.closing(checkpoints),
    contextlib.closing(Log(folder, batch_size=config.batch_size)) as log,
    progress(config.num_steps, folder.name, done=first) as bar,
    preemption.between_steps(alone=jax.process_count() == 1) as stop,
  ):
    number, scalars = first, {}
    while number < config.num_steps and not stop.is_set():
      number += 1
      batch = batch_at(np.random.default_rng((config.seed, number)))
      before, (state, scalars) = scalars, step(state, batch)
      # One step ahead of the device, and no more: SIGTERM gives seconds.
      jax.block_until_ready(before)
      due = number % config.checkpoint_every == 0
      note = ""
      if due or number % config.log_every == 0:
        note = f"loss {log.write(number, scalars)['loss']:.4f}"
      if due:
        save(number, scalars)
        if preview is not None:
          preview(state["ema"], number)
      bar.update(1, note=note)
    save(number, scalars)
  return state["ema"], time.monotonic() - start


def _make_optimizer(
  config: Any, rate: optax.Schedule
) -> optax.GradientTransformation:
  """AdamW, or Muon for what is a matrix inside the net."""
  clip = optax.clip_by_global_norm(config.grad_clip)
  if config.get("optimizer", "adamw") == "adamw":
    return optax.chain(
      clip,
      optax.adamw(rate, b2=0.99, weight_decay=config.weight_decay, mask=decays),
    )
  return optax.chain(clip, make_muon(rate, weight_decay=config.weight_decay))


def _make_step(
  config: Any, loss: Callable[..., Any], tx: optax.GradientTransformation
) -> Callable[[dict, Batch], tuple[dict, dict]]:
  """The compiled step of `train`: (state, batch) -> (state, scalars)."""

  def step(state: dict, batch: Batch) -> tuple[dict, dict]:
    (value, scalars), grads = jax.value_and_grad(loss, has_aux=True)(
      state["params"], batch, step_key(state)
    )
    updates, opt = tx.update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    # Not `average`, which rounds differently: the shipped models were made so.
    kept = ema_decay(state["step"], decay=config.ema)
    ema = jax.tree.map(
      lambda old, new: old + (1 - kept) * (new - old), state["ema"], params
    )
    state = {
      "params": params,
      "opt": opt,
      "ema": ema,
      "step": state["step"] + 1,
      "key": state["key"],
    }
    return state, {"loss": value, **scalars}

  return jax.jit(step, donate_argnums=0)
