# SPDX-License-Identifier: Apache-2.0
"""Leases of work by many processes, through files alone.

A lease of a name is a file that can be created once:

  wave-00007.1   {"worker": ..., "expires": ...}, renewed by a thread
  wave-00007.2   of the worker that took over after .1 had expired

The file with the highest number is the valid lease. Leases of other workers are
never renamed or rewritten: a worker that was suspended finds a higher number
than its own, and gives up the work. So a file system, or a bucket, only needs
to create a whole file if it does not exist, replace a worker's own file, list
and remove.

Expiry depends on the machines' clocks: a machine whose clock is wrong by more
than `lease_s` loses its leases, or takes over those of others. The callers must
tolerate that (`experts.farm.work_queue`, `suti.runtime.locks`).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from suti.io import files
from suti.io.paths import path_of
from suti.io.processes import is_dead, this_process
from suti.runtime.preemption import TerminatedError

_RENEWALS = 4  # renewals per lease: three may fail


class Lease:
  """A piece of work that this worker holds.

  Attributes:
    name: the piece of work.
    lost: whether another worker has taken it over: stop, and write nothing.
  """

  def __init__(self, name: str, path: Path) -> None:
    self.name, self.path, self.lost = name, path, False


class Leases:
  """The leases in a folder, as one worker sees them; a context manager."""

  def __init__(
    self,
    folder: Path,
    *,
    lease_s: float,
    on_loss: Callable[[], None] = lambda: None,
  ) -> None:
    """Names this worker, and starts the thread that renews its lease.

    Args:
      folder: of leases only; made with the first lease.
      lease_s: seconds that a lease lasts unless it is renewed.
      on_loss: called in another thread when a lease was taken over.
    """
    self.folder, self.lease_s = path_of(folder), lease_s
    self._on_loss = on_loss
    # The same process number may come back after a restart.
    self.worker = f"{this_process()}-{time.time_ns():x}"
    self._held: Lease | None = None
    self._lock = threading.Lock()  # guards _held and its file
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._renew, daemon=True)

  def __enter__(self) -> "Leases":
    self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._ended.set()
    self._thread.join()
    self.give_back()

  def each(
    self,
    names: Sequence[str],
    *,
    finished: Callable[[], set[str]],
    stop: threading.Event,
    notify: Callable[[str], None],
  ) -> Iterator[Lease]:
    """Yields one lease after another until every piece is done by some worker.

    A lease is released when the next is requested, done or not.

    Args:
      names: all pieces, in order.
      finished: lists those that are done.
      stop: set it to end the waiting with `TerminatedError`.
      notify: called with a line that names the worker it waits for.
    """
    while True:
      if stop.is_set():
        raise TerminatedError
      done = finished()
      left = [name for name in names if name not in done]
      if not left:
        return
      holders = self._holders()
      for name in left:
        lease = self._take(name, holders.get(name))
        if lease is not None:
          # It may have been done between the list and the lease.
          if name not in finished():
            yield lease
          self.give_back()
          break
      else:
        holder = holders.get(left[0], {"worker": "nobody now"})
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        notify(f"waiting for {left[0]} ({holder['worker']}){more}")
        stop.wait(min(2.0, self.lease_s / _RENEWALS))

  def take(self, name: str) -> Lease | None:
    """Leases a piece now; None if another holds it."""
    return self._take(name, self._holders(name).get(name))

  def holders(self) -> dict[str, str]:
    """{piece: worker} of the leases that have not expired."""
    return {
      name: holder["worker"]
      for name, holder in self._holders().items()
      if not self._is_over(holder)
    }

  def still_mine(self, lease: Lease) -> bool:
    """Whether a lease holds at this moment, read from its file."""
    holder = self._holders(lease.name).get(lease.name)
    lease.lost |= holder is None or holder["worker"] != self.worker
    return not lease.lost

  def give_back(self) -> None:
    """Releases the lease that this worker holds, if any."""
    with self._lock:
      if self._held is not None:
        # Removed, not rewritten as expired, which a full disk would prevent.
        self._held.path.unlink(missing_ok=True)
      self._held = None

  def clear(self) -> None:
    """Removes the leases of all workers: when every piece is done."""
    for path in self.folder.glob("*.*"):
      if path.suffix[1:].isdigit():
        path.unlink(missing_ok=True)

  def _holders(self, only: str = "*") -> dict[str, dict[str, Any]]:
    """{piece: content of its lease of the highest number, and the number}."""
    found: dict[str, dict[str, Any]] = {}
    paths = [
      (path.stem, int(path.suffix[1:]), path)
      for path in self.folder.glob(f"{only}.*")
      if path.suffix[1:].isdigit()  # else it is being written
    ]
    for name, number, path in sorted(paths):
      # Its holder may have released it by now.
      with contextlib.suppress(FileNotFoundError):
        found[name] = files.read_json(path) | {"number": number}
    return found

  def _take(self, name: str, holder: dict[str, Any] | None) -> Lease | None:
    """Leases a piece; None if another worker holds it, or was faster."""
    if holder is not None and not self._is_over(holder):
      return None
    number = 1 if holder is None else holder["number"] + 1
    path = self.folder / f"{name}.{number}"
    if not files.create_json(path, self._content()):
      return None
    with self._lock:
      self._held = Lease(name, path)
      return self._held

  def _is_over(self, holder: dict[str, Any]) -> bool:
    """Whether a lease has expired, or its worker on this machine has died."""
    process = holder["worker"].rpartition("-")[0]
    return (
      holder["expires"] < time.time()
      or is_dead(process)
      or (process == this_process() and holder["worker"] != self.worker)
    )

  def _content(self) -> dict[str, Any]:
    return {"worker": self.worker, "expires": time.time() + self.lease_s}

  def _renew(self) -> None:
    """Runs in a thread of its own, for a step may take longer than a lease."""
    while not self._ended.wait(self.lease_s / _RENEWALS):
      with self._lock:
        lease = self._held
        if lease is None or lease.lost:
          continue
        # The disk may be full or unavailable: tried again next time.
        with contextlib.suppress(OSError, ValueError):
          if self.still_mine(lease):
            files.write_json(lease.path, self._content())
        if lease.lost:
          self._on_loss()
