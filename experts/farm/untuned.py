# SPDX-License-Identifier: Apache-2.0
"""Waves of a teacher without a loss: nothing is tuned, images are sampled.

Such a teacher (SynCD's, arXiv 2502.01720, is one) samples from the base itself.
Its waves are those of the prompts' clusters, leased and sampled as waves of
experts are; there is no optimizer, no checkpoint and no file of weights.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.farm.wave_files import describe, write_wave
from experts.farm.waves import Wave
from experts.farm.work_queue import work


def is_untuned(model: Any) -> bool:
  """Whether a model's teacher has nothing to tune."""
  return model.teacher.loss is None


def pass_waves(
  waves: Sequence[Wave],
  tune: Any,
  folder: Path,
  *,
  sample_wave: Callable[..., None] | None,
) -> dict[str, Any]:
  """Writes the records of all waves, and samples their candidates if asked.

  Args:
    waves: of the run.
    tune: `config.finetune`.
    folder: of the stage `experts.finetune`.
    sample_wave: as in `experts.farm.shared.Farm`; None where candidates are
      sampled later.

  Returns: the stage's summary.
  """
  by_name = {wave.name: wave for wave in waves}
  with work(
    folder,
    {wave.name: len(wave.keys) for wave in waves},
    label="finetune",
    lease_s=tune.lease_s,
    grace_s=tune.grace_s,
  ) as queue:
    for lease in queue:
      if queue.stop.is_set():
        break
      wave = by_name[lease.name]
      record = describe(wave, _nothing(wave), teacher=tune.teacher, damaged={})
      if sample_wave is not None:
        sample_wave(no_groups(), wave.name, record["experts"])
      if queue.may_write(lease):
        write_wave(folder, wave, record, params=[])
  return {"experts": 0, "quarantined": 0, "waves": len(waves)}


def no_groups() -> Any:
  """The parameters of a wave's experts: one group of none."""
  return iter([{}])


def _nothing(wave: Wave) -> Mapping[str, np.ndarray]:
  """The results of experts that have taken no step and have not failed."""
  num = len(wave.keys)
  return {
    "step_E": np.zeros(num, np.int32),
    "failed_E": np.full(num, -1, np.int32),
    "diverged_E": np.zeros(num, bool),
    "loss_ET": np.zeros((num, 0), np.float32),
  }
