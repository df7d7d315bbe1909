# SPDX-License-Identifier: Apache-2.0
"""Clusters -> experts: waves of E experts, each tuned on one subject (loop A).

SuTI (arXiv 2304.00186), algorithm 1: one expert on a core, 400 at a time. How
an expert is tuned is `experts.tuning`'s business.

A wave leaves its weights and a record of its experts (`experts.wave_files`); a
killed run goes on from the wave's last checkpoint.
"""

import dataclasses
import shutil
import time
from pathlib import Path

import jax

from experts import packing, tuning
from experts.mine import find_clusters, read_clusters
from experts.prompts import read_prompts
from experts.teacher import declare, find, open_backbone
from experts.wave_files import (
  median_time,
  summarise,
  write_times,
  write_wave,
)
from experts.waves import make_waves, wave_data
from suti.backbone import find_model
from suti.io.checkpoint import Checkpoints
from suti.parallel.mesh import (
  batch_sharding,
  make_mesh,
  replicated,
)
from suti.stage import main, progress, stage

# E experts, T steps of the loop.

# Room for the largest cluster of the paper: clusters of other limits, such as a
# benchmark's, then share a compiled program.
PICTURES = 10


def run(config, workdir: Path) -> dict:
  """Writes experts/finetune/wave-*.safetensors and wave-*.json."""
  # --- 1 Config and mesh ------------------------------------------------------
  tune = config.finetune
  # These change nothing that is written.
  kept = ("keep_weights", "checkpoint_every", "log_every")
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

  # --- 2 Backbone and teacher -------------------------------------------------
  teacher = find(tune.teacher)
  backbone = open_backbone(config)
  apply, trainable, frozen = declare(teacher, backbone, config)
  tx = tuning.make_optimizer(tune)

  # --- 3 Data -----------------------------------------------------------------
  clusters = read_clusters(workdir)
  keys = {prompt.cluster for prompt in read_prompts(workdir)}
  num_pictures = max(config.mine.max_images, PICTURES)

  # --- 4 Shardings and arrays -------------------------------------------------
  each = batch_sharding(mesh)
  frozen = jax.device_put(tuning.cast(frozen, tune.dtype), replicated(mesh))
  # On the host: experts are copies of it, made once a wave.
  trainable = jax.device_get(trainable)
  backbone = dataclasses.replace(backbone, params={})
  start = tuning.make_start(
    trainable, tx, mesh, num_steps=tune.num_steps, dtype=tune.master_dtype
  )

  def describe_data(num: int):
    first = find_clusters(clusters, [min(keys)]).values()
    data = wave_data(
      list(first), backbone, num_pictures=num_pictures, seed=config.seed
    )
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((num, *x.shape[1:]), x.dtype), data
    )

  # --- 5 Step -----------------------------------------------------------------
  def make_step(tune):
    return tuning.make_step(teacher, apply, backbone, tx, mesh, tune)

  tune = packing.settle(
    tune,
    mesh,
    bytes_at=packing.make_bytes_at(
      make_step, start, frozen, describe_data, mesh
    ),
    shared=frozen,
    num_clusters=min(len(keys), tune.get("num_clusters") or len(keys)),
    folder=current.folder,
  )
  step_wave = make_step(tune)
  waves = make_waves(
    keys,
    experts_per_wave=tune.experts_per_wave,
    num_devices=mesh.size,
    limit=tune.get("num_clusters"),
  )

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
        num_pictures=num_pictures,
        seed=config.seed,
      )
      data = jax.device_put(data, each)
      checkpoints = Checkpoints(current.folder / "checkpoints" / wave.name)
      state = checkpoints.restore(start(len(wave.keys)))
      first = int(state["step"])
      bar.skip(first)

      # --- 7 Loop -------------------------------------------------------------
      seconds = []  # of a step of an expert, once the program is compiled
      looked, began = first, time.monotonic()
      # Save, then step: a checkpoint of step n holds the losses before n.
      for step in range(first, tune.num_steps):
        if step > first and step % tune.checkpoint_every == 0:
          checkpoints.save(step, state)
        state = step_wave(state, frozen, data)
        done = step + 1
        # The devices are waited for now and then, not at every step.
        if compiled and done % tune.log_every and done < tune.num_steps:
          continue
        loss, all_done = tuning.look(state)
        bar.update(done - looked, note=f"{wave.name} loss {loss:.4f}")
        now = time.monotonic()
        if compiled:
          num = (done - looked) * len(wave.real_keys)
          seconds.append((now - began) / num)
        looked, began, compiled = done, now, True
        if all_done:
          break

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


if __name__ == "__main__":
  main("experts.finetune", run)
