# SPDX-License-Identifier: Apache-2.0
"""Clusters -> experts: waves of E experts, each tuned on one subject (loop A).

SuTI (arXiv 2304.00186), section 3.3 and algorithm 1: 500 steps of Adafactor at
1e-5 an expert, one expert on a core, 400 at a time. Batch size, augmentation
(none here) and text dropout (none) are not public.

Experts are independent by construction: the step is a `shard_map` over every
axis of the mesh, inside which experts are mapped (`config.finetune.inner`), so
that no device ever speaks to another. An expert's randomness follows from its
cluster's key, so in a wave, alone or on another mesh it is the same expert. One
whose loss or gradient is not finite is quarantined: it stops where it was.

A wave leaves its weights and a record of its experts (`experts.wave_files`); a
killed run goes on from the wave's last checkpoint.
"""

import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experts.mine import find_clusters, read_clusters
from experts.prompts import read_prompts
from experts.teacher import Teacher, declare, find, open_backbone
from experts.wave_files import (
  median_time,
  summarise,
  write_times,
  write_wave,
)
from experts.waves import make_waves, map_experts, wave_data
from suti.backbone import Backbone, find_model
from suti.io.checkpoint import Checkpoints
from suti.parallel.mesh import (
  batch_sharding,
  check_batch,
  make_mesh,
  replicated,
)
from suti.stage import main, progress, stage

# E experts, K pictures of a cluster, B batch of one expert, H W C picture or
# latent, L text tokens, D width, T steps of the loop.

Params = dict[str, jax.Array]
# Room for the largest cluster of the paper: clusters of other limits, such as a
# benchmark's, then share a compiled program.
_PICTURES = 10


def run(config, workdir: Path) -> dict:
  """Writes experts/finetune/wave-*.safetensors and wave-*.json."""
  # --- 1 Config and mesh ------------------------------------------------------
  tune = config.finetune
  kept = ("keep_weights", "checkpoint_every")  # change nothing that is written
  current = stage(
    workdir,
    "experts/finetune",
    {
      "seed": config.seed,
      "backbone": config.backbone,
      "finetune": {k: v for k, v in tune.items() if k not in kept},
    },
    reads=["experts/mine", "experts/prompts"],
    folders={"config.backbone": find_model(config.backbone)},
  )
  if current.done is not None:
    return current.done
  mesh = make_mesh(config.mesh)
  check_batch("config.finetune.experts_per_wave", tune.experts_per_wave, mesh)

  # --- 2 Backbone and teacher -------------------------------------------------
  teacher = find(tune.teacher)
  backbone = open_backbone(config)
  apply, trainable, frozen = declare(teacher, backbone, config)
  tx = make_optimizer(tune)

  # --- 3 Data -----------------------------------------------------------------
  clusters = read_clusters(workdir)
  waves = make_waves(
    {prompt.cluster for prompt in read_prompts(workdir)},
    experts_per_wave=tune.experts_per_wave,
    num_devices=mesh.size,
    limit=tune.get("num_clusters"),
  )

  # --- 4 Shardings and arrays -------------------------------------------------
  each = batch_sharding(mesh)
  frozen = jax.device_put(frozen, replicated(mesh))
  trainable = jax.device_put(trainable, replicated(mesh))
  start = make_start(trainable, tx, mesh, num_steps=tune.num_steps)

  # --- 5 Step -----------------------------------------------------------------
  step_wave = make_step(teacher, apply, backbone, tx, mesh, tune)

  left = [w for w in waves if not (current.folder / f"{w.name}.json").exists()]
  done = (len(waves) - len(left)) * tune.num_steps
  total = len(waves) * tune.num_steps
  compiled = False
  with progress(total, "finetune", done=done) as bar:
    for wave in left:
      # --- 6 Start or resume --------------------------------------------------
      found = find_clusters(clusters, wave.keys)
      data = wave_data(
        [found[key] for key in wave.keys],
        backbone,
        num_pictures=max(config.mine.max_images, _PICTURES),
        seed=config.seed,
      )
      data = jax.device_put(data, each)
      checkpoints = Checkpoints(current.folder / "checkpoints" / wave.name)
      state = checkpoints.restore(start(len(wave.keys)))
      first = int(state["step"])
      bar.skip(first)

      # --- 7 Loop -------------------------------------------------------------
      seconds = []  # of each step that did not compile, an expert
      # Save, then step: a checkpoint of step n holds the losses before n.
      for step in range(first, tune.num_steps):
        if step > first and step % tune.checkpoint_every == 0:
          checkpoints.save(step, state)
        began = time.monotonic()
        state = step_wave(state, frozen, data)
        loss = float(state["loss_ET"][:, step].mean())
        if compiled:
          seconds.append((time.monotonic() - began) / len(wave.real_keys))
        compiled = True
        bar.update(note=f"{wave.name} loss {loss:.4f}")

      # --- 8 Finish -----------------------------------------------------------
      write_times(current.folder, wave.name, seconds)
      write_wave(current.folder, wave, state, teacher=tune.teacher)
      checkpoints.close()

  summary = summarise(current.folder, waves)
  if (each_s := median_time(current.folder)) is not None:
    summary["seconds_per_expert"] = each_s * tune.num_steps
  summary = current.finish(summary)
  shutil.rmtree(current.folder / "checkpoints", ignore_errors=True)
  return summary


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


if __name__ == "__main__":
  main("experts.finetune", run)
