# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a wave, which another worker may resume.

  checkpoints/wave-00007/WORKER/40/   the state after 40 steps

Each worker writes into a folder of its own, so that a worker that lost its
lease but is still alive cannot damage its successor's checkpoints. All workers
compute the same, so the one that takes a wave over resumes from the newest
state of any worker, on as many devices as it has. When the wave is done, its
checkpoints are deleted.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experts.farm.waves import Wave
from suti.io.checkpoint import Checkpoints, saved_steps
from suti.io.files import is_disk_full, names_in, remove_folder


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
    # The padding depends on the devices, the clusters do not.
    self._model = {"clusters": wave.keys}
    self._own = Checkpoints(self.folder / worker, model=self._model)

  def restore(self, state: Any) -> Any:
    """The newest state that any worker saved; None if there is none.

    Args:
      state: as the wave would start, arrays or their descriptions; may be
        padded to another number of experts than the one that was saved. Rows of
        padding may be anything.
    """
    for step, worker in self._saved():
      with self._forgiven(f"Step {step} of {self.folder.name} is lost"):
        saved = Checkpoints(
          self.folder / worker, model=self._model, read_only=True
        )
        with contextlib.closing(saved):
          return saved.restore(state, step=step, any_length=True)
    return None

  def save(self, step: int, state: Any) -> None:
    """Saves a state, and deletes older ones of all workers.

    Raises:
      ValueError: the disk is full.
    """
    with self._forgiven(f"Step {step} of {self.folder.name} is not saved"):
      self._own.save(step, state)
      newest = dict(reversed([(w, step) for step, w in self._saved()]))
      for worker, reached in newest.items():
        # A worker that is ahead took the wave over while this one was asleep.
        if worker != self._worker and reached <= step:
          self._own.wait()  # until the state that replaces them is on disk
          remove_folder(self.folder / worker)

  def __enter__(self) -> "WaveCheckpoints":
    return self

  def __exit__(self, *_: object) -> None:
    with self._forgiven(f"The last step of {self.folder.name} is not saved"):
      self._own.close()

  def remove(self) -> None:
    """Removes all checkpoints of the wave, of all workers."""
    with self._forgiven(f"The last step of {self.folder.name} is not saved"):
      self._own.wait()
    remove_folder(self.folder)

  def _saved(self) -> list[tuple[int, str]]:
    """(step, worker) of every whole checkpoint, the newest first."""
    found = []
    for worker in names_in(self.folder):
      steps = saved_steps(self.folder / worker)
      found += [(step, worker) for step in steps]
    return sorted(found, reverse=True)

  @contextlib.contextmanager
  def _forgiven(self, what: str) -> Iterator[None]:
    """Reports an error and continues: a checkpoint only saves work.

    One may be damaged, or removed by a worker that has taken the wave over.
    """
    try:
      yield
    except Exception as error:
      if is_disk_full(error):
        raise
      reason = " ".join(str(error).split())
      print(f"{what}: {reason}", file=sys.stderr, flush=True)
