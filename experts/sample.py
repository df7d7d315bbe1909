# SPDX-License-Identifier: Apache-2.0
"""Stage 3: samples candidates from the experts, for their unseen prompts.

SuTI (arXiv 2304.00186), algorithm 1, line 10: each expert samples its cluster's
unseen prompt, DDPM with guidance 30, one image each. Here the experts of a wave
sample together (`experts.farm.sampling`), mapped as in `experts.finetune` if
memory allows.

Waves that `experts.finetune` sampled after tuning are skipped. With
`config.finetune.keep="nothing"` a wave's weights are deleted once its
candidates are on disk: the paper writes samples alone to files, and does not
say what becomes of the weights. An expert with an image that is not finite is
quarantined, and none of its images are kept. Nothing else is filtered here. As
in `experts.finetune`, many processes may share a workdir.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experts.farm import capacity
from experts.farm.expert_model import ExpertModel, open_expert_model
from experts.farm.sampling import make_sample_wave
from experts.farm.untuned import is_untuned, no_groups
from experts.farm.wave_files import (
  in_groups,
  load_wave,
  median_time,
  read_experts,
)
from experts.farm.waves import count_slots
from experts.farm.work_queue import finished, work
from experts.teacher import asks_labels, find
from suti.io.files import read_json
from suti.io.records import read_records
from suti.parallel.mesh import batch_sharding
from suti.runtime.stage import Stage, main, stage
from suti.schema import Candidate


def open_candidates(workdir: Path) -> list[Sequence[Candidate]]:
  """Opens the candidates: a lazily read file for each wave, in order.

  Raises:
    ValueError: one of them is gone, or cannot be read.
  """
  folder = workdir / "experts/sample"
  num = read_json(folder / "done.json")["summary"]["waves"]
  files = [folder / f"wave-{i:05d}.array_record" for i in range(num)]
  for file in files:
    if not file.is_file():
      raise ValueError(
        f"{file} is gone, and with it the candidates of a wave: put it back, or"
        f" delete {file.stem}.json and done.json in {folder} and run"
        " experts.sample again."
      )
  return [read_records(file, Candidate) for file in files]


def open_stage(config, workdir: Path, *, during: str | None = None) -> Stage:
  """Opens the folder of this stage.

  Args:
    config: the whole config.
    workdir: the workdir.
    during: "experts/finetune", if that stage is running.

  Raises:
    ValueError: see `suti.runtime.stage.stage`.
  """
  asks = asks_labels(find(config.finetune.teacher), config)
  labels = ["experts/label"] if asks else []
  return stage(
    workdir,
    "experts/sample",
    {"seed": config.seed, "sample": config.sample},
    reads=["experts/prompts", "experts/finetune", *labels],
    during=during,
  )


def while_tuning(
  model: ExpertModel, config, workdir: Path, *, inner: str, stage: str
) -> Callable[..., None]:
  """What samples a wave as soon as it is tuned; see `make_sample_wave`.

  Raises:
    ValueError: see `open_stage`.
  """
  folder = open_stage(config, workdir, during=stage).folder
  return functools.partial(
    make_sample_wave(model, config, inner=inner, workdir=workdir),
    folder=folder,
  )


def run(config, workdir: Path) -> dict:
  """Writes experts/sample/wave-*.array_record and wave-*.json."""
  current = open_stage(config, workdir)
  weights = workdir / "experts/finetune"
  names = sorted(finished(weights))
  left = set(names) - finished(current.folder)
  if config.finetune.keep == "nothing":
    for name in set(names) - left:
      (weights / f"{name}.safetensors").unlink(missing_ok=True)
  if current.done is not None:
    return current.done
  if left:
    sample_waves(config, workdir, names, folder=current.folder)

  records = [read_json(current.folder / f"{name}.json") for name in names]
  lost = [
    f"{row['cluster']} ({row['cause']})"
    for record in records
    for row in record["quarantined"]
  ]
  summary: dict[str, Any] = {
    "candidates": sum(record["candidates"] for record in records),
    "quarantined": ", ".join(lost) or 0,
    "waves": len(names),
  }
  if (each_s := median_time(current.folder)) is not None:
    summary["seconds_per_image"] = each_s
  return current.finish(summary)


def sample_waves(
  config, workdir: Path, names: Sequence[str], *, folder: Path
) -> None:
  """Samples the candidates that are missing, with weights from the disk.

  Args:
    config: the whole config.
    workdir: the workdir.
    names: of all waves that were tuned.
    folder: of this stage.
  """
  # ---------------------------------------- 2 Backbone and teacher (declared)
  model = open_expert_model(config)

  # ------------------------------------------------------------- 3 Data
  tune, weights = config.finetune, workdir / "experts/finetune"
  experts = {
    name: [dataclasses.asdict(x) for x in read_experts(weights, name)]
    for name in names
  }

  # ------------------------------------------------ 4 Waves and their slots
  # As many together as were tuned together; every wave is padded, so that one
  # program samples them all.
  _, num_slots = count_slots(
    max(map(len, experts.values())),
    experts_per_wave=capacity.wave_size(tune, weights),
    num_devices=model.mesh.size,
    experts_per_slot=tune.experts_per_slot,
  )
  inner = capacity.settle_sampling(
    tune,
    model.mesh,
    bytes_at=capacity.make_bytes_at(
      config, model.shapes, model.mesh, tuned=True
    ),
    shared=model.shared,
    num=num_slots // model.mesh.size,
    folder=weights,
  )

  # --------------------------------------------------------------- 5 Step
  sample_wave = make_sample_wave(model, config, inner=inner, workdir=workdir)

  # ----------------------------------------------- 6, 7 Loop: of each wave
  sharding = batch_sharding(model.mesh)
  with work(
    folder,
    {name: len(experts[name]) for name in names},
    label="sample",
    lease_s=tune.lease_s,
    grace_s=tune.grace_s,
  ) as queue:
    for lease in queue:
      name = lease.name
      file = weights / f"{name}.safetensors"
      if is_untuned(model):
        sample_wave(no_groups(), name, experts[name], folder)
        continue
      try:
        params = load_wave(file, model.trainable)
      except ValueError:
        # The worker that lost the lease has sampled it after all, and then
        # deleted the weights.
        if name in finished(folder):
          continue
        raise
      groups = in_groups(params, size=num_slots, sharding=sharding)
      sample_wave(groups, name, experts[name], folder)
      if tune.keep == "nothing":
        file.unlink(missing_ok=True)


if __name__ == "__main__":
  main("experts.sample", run, how="each")
