# SPDX-License-Identifier: Apache-2.0
"""One command at a time works in a workdir, but for those that may share it."""

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
  """Holds a workdir for this process.

  On this machine's disks and on NFS the system frees it if the process dies; in
  a bucket a lease does, which expires in a minute.

  Args:
    workdir: made if there is none.
    shared: hold it beside others that share it; nobody else may.

  Yields:
    The workdir.

  Raises:
    ValueError: another process holds it.
  """
  workdir = path_of(workdir)
  if in_bucket(workdir):
    # Who shares it leases what it works on, piece by piece.
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
    # The file stays: removing it would let two runs lock two files of one name.
    yield workdir


@contextlib.contextmanager
def _leased(workdir: Path) -> Iterator[None]:
  """Holds a workdir in a bucket by a lease that is renewed."""
  leases = Leases(workdir / ".lock", lease_s=_LEASE_S, on_loss=_give_up)
  with leases:
    if leases.take("workdir") is None:
      # Whoever it was may have let it go since.
      holder = leases.holders().get("workdir", "unknown")
      raise _in_use(workdir, holder.rpartition("-")[0])
    yield


def _give_up() -> None:
  """Ends this process between two steps: it was away for too long."""
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
