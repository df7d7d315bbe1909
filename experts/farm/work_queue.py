# SPDX-License-Identifier: Apache-2.0
"""A work queue of a stage's pieces, shared by workers through files.

Any number of processes, on any number of machines, work through one list of
names in one folder, without any other communication. Each leases a piece
(`suti.runtime.leases`), and the next one when it is done.

Leases save work; correctness does not depend on them. A worker's output is a
function of the piece alone, and its record, written last, appears whole. So if
a clock is wrong by more than `lease_s`, pieces are done twice, with the same
result.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from suti.runtime import preemption
from suti.runtime.leases import Lease, Leases
from suti.runtime.progress import Progress, progress


class Work:
  """The work queue of a stage, as seen by one of its workers; see `work`.

  Iterating yields one lease after another until all pieces are done.

  Attributes:
    bar: counts the progress of all workers.
    stop: an event that is set when this worker must end.
  """

  def __init__(
    self,
    folder: Path,
    pieces: Mapping[str, int],
    leases: Leases,
    *,
    bar: Progress,
    stop: threading.Event,
  ) -> None:
    self._folder, self._pieces, self._leases = folder, pieces, leases
    self.bar, self.stop = bar, stop
    bar.skip(self._count())

  def __iter__(self) -> Iterator[Lease]:
    for lease in self._leases.each(
      tuple(self._pieces),
      finished=lambda: finished(self._folder),
      stop=self.stop,
      notify=self._notify,
    ):
      self._notify(lease.name)
      yield lease
    self._notify("")

  def may_write(self, lease: Lease) -> bool:
    """Whether this worker still holds the lease of a piece it has done."""
    return self._leases.still_mine(lease)

  def holders(self) -> dict[str, str]:
    """{piece: worker} of all pieces in progress."""
    return self._leases.holders()

  @property
  def worker(self) -> str:
    """The name of this worker, which no other has or had."""
    return self._leases.worker

  def _count(self) -> int:
    done = finished(self._folder)
    return sum(num for name, num in self._pieces.items() if name in done)

  def _notify(self, note: str) -> None:
    # What was counted of pieces that are not done yet stays counted.
    self.bar.update(max(0, self._count() - self.bar.count), note=note)


@contextlib.contextmanager
def work(
  folder: Path,
  pieces: Mapping[str, int],
  *,
  label: str,
  lease_s: float,
  grace_s: float,
) -> Iterator[Work]:
  """Opens the work queue of a stage, shared with all processes that call this.

  Args:
    folder: of the stage; a piece is done when NAME.json is there.
    pieces: their names, in order, and the amount of work of each.
    label: of the progress bar.
    lease_s: see `Leases`.
    grace_s: see `suti.runtime.preemption.deferred`.
  """
  leases = Leases(folder / "leases", lease_s=lease_s)
  with (
    preemption.deferred(grace_s=grace_s, at_last=leases.give_back) as stop,
    progress(sum(pieces.values()), label) as bar,
    leases,
  ):
    yield Work(folder, pieces, leases, bar=bar, stop=stop)
  leases.clear()


def finished(folder: Path) -> set[str]:
  """The names of the pieces that are done, by any worker."""
  return {path.stem for path in folder.glob("wave-*.json")}
