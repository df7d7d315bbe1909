# SPDX-License-Identifier: Apache-2.0
"""The farm as one side: the shipped step of a wave, at some number of experts.

Also what its first expert is given in its first steps, for the other side.
"""

import dataclasses
import functools
import os
import statistics
import time
from typing import Any

import numpy as np

from suti.runtime import xla_flags
from tests.benchmarks.sides import answers
from tests.benchmarks.tuning import task as tasks
from tests.benchmarks.tuning.task import PICTURES, Task

# E experts, K pictures of a subject, B batch, H W C latent, L text tokens, D
# width, T steps.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
  """What `experts.farm.train_step` makes a wave of."""

  task: Task
  teacher: Any
  apply: Any
  trainable: Any
  frozen: Any
  backbone: Any
  tx: Any
  mesh: Any
  tune: Any


def run(args) -> None:
  """The shipped step of a wave of experts."""
  say = answers()
  parts = _open(args)
  import jax

  from experts.farm.train_step import make_start, make_step, sync_metrics

  tune, mesh = parts.tune, parts.mesh
  (num,) = args.experts
  step_wave = make_step(
    parts.teacher, parts.apply, parts.backbone, parts.tx, mesh, tune
  )
  start = make_start(
    jax.device_get(parts.trainable),
    parts.tx,
    mesh,
    num_steps=tune.num_steps,
    dtype=tune.master_dtype,
  )
  data = _wave(parts.task, num)
  state = start(num)
  given = jax.device_put(data)
  began = time.perf_counter()
  step_wave = step_wave.lower(state, parts.frozen, given).compile()
  compile_s = time.perf_counter() - began
  for _ in range(tasks.CHECKED_STEPS):
    state = step_wave(state, parts.frozen, given)
  losses = state["loss_ET"][0, : tasks.CHECKED_STEPS].tolist()

  def time_wave() -> dict[str, Any]:
    """Begins a wave and tunes it for some steps, as experts.finetune does."""
    began = time.perf_counter()
    state = start(num)
    given = jax.block_until_ready(jax.device_put(data))
    jax.block_until_ready(state)
    start_s = time.perf_counter() - began
    seconds = []
    for _ in range(args.steps // tune.log_every):
      began = time.perf_counter()
      for _ in range(tune.log_every):
        state = step_wave(state, parts.frozen, given)
      sync_metrics(state, num=num)
      seconds.append((time.perf_counter() - began) / tune.log_every)
    memory = jax.devices()[0].memory_stats() or {}
    highest = memory.get("peak_bytes_in_use") or tasks.highest_rss()
    return {
      "seconds": statistics.median(seconds),
      "start_s": start_s,
      "bytes": highest,
    }

  state = given = None  # Room for the wave that is timed.
  say(losses=losses, compile_s=compile_s)
  tasks.serve(say, time=time_wave)


def write_draws(args) -> None:
  """Writes what our first expert is given in its first steps, and its start.

  Seen by a net that says nothing: what is drawn does not depend on the net.
  """
  parts = _open(args)
  import jax
  import jax.numpy as jnp

  from experts.farm.train_step import make_start, make_step

  teacher, tune, mesh = parts.teacher, parts.tune, parts.mesh
  seen = []

  def watch(x0_BHWC, params, x_BHWC, t_B, *, text_BLD, added):
    del params, added
    jax.debug.callback(
      lambda *given: seen.append([np.array(x) for x in given]),
      *(x0_BHWC, x_BHWC, t_B, text_BLD),
    )
    return jnp.zeros_like(x_BHWC)

  def fit(apply, backbone, params, batch, key, config):
    del apply
    spy = functools.partial(watch, batch["x_BHWC"])
    return teacher.loss(spy, backbone, params, batch, key, config)

  watched = dataclasses.replace(teacher, fit=fit)
  step = make_step(watched, None, parts.backbone, parts.tx, mesh, tune)
  nothing = {"nothing": jnp.zeros((1,))}
  start = make_start(nothing, parts.tx, mesh, num_steps=tune.num_steps)
  state, data = start(1), jax.device_put(_wave(parts.task, 1))
  for _ in range(tasks.CHECKED_STEPS):
    state = step(state, {}, data)
    jax.effects_barrier()
  schedule, draws = parts.backbone.schedule, {}
  for i, (x0_BHWC, x_BHWC, t_B, text_BLD) in enumerate(seen):
    alpha, sigma = (
      v[t_B][:, None, None, None] for v in (schedule.alpha_T, schedule.sigma_T)
    )
    noise_BHWC = (x_BHWC - alpha * x0_BHWC) / sigma
    values = (x0_BHWC, noise_BHWC, t_B.astype(np.int64), text_BLD)
    draws |= {
      f"{name}_{i}": v for name, v in zip(tasks.DRAWS, values, strict=True)
    }
  np.savez(args.folder / "draws.npz", allow_pickle=False, **draws)
  new = {k: np.asarray(v) for k, v in parts.trainable.items() if "lora_" in k}
  np.savez(args.folder / "start.npz", allow_pickle=False, **new)


def _open(args) -> Parts:
  """Opens the net as experts.finetune does, but from a folder without texts."""
  os.environ["JAX_PLATFORMS"] = "cuda,cpu" if args.device == "gpu" else "cpu"
  xla_flags.use_eigen_convolutions()
  import jax

  from configs import quickstart
  from experts.farm.train_step import make_optimizer
  from experts.teacher import declare, find
  from suti.diffusion.schedule import make_schedule
  from suti.hf.model import open_model
  from suti.parallel.mesh import flat_mesh
  from suti.pipeline.backbone import Backbone
  from suti.pipeline.codec import pixels

  task = tasks.find_task(args)
  config = quickstart.get_config()
  (config.finetune.batch_size,) = args.batch
  config.finetune.update(
    teacher=args.teacher,
    rank=tasks.RANK,
    learning_rate=tasks.LEARNING_RATE,
    optimizer="adam",
    weighting="uniform",
    log_snr_mean=None,
    dtype=args.dtype,
    log_every=min(config.finetune.log_every, args.steps),
    num_steps=tasks.STEPS_OF_AN_EXPERT,
  )

  def encode(texts):
    raise AssertionError("states of texts are given")

  model = open_model(task.unet)
  backbone = Backbone(
    name=args.model,
    folder=task.unet.parent,
    unet=model.module,
    unet_config=model.config,
    params=model.params,
    schedule=make_schedule(task.scheduler),
    size_px=task.latent[0],
    codec=pixels(1),  # latents are given, too
    encode=encode,
    zero_null=False,
  )
  teacher = find(args.teacher)
  apply, trainable, frozen = declare(teacher, backbone, config)
  return Parts(
    task=task,
    teacher=teacher,
    apply=apply,
    trainable=trainable,
    frozen=frozen,
    backbone=dataclasses.replace(backbone, params={}),
    tx=make_optimizer(config.finetune),
    mesh=flat_mesh(jax.devices()[:1]),
    tune=config.finetune,
  )


def _wave(task: Task, num: int) -> dict[str, np.ndarray]:
  """A wave's data, as `experts.farm.waves.wave_data` makes it."""
  import jax

  from experts.farm.waves import expert_key

  x_KHWC, text_KLD = zip(*map(task.subject, range(num)), strict=True)
  keys = [jax.random.key_data(expert_key(0, f"{i:x}")) for i in range(num)]
  return {
    "x_KHWC": np.stack(x_KHWC),
    "conditioning": {"text_BLD": np.stack(text_KLD)},
    "num": np.full((num,), PICTURES, np.int32),
    "key": np.stack(keys),
  }
