# SPDX-License-Identifier: Apache-2.0
"""Clusters -> experts: waves of E experts, each tuned on one subject (loop A).

SuTI (arXiv 2304.00186), algorithm 1: one expert on a core, 400 at a time. How
an expert is tuned is `experts.tuning`'s business.

Any number of processes may run this stage in one workdir at once, each with
devices of its own. They share nothing but files: a wave is claimed by one of
them (`experts.claims`), leaves its weights and a record of its experts
(`experts.wave_files`), and goes on from its last checkpoint if its worker dies.
"""

import shutil
import time
from pathlib import Path

import jax

from experts import tuning
from experts.claims import Claims
from experts.mine import find_clusters, read_clusters
from experts.prompts import read_prompts
from experts.teacher import declare, find, open_backbone
from experts.wave_checkpoints import WaveCheckpoints
from experts.wave_files import (
  finished_waves,
  median_time,
  summarise,
  write_times,
  write_wave,
)
from experts.waves import make_waves, wave_data
from suti import preemption
from suti.backbone import find_model
from suti.parallel.mesh import (
  batch_sharding,
  check_batch,
  make_mesh,
  replicated,
)
from suti.stage import main, progress, stage

# E experts, T steps of the loop.

# Room for the largest cluster of the paper: clusters of other limits, such as a
# benchmark's, then share a compiled program.
_PICTURES = 10


def run(config, workdir: Path) -> dict:
  """Writes experts/finetune/wave-*.safetensors and wave-*.json."""
  # --- 1 Config and mesh ------------------------------------------------------
  tune = config.finetune
  # These change nothing of what is written.
  free = ("keep_weights", "checkpoint_every", "lease_s", "grace_s")
  current = stage(
    workdir,
    "experts/finetune",
    {
      "seed": config.seed,
      "backbone": config.backbone,
      "finetune": {k: v for k, v in tune.items() if k not in free},
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
  tx = tuning.make_optimizer(tune)

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
  start = tuning.make_start(trainable, tx, mesh, num_steps=tune.num_steps)

  # --- 5 Step -----------------------------------------------------------------
  step_wave = tuning.make_step(teacher, apply, backbone, tx, mesh, tune)

  folder = current.folder
  by_name = {wave.name: wave for wave in waves}
  claims = Claims(folder / "claims", lease_s=tune.lease_s)
  compiled = False
  with (
    preemption.deferred(grace_s=tune.grace_s, at_last=claims.give_back) as stop,
    progress(len(waves) * tune.num_steps, "finetune") as bar,
    claims,
  ):
    bar.skip(len(finished_waves(folder)) * tune.num_steps)

    def tell(note: str) -> None:
      """Counts what other workers have done as well."""
      done = len(finished_waves(folder)) * tune.num_steps
      bar.update(done - bar.count, note=note)

    for claim in claims.each(
      tuple(by_name),
      finished=lambda: finished_waves(folder),
      stop=stop,
      tell=tell,
    ):
      # --- 6 Start or resume --------------------------------------------------
      wave = by_name[claim.name]
      tell(wave.name)
      found = find_clusters(clusters, wave.keys)
      data = wave_data(
        [found[key] for key in wave.keys],
        backbone,
        num_pictures=max(config.mine.max_images, _PICTURES),
        seed=config.seed,
      )
      data = jax.device_put(data, each)
      with WaveCheckpoints(
        folder / "checkpoints", wave, worker=claims.worker
      ) as checkpoints:
        state = checkpoints.restore(start(len(wave.keys)))
        first = int(state["step"])
        bar.skip(first)

        # --- 7 Loop -----------------------------------------------------------
        seconds = []  # of each step that did not compile, an expert
        # Save, then step: a checkpoint of step n holds the losses before n.
        for step in range(first, tune.num_steps):
          due = step > first and step % tune.checkpoint_every == 0
          if due or stop.is_set():
            checkpoints.save(step, state)
          if claim.lost or stop.is_set():
            break
          began = time.monotonic()
          state = step_wave(state, frozen, data)
          loss = float(state["loss_ET"][:, step].mean())
          if compiled:
            seconds.append((time.monotonic() - began) / len(wave.real_keys))
          compiled = True
          bar.update(note=f"{wave.name} loss {loss:.4f}")

        # --- 8 Finish ---------------------------------------------------------
        if int(state["step"]) == tune.num_steps and claims.still_mine(claim):
          write_times(folder, wave.name, seconds)
          write_wave(folder, wave, state, teacher=tune.teacher)
          checkpoints.remove()

  summary = summarise(folder, waves)
  if (each_s := median_time(folder)) is not None:
    summary["seconds_per_expert"] = each_s * tune.num_steps
  summary = current.finish(summary)
  claims.clear()
  shutil.rmtree(folder / "checkpoints", ignore_errors=True)
  return summary


if __name__ == "__main__":
  main("experts.finetune", run, how="each")
