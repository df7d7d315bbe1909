# SPDX-License-Identifier: Apache-2.0
"""Temporary files of atomic writes, and their cleanup after killed runs.

  .NAME.WRITER.suti-part   a file or a folder that is being written
  .NAME.WRITER.suti-new    a file that is to be created only if NAME is free
  .NAME.WRITER.suti-old    the old folder, until the new NAME is in place

WRITER is a process of `suti.io.processes`. A folder is moved away before the
new one is renamed to its name: if a run is killed in between, the old one is
restored. Files of other names are never touched: other programs keep files in a
workdir too.
"""

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from suti.io.paths import in_bucket, path_of
from suti.io.processes import is_dead, this_process

PART, NEW, OLD = "suti-part", "suti-new", "suti-old"
_NAME = re.compile(rf"\.(.+)\.([A-Za-z0-9_-]+)\.({PART}|{NEW}|{OLD})", re.S)


def part_of(path: Path, *, kind: str = PART) -> Path:
  """The hidden name beside a path under which this process writes it."""
  return path.parent / f".{path.name}.{this_process()}.{kind}"


def remove(path: Path) -> None:
  """Removes a file, a link or a folder, if it is there and can be."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path, ignore_errors=True)
  else:
    with contextlib.suppress(OSError):
      path.unlink()


def put_back(path: Path) -> None:
  """Restores a folder that this process had moved away.

  Args:
    path: its name; nothing is done if it exists, or was not moved.
  """
  old = part_of(path, kind=OLD)
  if os.path.lexists(old) and not os.path.lexists(path):
    os.rename(old, path)


def clean_parts(folder: str | os.PathLike, *, shared: bool = False) -> None:
  """Removes the partial files of killed runs under `folder`.

  A folder that was moved away and never replaced is restored.

  Args:
    folder: to search.
    shared: others may be writing there now: only files of dead processes of
      this machine are removed. With False the caller must hold the exclusive
      lock.
  """
  if in_bucket(path_of(folder)):
    return  # Buckets never have partial files.
  # Not rglob, which fails where another process removes what it walks through.
  for root, folders, names in os.walk(folder):
    _clean([Path(root, n) for n in (*folders, *names)], dead_only=shared)


def clean_parts_of(path: Path) -> None:
  """`clean_parts` for one file or folder, of dead processes only."""
  pattern = f".{glob.escape(path.name)}.*.suti-*"
  found = [p for p in path.parent.glob(pattern) if _named(p) == path.name]
  _clean(found, dead_only=True)


def _named(part: Path) -> str | None:
  """The final name of a partial file; None if it is not one."""
  found = _NAME.fullmatch(part.name)
  return found[1] if found else None


def _clean(paths: Iterable[Path], *, dead_only: bool) -> None:
  found = [(p, m) for p in paths if (m := _NAME.fullmatch(p.name))]
  left = [(p, m) for p, m in found if not dead_only or is_dead(m[2])]
  # Their process is about to rename these.
  busy = {m[1] for p, m in found if m[3] == OLD and (p, m) not in left}
  # Of several that were moved away the newest was in use last.
  moved = sorted(
    [
      (_changed(p), p, m[1])
      for p, m in left
      if m[3] == OLD and m[1] not in busy
    ],
    reverse=True,
  )
  for _, part, name in moved:
    if not os.path.lexists(part.with_name(name)):
      with contextlib.suppress(FileNotFoundError):
        os.rename(part, part.with_name(name))
        continue
    remove(part)
  for part, match in left:
    if match[3] != OLD:
      remove(part)


def _changed(path: Path) -> int:
  with contextlib.suppress(OSError):
    return path.lstat().st_mtime_ns
  return 0
