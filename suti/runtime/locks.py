# SPDX-License-Identifier: Apache-2.0
"""Locks of a workdir: exclusive, or shared by commands that run together."""

import contextlib
import errno
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from suti.io import files
from suti.io.paths import in_bucket, path_of
from suti.runtime.leases import Leases

_LEASE_S = 60.0  # of a workdir in a bucket


@contextlib.contextmanager
def lock(workdir: str | os.PathLike, *, shared: bool = False) -> Iterator[Path]:
  """Locks a workdir for this process.

  On this machine's disks and on NFS the system releases the lock if the process
  dies; in a bucket it is a lease, which expires in a minute.

  Args:
    workdir: made if there is none.
    shared: whether other processes may hold a shared lock at the same time.

  Yields:
    The workdir.

  Raises:
    ValueError: another process holds it.
  """
  workdir = path_of(workdir)
  if in_bucket(workdir):
    # Processes that share it lease their work, piece by piece.
    with contextlib.nullcontext() if shared else _leased(workdir):
      yield workdir
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError) as error:
    raise ValueError(
      f"--workdir={workdir} is not a folder: give a folder, or a name that"
      " does not exist yet."
    ) from error
  with (workdir / ".lock").open("a+") as file:
    try:
      kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
      fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in files.UNABLE:
        raise files.unable(workdir, "locks") from error
      if error.errno not in (errno.EAGAIN, errno.EACCES):
        raise
      file.seek(0)
      holder = file.read().strip() or "unknown"
      raise _in_use(workdir, holder) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    # The file is kept: if removed, two runs could lock two files of one name.
    yield workdir


@contextlib.contextmanager
def _leased(workdir: Path) -> Iterator[None]:
  """Locks a workdir in a bucket by a lease that is renewed."""
  leases = Leases(workdir / ".lock", lease_s=_LEASE_S, on_loss=_give_up)
  with leases:
    if leases.take("workdir") is None:
      # Its holder may have released it since.
      holder = leases.holders().get("workdir", "unknown")
      raise _in_use(workdir, holder.rpartition("-")[0])
    yield


def _give_up() -> None:
  """Ends this process between two steps, when its lease was lost."""
  print(
    "Another command has taken this workdir over, as this one could not renew"
    f" its lease for {_LEASE_S:.0f} s.",
    file=sys.stderr,
    flush=True,
  )
  os.kill(os.getpid(), signal.SIGTERM)


def _in_use(workdir: Path, holder: str) -> ValueError:
  return ValueError(
    f"--workdir={workdir} is in use by another run (process {holder}):"
    " wait for it to end, stop it, or give another --workdir."
  )
