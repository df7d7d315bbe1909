# SPDX-License-Identifier: Apache-2.0
"""Stage 2: waves of E experts, each tuned on one subject's cluster.

SuTI (arXiv 2304.00186), algorithm 1: one expert on a core, 400 at a time. An
expert is tuned by `experts.farm.train_step`; slots on the devices are refilled
by `experts.farm.slots`.

Any number of processes may run this stage in one workdir together, each with
devices of its own. They share only files: each leases a wave
(`experts.farm.work_queue`) and writes its weights and a record of its experts
(`experts.farm.wave_files`); if it dies, another resumes from its last
checkpoint.

With `config.finetune.sample_after_tuning` a wave's candidates are sampled here
as well, while its weights are on the devices: the files of `experts.sample`,
byte for byte. Sampling uses the weights as `config.finetune.keep` would store
them.

  reads   experts/mine, experts/prompts
  writes  experts/finetune/wave-*.safetensors, wave-*.json
  resumes at a wave's last checkpoint, in the state of an unbroken run

  python -m experts.finetune --config configs/quickstart.py --workdir runs/q
"""

import itertools
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from experts import sample
from experts.clusters import read_clusters
from experts.farm import capacity, train_step
from experts.farm.expert_model import open_expert_model
from experts.farm.monitor import Monitor
from experts.farm.shared import Farm, finish_wave, read_data, rows_of
from experts.farm.slots import Slots
from experts.farm.step_timer import StepTimer
from experts.farm.untuned import is_untuned, pass_waves
from experts.farm.wave_checkpoints import WaveCheckpoints
from experts.farm.wave_files import summarise
from experts.farm.waves import Wave, make_waves
from experts.farm.work_queue import Lease, Work, work
from experts.prompts import read_prompts
from experts.teacher import depth_net_folder
from suti.hf.find import find_model
from suti.io.files import remove_folder
from suti.runtime.stage import Stage, main, stage

# E experts of a wave, S slots on the devices.

# May change between runs of one workdir: timing and what is kept, no values.
_MAY_CHANGE = (
  "checkpoint_every",
  "grace_s",
  "keep",
  "lease_s",
  "log_every",
  "profile_steps",
  "sample_after_tuning",
)


def run(config, workdir: Path) -> dict:
  """Tunes all experts; returns the stage's summary, see `summarise`."""
  # ---------------------------------------------------- 1 Config and mesh
  current = open_stage(config, workdir)
  if current.done is not None:
    return current.done
  folder = current.folder

  # ---------------------------------------- 2 Backbone and teacher (declared)
  model = open_expert_model(config)

  # ------------------------------------------------------------- 3 Data
  keys = {prompt.cluster for prompt in read_prompts(workdir)}

  # ------------------------------------------------ 4 Waves and their slots
  tune = capacity.settle(
    config.finetune,
    model.mesh,
    bytes_at=capacity.make_bytes_at(config, model.shapes, model.mesh),
    shared=model.shared,
    num_clusters=min(len(keys), config.finetune.num_clusters or len(keys)),
    folder=folder,
  )
  waves = make_waves(
    keys,
    experts_per_wave=tune.experts_per_wave,
    num_devices=model.mesh.size,
    experts_per_slot=tune.experts_per_slot,
    limit=tune.num_clusters,
  )
  named = {wave.name: wave for wave in waves}
  most_steps = tune.num_steps * tune.experts_per_slot  # if none stops early

  # --------------------------------------------------------------- 5 Step
  sample_wave = None
  if tune.sample_after_tuning:
    sample_wave = sample.while_tuning(
      model, config, workdir, inner=tune.inner, stage="experts/finetune"
    )
  if is_untuned(model):
    summary = pass_waves(waves, tune, folder, sample_wave=sample_wave)
    return current.finish(summary)
  farm = Farm(
    config=capacity.with_finetune(config, tune),
    folder=folder,
    model=model,
    programs=train_step.make_programs(model, tune),
    clusters=read_clusters(workdir),
    sample_wave=sample_wave,
    timer=StepTimer(),
  )

  # ------------------------------------ 6, 7 Start or resume, loop: waves
  with (
    work(
      folder,
      {name: most_steps for name in named},
      label="finetune",
      lease_s=tune.lease_s,
      grace_s=tune.grace_s,
    ) as queue,
    Monitor(
      folder,
      queue,
      waves=waves,
      config=capacity.with_fields(tune, num_steps=most_steps),
    ) as monitor,
  ):
    for lease in queue:
      try:
        tune_wave(
          named[lease.name], lease, farm=farm, queue=queue, monitor=monitor
        )
      except (FileNotFoundError, SafetensorError):
        # If another worker took the wave over, it removes the checkpoints.
        if queue.may_write(lease):
          raise

  # ------------------------------------------------------------- 8 Finish
  summary = current.finish(summarise(folder, waves))
  remove_folder(folder / "checkpoints")
  return summary


def tune_wave(
  wave: Wave, lease: Lease, *, farm: Farm, queue: Work, monitor: Monitor
) -> None:
  """Tunes the experts of a wave and writes them, or gives the wave up.

  Args:
    wave: of the queue.
    lease: on it; nothing is written once it is lost.
    farm: shared by all waves.
    queue: its `stop` ends this process; the wave's state is saved first.
    monitor: logs the losses.
  """
  tune, model, programs = farm.config.finetune, farm.model, farm.programs
  with WaveCheckpoints(
    farm.folder / "checkpoints", wave, worker=queue.worker
  ) as checkpoints:
    # --------------------------------------------- 6 Start or resume a wave
    data_E, damaged = read_data(wave, farm)
    state = checkpoints.restore(programs.describe_start(wave.num_slots))
    if state is None:
      state = programs.start(wave.num_slots)
    absent = [n for n, key in enumerate(wave.keys) if key in damaged]
    if absent:
      state = train_step.fail(state, np.isin(state["number_E"], absent))
    slots = Slots(
      wave,
      checkpoints.folder,
      restart=programs.restart,
      base=model.trainable,
      absent=absent,
    )
    data = rows_of(data_E, state, wave, farm)
    first = int(state["step"])
    monitor.begin(wave, first)
    farm.timer.start(first)

    # ------------------------------------------------------- 7 Loop: steps
    # Checkpoint n is saved before step n runs: it holds the losses before n.
    _, done_S = train_step.sync_metrics(state, num=wave.num_active)
    is_over = not data_E or slots.are_over(state, done_S)
    given_up = False
    for step in itertools.count(first):
      if is_over or (given_up := lease.lost):
        break
      stop = queue.stop.is_set()
      if step > first and (stop or step % tune.checkpoint_every == 0):
        checkpoints.save(step, state)
      if given_up := stop:
        break
      state = programs.step(state, model.frozen, data)
      done = step + 1
      # Synced with the devices at some steps only.
      is_due = done % tune.log_every == 0 or done == tune.num_steps
      if farm.timer.compiled and not is_due:
        continue
      loss, done_S = train_step.sync_metrics(state, num=wave.num_active)
      seconds = farm.timer.lap(done, num=len(wave.keys))
      monitor.record(done, loss=loss, seconds=seconds)
      # Refilled at fixed steps only, so that a resumed wave is the same.
      refilled = slots.refill(state, done_S) if is_due else None
      if refilled is None:
        is_over = slots.are_over(state, done_S)
      else:
        state, data = refilled, rows_of(data_E, refilled, wave, farm)

    # ------------------------------------------------------ Finish the wave
    if data_E and not given_up and (given_up := queue.stop.is_set()):
      checkpoints.save(int(state["step"]), state)
    if given_up or not queue.may_write(lease):
      return
    del data  # Sampling needs its memory, and most of the state's.
    finish_wave(
      wave, state, slots, damaged, farm=farm, lease=lease, queue=queue
    )
    if queue.may_write(lease):
      checkpoints.remove()
      monitor.end()


def open_stage(config, workdir: Path) -> Stage:
  """Opens the folder of this stage.

  Raises:
    ValueError: see `suti.runtime.stage.stage`.
  """
  tune = config.finetune
  depths = depth_net_folder(tune)
  kept = "difference" if tune.keep == "difference" else "trainable or nothing"
  return stage(
    workdir,
    "experts/finetune",
    {
      "seed": config.seed,
      "backbone": config.backbone,
      "finetune": {k: v for k, v in tune.items() if k not in _MAY_CHANGE}
      | {"keep": kept},
    },
    reads=["experts/mine", "experts/prompts"],
    folders={"config.backbone": find_model(config.backbone)}
    | ({"config.finetune.depth_net": depths.parent} if depths else {}),
  )


if __name__ == "__main__":
  main("experts.finetune", run, how="each")
