# SPDX-License-Identifier: Apache-2.0
"""Clusters -> experts: waves of E experts, each tuned on one subject (loop A).

SuTI (arXiv 2304.00186), algorithm 1: one expert on a core, 400 at a time. How
an expert is tuned is `experts.farm.train_step`'s business, who follows whom in
a place on the devices that of `experts.farm.slots`.

Any number of processes may run this stage in one workdir at once, each with
devices of its own. They share nothing but files: a wave is claimed by one of
them (`experts.farm.work_queue`), leaves its weights and a record of its experts
(`experts.farm.wave_files`), and goes on from its last checkpoint if its worker
dies.

With `config.finetune.sample_after_tuning` a wave's candidates are drawn here as
well,
while its weights are on the devices: the files of `experts.sample`, byte for
byte. What is drawn with is what `config.finetune.keep` would keep.
"""

import dataclasses
import functools
import itertools
import time
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError

from experts import sample
from experts.clusters import read_clusters, readable
from experts.farm import capacity, sampling, train_step
from experts.farm.monitor import Monitor
from experts.farm.slots import Slots
from experts.farm.wave_checkpoints import WaveCheckpoints
from experts.farm.wave_files import (
  as_kept,
  describe,
  median_time,
  summarise,
  write_times,
  write_wave,
)
from experts.farm.waves import PICTURES, make_waves, wave_data
from experts.farm.work_queue import Lease, Work, work
from experts.prompts import read_prompts
from experts.teacher import declare, find, open_backbone
from suti.hf.find import find_model
from suti.io.files import remove_folder
from suti.parallel.mesh import batch_sharding, described, flat_mesh, replicated
from suti.runtime.stage import main, stage

# E experts of a wave, P places on the devices.


def run(config, workdir: Path) -> dict:
  """Writes experts/finetune/wave-*.safetensors and wave-*.json."""
  # --- 1 Config and mesh ------------------------------------------------------
  tune = config.finetune
  # These change nothing of what is written, but for when, and what stays.
  free = (
    "checkpoint_every",
    "sample_after_tuning",
    "grace_s",
    "keep",
    "lease_s",
    "log_every",
    "profile_steps",
  )
  is_difference = tune.keep == "difference"
  current = stage(
    workdir,
    "experts/finetune",
    {
      "seed": config.seed,
      "backbone": config.backbone,
      "finetune": {k: v for k, v in tune.items() if k not in free}
      | {"keep": "difference" if is_difference else "trainable or nothing"},
    },
    reads=["experts/mine", "experts/prompts"],
    folders={"config.backbone": find_model(config.backbone)},
  )
  if current.done is not None:
    return current.done
  mesh = flat_mesh()

  # --- 2 Backbone and teacher -------------------------------------------------
  teacher = find(tune.teacher)
  backbone = open_backbone(config)
  apply, trainable, frozen = declare(teacher, backbone, config)
  tx = train_step.make_optimizer(tune)

  # --- 3 Data -----------------------------------------------------------------
  clusters = read_clusters(workdir)
  keys = {prompt.cluster for prompt in read_prompts(workdir)}
  num_pictures = max(config.mine.max_images, PICTURES)

  # --- 4 Shardings and arrays -------------------------------------------------
  each = batch_sharding(mesh)
  frozen = jax.device_put(frozen, replicated(mesh))
  # On the host: experts are copies of it, made once a wave.
  trainable = jax.device_get(trainable)
  shapes = dataclasses.replace(backbone, params=described(backbone.params))
  backbone = dataclasses.replace(backbone, params={})
  kind = {"num_steps": tune.num_steps, "dtype": tune.master_dtype}
  start = train_step.make_start(trainable, tx, mesh, **kind)
  restart = train_step.make_restart(trainable, tx, mesh, **kind)
  describe_start = functools.partial(
    train_step.describe_start, trainable, tx, mesh, **kind
  )

  # --- 5 Step -----------------------------------------------------------------
  tune = capacity.settle(
    tune,
    mesh,
    bytes_at=capacity.make_bytes_at(config, shapes, mesh),
    shared=(frozen, backbone.codec.params),
    num_clusters=min(len(keys), tune.get("num_clusters") or len(keys)),
    folder=current.folder,
  )
  step_wave = train_step.make_step(teacher, apply, backbone, tx, mesh, tune)
  waves = make_waves(
    keys,
    experts_per_wave=tune.experts_per_wave,
    num_devices=mesh.size,
    experts_per_slot=tune.experts_per_slot,
    limit=tune.get("num_clusters"),
  )
  most_steps = (
    tune.num_steps * tune.experts_per_slot
  )  # of a wave, if none stops early

  draw = None
  if tune.sample_after_tuning:
    drawn = sample.open_stage(config, workdir, during="experts/finetune")
    draw = sampling.make_sample_wave(
      teacher,
      apply,
      backbone,
      frozen,
      config,
      inner=tune.inner,
      mesh=mesh,
      workdir=workdir,
    )

  folder = current.folder
  by_name = {wave.name: wave for wave in waves}
  compiled = False

  # A function, so that what a wave had on the devices goes with it.
  def work_on(lease: Lease, farm: Work, monitor: Monitor) -> None:
    nonlocal compiled
    # --- 6 Start or resume ----------------------------------------------------
    wave = by_name[lease.name]
    found, damaged = readable(clusters, wave.keys)
    # The rows of those that cannot be read are filled with a neighbour's.
    data_E = found and wave_data(
      [found.get(key, *list(found.values())[:1]) for key in wave.keys],
      backbone,
      num_pictures=num_pictures,
      seed=config.seed,
    )

    def data_of(state):
      """What the experts in all places learn from, on the devices."""
      rows_P = np.minimum(state["number_E"], len(wave.keys) - 1)
      return jax.device_put(jax.tree.map(lambda x: x[rows_P], data_E), each)

    with WaveCheckpoints(
      folder / "checkpoints", wave, worker=farm.worker
    ) as checkpoints:
      state = checkpoints.restore(describe_start(num_experts=wave.num_slots))
      if state is None:
        state = start(wave.num_slots)
      lost = [n for n, key in enumerate(wave.keys) if key in damaged]
      if lost:
        state = train_step.fail(state, np.isin(state["number_E"], lost))
      slots = Slots(
        wave, checkpoints.folder, restart=restart, base=trainable, absent=lost
      )
      first = int(state["step"])
      monitor.begin(wave, first)

      # --- 7 Loop -------------------------------------------------------------
      seconds = []  # of a step of an expert, once the program is compiled
      looked, began = first, time.monotonic()
      given_up = False
      data = found and data_of(state)
      _, done_P = train_step.sync_metrics(state, num=wave.num_active)
      over = not found or slots.are_over(state, done_P)
      # Save, then step: a checkpoint of step n holds the losses before n.
      for step in itertools.count(first):
        if over or (given_up := lease.lost):
          break
        stop = farm.stop.is_set()
        if step > first and (stop or step % tune.checkpoint_every == 0):
          checkpoints.save(step, state)
        if given_up := stop:
          break
        state = step_wave(state, frozen, data)
        done = step + 1
        # The devices are waited for now and then, not at every step.
        is_due = done % tune.log_every == 0 or done == tune.num_steps
        if compiled and not is_due:
          continue
        loss, done_P = train_step.sync_metrics(state, num=wave.num_active)
        now = time.monotonic()
        if compiled:
          num = (done - looked) * len(wave.keys)
          seconds.append((now - began) / num)
        monitor.record(
          done, loss=loss, seconds=seconds[-1] if compiled else None
        )
        looked, began, compiled = done, now, True
        # At due steps alone: a worker that goes on does as one that went on.
        refilled = slots.refill(state, done_P) if is_due else None
        if refilled is not None:
          state, data = refilled, data_of(refilled)
        else:
          over = slots.are_over(state, done_P)

      # --- 8 Finish -----------------------------------------------------------
      if found and not given_up and (given_up := farm.stop.is_set()):
        checkpoints.save(int(state["step"]), state)
      if given_up or not farm.may_write(lease):
        return
      results = slots.results(state)
      record = describe(wave, results, teacher=tune.teacher, damaged=damaged)
      del data  # Its room, and most of the state's, is needed to draw.
      kept: list[dict[str, np.ndarray]] = []
      groups = as_kept(
        slots.groups(state, each),
        trainable,
        is_difference=is_difference,
        kept=None if tune.keep == "nothing" and draw is not None else kept,
      )
      if draw is not None:
        draw(groups, wave.name, record["experts"], drawn.folder)
      for _ in groups:  # those that nobody has drawn with
        pass
      if farm.may_write(lease):
        write_times(folder, wave.name, seconds)
        write_wave(
          folder, wave, record, params=kept, is_difference=is_difference
        )
        checkpoints.remove()
        monitor.end()

  with (
    work(
      folder,
      {name: most_steps for name in by_name},
      label="finetune",
      lease_s=tune.lease_s,
      grace_s=tune.grace_s,
    ) as farm,
    Monitor(
      folder,
      farm,
      waves=waves,
      config=capacity.with_fields(tune, num_steps=most_steps),
    ) as monitor,
  ):
    for lease in farm:
      try:
        work_on(lease, farm, monitor)
      except (FileNotFoundError, SafetensorError):
        # Who took a wave over removes its checkpoints when it is done.
        if farm.may_write(lease):
          raise

  summary = summarise(folder, waves)
  if (each_s := median_time(folder)) is not None:
    summary["seconds_per_expert"] = each_s * most_steps
  summary = current.finish(summary)
  remove_folder(folder / "checkpoints")
  return summary


if __name__ == "__main__":
  main("experts.finetune", run, how="each")
