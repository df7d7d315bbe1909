# SPDX-License-Identifier: Apache-2.0
"""`Farm`: the shared state of a run, the data of its waves, their output."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experts.clusters import Clusters, readable
from experts.farm import train_step
from experts.farm.expert_model import ExpertModel
from experts.farm.slots import Slots
from experts.farm.step_timer import StepTimer
from experts.farm.wave_files import as_kept, describe, write_times, write_wave
from experts.farm.waves import Wave, padded_pictures, wave_data
from experts.farm.work_queue import Lease, Work
from suti.parallel.mesh import batch_sharding

# E experts of a wave, S slots on the devices.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Farm:
  """The state that all waves of a run share.

  Attributes:
    config: the whole config, with nothing in `config.finetune` left "auto".
    folder: of the stage.
    model: opened.
    programs: compiled at their first call.
    clusters: of all waves, read when they are needed.
    sample_wave: of `experts.farm.sampling.make_sample_wave`, given the folder
      of `experts.sample`; None where candidates are sampled later.
    timer: of the steps of this process.
  """

  config: Any
  folder: Path
  model: ExpertModel
  programs: train_step.Programs
  clusters: Clusters
  sample_wave: Callable[..., None] | None
  timer: StepTimer


def read_data(
  wave: Wave, farm: Farm
) -> tuple[dict[str, Any] | None, dict[str, str]]:
  """The training data of a wave, and {cluster: why it cannot be tuned on}.

  It cannot be read, or its captions do not have what the teacher asks for. The
  data, of `wave_data`, is None if no cluster can be read.
  """
  found, damaged = readable(farm.clusters, wave.keys)
  if not found:
    return None, damaged
  # Rows of unreadable clusters are filled with another cluster's.
  neighbour = next(iter(found.values()))
  data_E = wave_data(
    [found.get(key, neighbour) for key in wave.keys],
    farm.model.backbone,
    num_pictures=padded_pictures(farm.config),
    seed=farm.config.seed,
    most=farm.config.finetune.num_pictures,
    asks=farm.model.teacher.asked(farm.config),
    causes=damaged,
  )
  return data_E, damaged


def rows_of(
  data_E: Mapping[str, Any] | None,
  state: Mapping[str, Any],
  wave: Wave,
  farm: Farm,
) -> Any:
  """The data of the experts that are in the slots now, on the devices.

  Args:
    data_E: of `read_data`.
    state: its `number_E` is the expert in each slot; numbers past the last
      expert are padding.
    wave: of both.
    farm: with the devices.

  Returns: a tree with S in front; None if `data_E` is None.
  """
  if data_E is None:
    return None
  rows_S = np.minimum(state["number_E"], len(wave.keys) - 1)
  return jax.device_put(
    jax.tree.map(lambda x: x[rows_S], data_E), batch_sharding(farm.model.mesh)
  )


def finish_wave(
  wave: Wave,
  state: dict[str, Any],
  slots: Slots,
  damaged: Mapping[str, str],
  *,
  farm: Farm,
  lease: Lease,
  queue: Work,
) -> None:
  """Writes a tuned wave, with its candidates if they are sampled now.

  Args:
    wave: tuned.
    state: after its last step; its memory is released.
    slots: of the wave.
    damaged: {cluster: why it could not be tuned on}.
    farm: shared by all waves.
    lease: on the wave; nothing is written once it is lost.
    queue: of the lease.
  """
  tune = farm.config.finetune
  record = describe(
    wave, slots.results(state), teacher=tune.teacher, damaged=damaged
  )
  record["steps"] = int(state["step"])
  is_difference = tune.keep == "difference"
  is_kept = tune.keep != "nothing" or farm.sample_wave is None
  kept: list[dict[str, np.ndarray]] = []
  groups = as_kept(
    slots.groups(state, batch_sharding(farm.model.mesh)),
    farm.model.trainable,
    is_difference=is_difference,
    kept=kept if is_kept else None,
  )
  if farm.sample_wave is not None:
    farm.sample_wave(groups, wave.name, record["experts"])
  for _ in groups:  # groups that sampling did not consume
    pass
  if queue.may_write(lease):
    write_times(farm.folder, wave.name, farm.timer.seconds)
    write_wave(
      farm.folder, wave, record, params=kept, is_difference=is_difference
    )
