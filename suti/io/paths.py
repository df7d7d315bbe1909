# SPDX-License-Identifier: Apache-2.0
"""Paths on this machine's disks and in buckets.

`path_of` makes a path of any name. In a bucket (`gs://BUCKET/FOLDER`) it is an
`etils.epath` with pathlib's methods (`suti.io.bucket`); else it is a pathlib
path, and nothing else is imported. For libraries that only read local files,
`local` makes a copy.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import re
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
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Share of the disk's free space for copies of single objects: above it, the
# least recently used are removed.
_SHARE = 0.5


def path_of(name: str | os.PathLike) -> Path:
  """Makes a path of a name; a path is returned unchanged.

  Args:
    name: a path of this machine, or gs://BUCKET/FOLDER.

  Raises:
    ValueError: an address of another kind, of which pathlib would make a folder
      named "s3:" here.
  """
  text = os.fspath(name)
  if not text.startswith(_SCHEME):
    if isinstance(text, str) and _ANY_SCHEME.match(text):
      raise ValueError(
        f"{text} is neither on a disk nor in a bucket of Google Cloud: give a "
        f"path of this machine, or {_SCHEME}BUCKET/FOLDER."
      )
    return Path(name)
  from suti.io.bucket import BucketPath

  return BucketPath(text)


def in_bucket(path: object) -> TypeGuard["BucketPath"]:
  """Whether a path of `path_of` is in a bucket."""
  return not isinstance(path, Path) and str(path).startswith(_SCHEME)


def local(path: str | os.PathLike) -> Path:
  """A local file or folder with the content of a path.

  For a path in a bucket it is a copy, made once per process and again when the
  original has been replaced; do not write to it. It may be removed when much
  else is copied, so call this again before opening it later.

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
    self._sizes: dict[Path, int] = {}  # the least recently used first
    self._lock = threading.Lock()  # readers may be threads

  def file(self, path: "BucketPath", generation: str) -> Path:
    """A copy of one object."""
    # The name is kept, as some readers use it. So is the folder, so that the
    # old copy of a replaced object is removed.
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
    """A copy of all objects below a path; it is not removed."""
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


# Readers may be threads, and a cache alone lets two of them make what it keeps.
_making = threading.RLock()


def _copies() -> _Copies:
  with _making:
    return _copies_of(os.getpid())  # A process that was forked has its own.


@functools.cache
def _copies_of(process: int) -> _Copies:
  return _Copies(scratch(process))


def scratch(process: int) -> Path:
  """A temporary folder of this process, removed when it ends.

  Those of processes that were killed are removed here.

  Raises:
    ValueError: the parent folder of all of them is not private to this user.
  """
  with _making:
    return _scratch(process)


@functools.cache
def _scratch(process: int) -> Path:
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
  """Makes a private folder of a predictable name.

  Raises:
    ValueError: it is a link, another user's, or open to others: its content
      could be forged.
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
  """Yields a new local folder, which is removed at the end."""
  folder = Path(tempfile.mkdtemp(dir=scratch(os.getpid())))
  try:
    yield folder
  finally:
    shutil.rmtree(folder, ignore_errors=True)
