# SPDX-License-Identifier: Apache-2.0
"""Which worker does which piece of a stage's work.

Any number of processes, on any number of machines, work through one list of
names in one folder; they never talk to each other. Each leases a piece
(`suti.runtime.leases`), and the next one when it is done.

Leases spare work and decide nothing. That each piece is done exactly once rests
on what a worker writes being a function of the piece alone, and appearing whole
with one record, last. So a clock that is wrong by more than `lease_s` makes
others do its work again, to the same result.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from suti.runtime import preemption
from suti.runtime.leases import Lease, Leases
from suti.runtime.progress import Progress, progress


class Work:
  """The pieces of a stage, as one of its workers meets them; see `work`.

  Iterating yields one lease after another until all pieces are done.

  Attributes:
    bar: counts what all workers do.
    stop: is set when this worker must end.
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
    """Says whether a piece that was worked off is still this worker's."""
    return self._leases.still_mine(lease)

  def holders(self) -> dict[str, str]:
    """{piece: worker} of what is being worked on now, by whomever."""
    return self._leases.holders()

  @property
  def worker(self) -> str:
    """A name that no other worker has, or had."""
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
  """Shares the pieces of a stage with all processes that do the same.

  Args:
    folder: of the stage; a piece is done when NAME.json is there.
    pieces: their names, in the order in which they are wanted, and how much
      there is to do for each.
    label: what is done, for the bar.
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
  """The names of the pieces that are done, by whichever worker."""
  return {path.stem for path in folder.glob("wave-*.json")}
