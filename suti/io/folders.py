# SPDX-License-Identifier: Apache-2.0
"""Walks folders, without hidden and system folders.

Links to folders are followed, as people collect pictures and models by links;
a link to a parent folder is not.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from suti.io.paths import in_bucket

if TYPE_CHECKING:
  from suti.io.bucket import BucketPath

# Folders made by file managers, network disks and archivers, in addition to
# those that a first character marks: ".git", "@eaDir", "$RECYCLE.BIN".
_MARKS = (".", "@", "$")
_SYSTEM = frozenset(
  {
    "#recycle",
    "#snapshot",
    "__macosx",
    "__pycache__",
    "found.000",
    "lost+found",
    "network trash folder",
    "recycled",
    "recycler",
    "system volume information",
    "temporary items",
    "~snapshot",
  }
)


def is_hidden(name: str) -> bool:
  """Whether a folder of this name is hidden, or a system folder."""
  return name.startswith(_MARKS) or name.lower() in _SYSTEM


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
  """Walks a folder and all folders below it, sorted by name.

  Args:
    folder: where, on a disk or in a bucket. Its own name may be hidden.

  Yields: a folder, the names of its files, and the names of its hidden folders,
    which are not walked.
  """
  if in_bucket(folder):
    yield from _walk_bucket(folder)
  else:
    yield from _walk(folder, above=())


def _walk_bucket(
  folder: "BucketPath",
) -> Iterator[tuple[Path, list[str], list[str]]]:
  """The same of a bucket, from one listing."""
  names: dict[Path, list[str]] = {folder: []}
  hidden: dict[Path, dict[str, None]] = {}
  for path, _ in folder.below():
    parts = path.relative_to(folder).parts
    depth = next((i for i, x in enumerate(parts[:-1]) if is_hidden(x)), None)
    if depth is None:
      names.setdefault(path.parent, []).append(path.name)
    else:
      place = folder.joinpath(*parts[:depth])
      hidden.setdefault(place, {})[parts[depth]] = None
  for place in sorted(names.keys() | hidden.keys()):
    yield place, sorted(names.get(place, ())), sorted(hidden.get(place, ()))


def _walk(
  folder: Path, *, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[Path, list[str], list[str]]]:
  about = folder.stat()
  here = (about.st_dev, about.st_ino)
  if here in above:
    return
  others, folders = [], []
  with os.scandir(folder) as entries:
    for entry in entries:
      # The `is_dir` of a link to itself raises an error.
      (folders if os.path.isdir(entry.path) else others).append(entry.name)
  hidden = sorted(name for name in folders if is_hidden(name))
  yield folder, sorted(others), hidden
  for name in sorted(folders):
    if not is_hidden(name):
      yield from _walk(folder / name, above=(*above, here))
