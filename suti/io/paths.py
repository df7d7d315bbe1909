# SPDX-License-Identifier: Apache-2.0
"""Where a file is: on this machine's disks, or in a bucket.

`path_of` makes a path of any name. In a bucket (`gs://BUCKET/FOLDER`) it is an
`etils.epath` with pathlib's methods (`suti.io.bucket`); else it is pathlib's
own, and nothing else is imported. What only reads files of this machine is lent
a copy by `local`.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from suti.io.processes import is_dead, this_process

if TYPE_CHECKING:
  from suti.io.bucket import BucketPath

_SCHEME = "gs://"
# Of the disk's free space, for copies of single objects: those that have not
# been asked for lately are removed above it.
_SHARE = 0.5


def path_of(name: str | os.PathLike) -> Path:
  """A path of a name; a path stays what it is.

  Args:
    name: a path of this machine, or gs://BUCKET/FOLDER.
  """
  text = os.fspath(name)
  if not text.startswith(_SCHEME):
    return Path(name)
  from suti.io.bucket import BucketPath

  return BucketPath(text)


def in_bucket(path: object) -> TypeGuard["BucketPath"]:
  """Says whether a path is one of `path_of` in a bucket."""
  return not isinstance(path, Path) and str(path).startswith(_SCHEME)


def local(path: str | os.PathLike) -> Path:
  """A file or a folder of this machine that holds what a path holds.

  Of what is in a bucket that is a copy, made once in this process and once
  more when the original has been replaced; it is not to be written to. It may
  go when much else was copied, so who opens it later asks again.

  Args:
    path: of `path_of`; of this machine, it is returned.

  Raises:
    FileNotFoundError: there is none.
  """
  path = path_of(path)
  if not in_bucket(path):
    return path
  if (about := path.about()) is not None:
    return _copies().file(path, str(about["generation"]))
  inside = path.below()
  if not inside:
    raise FileNotFoundError(f"{path} is not there")
  return _copies().folder(path, {p: str(a["generation"]) for p, a in inside})


class _Copies:
  """Copies of objects, in a folder of this process."""

  def __init__(self, folder: Path) -> None:
    self._folder = folder
    self._room = int(shutil.disk_usage(folder).free * _SHARE)
    self._sizes: dict[Path, int] = {}  # the least recently asked for first
    self._lock = threading.Lock()  # readers are threads

  def file(self, path: "BucketPath", generation: str) -> Path:
    """A copy of one object."""
    # The name stays: some readers look at it. So does the folder, so that of
    # an object that was replaced the old copy goes.
    folder = self._folder / _digest(str(path))
    copy = folder / generation / path.name
    with self._lock:
      if not copy.exists():
        shutil.rmtree(folder, ignore_errors=True)
        path.download(copy, generation=generation)
      self._sizes.pop(folder, None)
      self._sizes[folder] = copy.stat().st_size
      while sum(self._sizes.values()) > self._room and len(self._sizes) > 1:
        oldest = next(iter(self._sizes))
        del self._sizes[oldest]
        shutil.rmtree(oldest, ignore_errors=True)
    return copy

  def folder(
    self, path: "BucketPath", generations: dict["BucketPath", str]
  ) -> Path:
    """A copy of all objects below a path; it stays."""
    state = _digest(repr(sorted((str(p), g) for p, g in generations.items())))
    folder = self._folder / _digest(str(path))
    copy = folder / state / path.name
    with self._lock:
      if not copy.exists():
        shutil.rmtree(folder, ignore_errors=True)
        part = copy.with_name(f"{path.name}.part")
        for inside, generation in generations.items():
          target = part / inside.relative_to(path)
          inside.download(target, generation=generation)
        part.rename(copy)
    return copy


def _digest(text: str) -> str:
  return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


def _copies() -> _Copies:
  return _copies_of(os.getpid())  # A process that was forked has its own.


@functools.cache
def _copies_of(process: int) -> _Copies:
  return _Copies(scratch(process))


@functools.cache
def scratch(process: int) -> Path:
  """A folder of this process, which goes with it.

  Those of processes that were killed are removed here.

  Raises:
    ValueError: what all of them lie in is not this user's alone.
  """
  parent = _own(Path(tempfile.gettempdir()) / f"suti-{os.getuid()}")
  for old in parent.iterdir():
    if is_dead(old.name):
      shutil.rmtree(old, ignore_errors=True)
  folder = parent / this_process()
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()

  def remove() -> None:
    if os.getpid() == process:
      shutil.rmtree(folder, ignore_errors=True)

  atexit.register(remove)
  return folder


def _own(folder: Path) -> Path:
  """Makes a folder of a name that anybody could have taken before.

  Raises:
    ValueError: it is a link, another user's, or open to others: what is read
      from it could be theirs.
  """
  with contextlib.suppress(FileExistsError):
    folder.mkdir(mode=0o700)
  found = folder.lstat()
  if stat.S_ISLNK(found.st_mode):
    what = "is a link"
  elif not stat.S_ISDIR(found.st_mode):
    what = "is no folder"
  elif found.st_uid != os.getuid():
    what = "is another user's"
  elif stat.S_IMODE(found.st_mode) & 0o077:
    what = f"is open to others (mode {stat.S_IMODE(found.st_mode):o}, not 700)"
  else:
    return folder
  raise ValueError(
    f"{folder} {what}, and is not used for copies and temporary files: remove "
    "it, or set TMPDIR to a folder of your own."
  )


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
  """Lends a new folder of this machine, which goes when it was used."""
  folder = Path(tempfile.mkdtemp(dir=scratch(os.getpid())))
  try:
    yield folder
  finally:
    shutil.rmtree(folder, ignore_errors=True)
