# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a wave that passes from worker to worker.

  checkpoints/wave-00007/WORKER/40/   the state after 40 steps

Each worker writes into a folder of its own, so that one that was thought dead
and is not cannot spoil what its successor goes on from. All of them compute the
same, so whoever takes a wave over goes on from the newest state of anybody, on
as many devices as it has. When the wave is done its checkpoints go.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from experts.waves import Wave
from suti.io.checkpoint import Checkpoints


class WaveCheckpoints:
  """The checkpoints of one wave, as one worker sees them; a context manager."""

  def __init__(self, folder: Path, wave: Wave, *, worker: str) -> None:
    """Opens a wave's folder.

    Args:
      folder: of all waves' checkpoints.
      wave: the wave.
      worker: names this worker's part.
    """
    self.folder, self._worker = folder / wave.name, worker
    # Padding differs with the number of devices, the clusters do not.
    self._model = {"clusters": wave.real_keys}
    self._own = Checkpoints(self.folder / worker, model=self._model)

  def restore(self, state: Any) -> Any:
    """The newest state that anybody saved, or the given one if nobody did.

    Args:
      state: as the wave would start; may be padded to another number of
        experts than the one that was saved. Rows of padding may be anything.
    """
    for step, worker in self._saved():
      saved = Checkpoints(
        self.folder / worker, model=self._model, read_only=True
      )
      try:
        return saved.restore(state, step=step, any_length=True)
      except ValueError as error:
        # Its owner may live and tidy up; or it is damaged. Older ones will do.
        print(f"Step {step} is lost: {error}", file=sys.stderr, flush=True)
      finally:
        saved.close()
    return state

  def save(self, step: int, state: Any) -> None:
    """Saves a state, and lets those of earlier workers go.

    Raises:
      ValueError: the disk is full.
    """
    self._own.save(step, state)
    for _, worker in self._saved():
      if worker != self._worker:
        self._own.wait()  # until what replaces them is on the disk
        shutil.rmtree(self.folder / worker, ignore_errors=True)

  def __enter__(self) -> "WaveCheckpoints":
    return self

  def __exit__(self, *_: object) -> None:
    self._own.close()

  def remove(self) -> None:
    """Removes all checkpoints of the wave, of whomever."""
    self._own.wait()
    shutil.rmtree(self.folder, ignore_errors=True)

  def _saved(self) -> list[tuple[int, str]]:
    """(step, worker) of every whole checkpoint, the newest first."""
    steps = (path for path in self.folder.glob("*/*") if path.name.isdigit())
    return sorted(
      ((int(path.name), path.parent.name) for path in steps), reverse=True
    )
