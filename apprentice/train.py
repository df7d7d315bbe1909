# SPDX-License-Identifier: Apache-2.0
"""Stage 6: trains the apprentice on the experts' images.

SuTI (arXiv 2304.00186), eq. 6 and section 4: Adafactor, lr 1e-4, 150K steps on
128 TPU v4, 3 demonstrations. Its body gives no batch size, warm-up, EMA,
clipping or dropout rate, and we have not seen its appendix: they are config
fields, and our choices. So are a frozen text encoder, which is Imagen's way,
and a random number of demonstrations below K, which the paper does not mention.

  reads   experts/pack, and the folders in config.train.examples
  writes  apprentice/train/{checkpoints/, log.jsonl, parameters.txt, model/}
  resumes at the last checkpoint: a killed run and an unbroken run log equal
          losses; SIGTERM makes one, if it is a single process

  python -m apprentice.train --config configs/quickstart.py --workdir runs/q

No method is named here, and nothing is sampled.
"""

import contextlib
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from apprentice.data import batches, open_folder
from apprentice.encoders import check_alone, open_encoders
from apprentice.latents import (
  caches_latents,
  describe_absent,
  encode_examples,
)
from apprentice.model import check_copied, declare
from apprentice.optimizer import learning_rate, optimizer
from apprentice.selection import hold_out, select
from apprentice.start import start_params, take_init, write_model
from apprentice.train_step import make_step, start_state
from apprentice.validation import BLIND_LOSS, GAIN, LOSS, make_validation
from suti.hf.find import find_model
from suti.io.checkpoint import Checkpoints
from suti.io.files import remove_folder
from suti.nn.param import split
from suti.parallel.mesh import (
  check_batch,
  make_mesh,
  put_batch,
  replicated,
)
from suti.parallel.rules import param_shardings, state_shardings
from suti.pipeline.backbone import load_backbone
from suti.runtime.hosts import gather
from suti.runtime.log import Log, read_log, write_overview
from suti.runtime.preemption import between_steps
from suti.runtime.progress import say
from suti.runtime.stage import main, progress, stage

# B batch, K demonstrations, H W C latent.


def run(config: Any, workdir: Path) -> dict:
  """Trains until `config.train.num_steps` and writes the apprentice's folder.

  Args:
    config: train, method, backbone, mesh, seed; apprentice_sample is written
      into the folder as its sampling defaults. With num_steps=0 `train.init` is
      written as it is, and no examples are needed.
    workdir: with the stages that this one reads.

  Returns: steps, last loss, the last ones on held-out clusters, steps a second.
    Only process 0 returns them; the others return {}.

  Raises:
    ValueError: no examples, a batch that the mesh does not divide, a checkpoint
      of another model, or a loss that is not finite.
  """
  # ---------------------------------------------------- 1 Config and mesh
  train = config.train
  packed = (workdir / "experts" / "pack").exists() or not train.examples
  # Opened first: a bad folder fails before the stage's own is written. Where
  # nothing is trained, none is asked for.
  folders = train.examples if train.num_steps else ()
  sources = [open_folder(folder) for folder in folders]
  current = stage(
    workdir,
    "apprentice/train",
    {
      name: config[name]
      for name in ("train", "method", "backbone", "mesh", "seed")
    },
    reads=("experts/pack",) if packed and train.num_steps else (),
    folders={
      "config.backbone": find_model(config.backbone),
      "config.train.init": find_model(train.init),
    }
    | (
      {"config.train.init_base": find_model(train.init_base)}
      if train.init_base
      else {}
    )
    | {
      f"config.train.examples[{number}]": folder
      for number, folder in enumerate(folders)
    },
  )
  if current.done is not None:
    return current.done
  if train.num_steps == 0:
    if jax.process_index():
      return {}  # The first process writes.
    return current.finish(take_init(config, current.folder))
  mesh = make_mesh(config.mesh, devices=jax.devices())
  check_batch("config.train.batch_size", train.batch_size, mesh)

  # ---------------------------------------- 2 Backbone and method (declared)
  backbone = load_backbone(config.backbone, weights=False)
  check_copied(backbone.folder)  # Checked now, not after the training.
  apprentice = declare(backbone, name=train.method, config=config.method)

  # ------------------------------------------------------------- 3 Data
  if packed:
    sources.insert(0, open_folder(workdir / "experts" / "pack"))
  sources = select(
    sources,
    rule=train.rule,
    num_clusters=train.num_clusters,
    without_nouns=train.without_nouns,
  )
  sources, held_out = hold_out(sources, num_clusters=train.validation_clusters)
  num_sources = len(sources)
  sources += held_out
  latents = current.folder / "latents"
  encoders = open_encoders(apprentice.method, config.method)
  check_alone(encoders, num_processes=jax.process_count())
  if encoders or caches_latents(
    train, backbone, num_processes=jax.process_count()
  ):
    sources = [
      encode_examples(
        source,
        backbone,
        latents / str(number),
        encoders=encoders,
        mirror_below=train.num_demonstrations if train.mirror != "none" else 0,
      )
      for number, source in enumerate(sources)
    ]
  for line in describe_absent(sources, apprentice.method.fields(config.method)):
    say(line)
  batch_args = {
    "fields": apprentice.method.fields(config.method),
    "encode_text": backbone.encode_text,
    "size_px": backbone.size_px,
    "batch_size": train.batch_size,
    "num_demonstrations": train.num_demonstrations,
    "encoders": encoders,
    "mirror": train.mirror,
  }
  data = batches(
    sources[:num_sources],
    demonstration_targets=train.demonstration_targets,
    seed=config.seed,
    **batch_args,
  )
  null_text = backbone.null_text()

  # ------------------------------------------------ 4 Shardings and arrays
  shardings = param_shardings(apprentice.spec, mesh)
  params = start_params(
    apprentice, train, base=config.backbone, seed=config.seed
  )
  params = {n: jax.device_put(params[n], shardings[n]) for n in params}
  # Frozen parameters are passed beside the state: neither donated nor saved in
  # checkpoints.
  params, frozen = split(params, apprentice.trainable)
  write_overview(current.folder, params)
  rate = learning_rate(train)
  tx = optimizer(train, rate)
  state = start_state(params, tx, seed=config.seed)
  vae_params = jax.device_put(backbone.codec.params, replicated(mesh))
  placed = state_shardings(jax.eval_shape(lambda: state), shardings, mesh)
  state = jax.device_put(state, placed)

  # -------------------------------------------------- 5 Step and validation
  step = make_step(
    apprentice, tx, train, null_text=null_text, placed=placed, mesh=mesh
  )
  losses = make_validation(
    apprentice,
    train,
    sources[num_sources:],
    batch_args=batch_args,
    placed=placed["ema"],
    mesh=mesh,
    seed=config.seed,
  )

  # ---------------------------------------------------- 6 Start or resume
  checkpoints = Checkpoints(
    current.folder / "checkpoints",
    model={"backbone": config.backbone, "train": {"method": train.method}},
  )
  state = checkpoints.restore(state)
  started, window = time.monotonic(), []
  if checkpoints.data is not None:
    data.set_state(checkpoints.data["examples"])
    started -= checkpoints.data["seconds"]
    window = checkpoints.data.get("not_logged", [])
  first = int(state["step"])

  def save(number):
    log.sync()  # what a checkpoint holds has been logged
    about = {
      "examples": data.get_state(),
      "seconds": time.monotonic() - started,
      # Of a run that SIGTERM ended between two lines of its log.
      "not_logged": [log.check(number, row) for row in jax.device_get(window)],
    }
    checkpoints.save(number, state, data=about)

  def validate(number):
    found = losses(state["ema"], frozen, vae_params)
    if not found:
      return []
    log.write(number, found, timed=False)
    gain = f", {found[GAIN]:.1%} by demonstrations" if GAIN in found else ""
    return [f"held out {found[LOSS]:.4f}{gain}"]

  # --------------------------------------------------------------- 7 Loop
  # A batch, a step, its log, its checkpoint, in this order: what a checkpoint
  # holds has been logged, and the iterator's state is that after its batch.
  number, new_log = first, Log(current.folder, batch_size=train.batch_size)
  with (
    contextlib.closing(new_log) as log,
    progress(train.num_steps, "train", done=first) as bar,
    between_steps(alone=jax.process_count() == 1) as stop,
  ):
    # Of a run that resumes it stands in the log; what is compiled here is not
    # compiled in the seconds that SIGTERM leaves.
    if number == 0:
      validate(0)
    else:
      losses(state["ema"], frozen, vae_params)
    while number < train.num_steps and not stop.is_set():
      number += 1
      batch = put_batch(next(data), mesh)
      state, scalars = step(state, frozen, vae_params, batch)
      window.append(scalars)
      # One step ahead of the device, and no more: SIGTERM gives seconds.
      jax.block_until_ready(window[-2:-1])
      notes = []
      if number % train.log_every == 0 or number == train.num_steps:
        rows = jax.device_get(window)
        means = {n: statistics.fmean(r[n] for r in rows) for n in rows[0]}
        log.write(number, means | {"learning_rate": rate(number - 1)})
        window, notes = [], [f"loss {means['loss']:.4f}"]
      is_last = number == train.num_steps
      if number % train.checkpoint_every == 0 or is_last:
        notes += validate(number)
      if number % train.checkpoint_every == 0:
        save(number)
      bar.update(1, note=", ".join(notes))
    save(number)
    checkpoints.wait()  # SIGTERM ends the process here, and its writing

  # ------------------------------------------------------------- 8 Finish
  seconds = round(time.monotonic() - started)  # of all processes together
  checkpoints.close()
  params = gather(state["ema"] | frozen)
  if jax.process_index():
    return {}  # The first process writes.
  write_model(apprentice, params, config, current.folder)
  lines = read_log(current.folder)
  rates = [r for line in lines if (r := line.get("steps_per_second"))]
  last = {name: value for line in lines for name, value in line.items()}
  summary = {"steps": train.num_steps, "loss": last["loss"]}
  summary |= {n: last[n] for n in (LOSS, BLIND_LOSS, GAIN) if n in last}
  summary["seconds"] = seconds
  # The median is not affected by compilation and checkpoints.
  speed = {"steps_per_second": float(np.median(rates))} if rates else {}
  summary = current.finish(summary | speed)
  remove_folder(latents)
  return summary


if __name__ == "__main__":
  main("apprentice.train", run, how="all")
