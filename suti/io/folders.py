# SPDX-License-Identifier: Apache-2.0
"""What lies below a folder, without what systems keep there for themselves.

Folders that are links are followed, as people gather pictures and models by
links; a link to one of the folders it lies in is not.
"""

import os
from collections.abc import Iterator
from pathlib import Path

# Folders that file managers, network disks and archivers leave behind, beside
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
  """Says whether a folder of this name is hidden, or a system's own."""
  return name.startswith(_MARKS) or name.lower() in _SYSTEM


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
  """Goes through a folder and all that are below it, by name.

  Args:
    folder: of this machine. It is gone through whatever its own name is.

  Yields: a folder, the names of what is in it and is no folder, and the names
    of its hidden folders, which are not gone through.
  """
  yield from _walk(folder, above=())


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
      # Of a link to itself, an entry's own `is_dir` is an error.
      (folders if os.path.isdir(entry.path) else others).append(entry.name)
  hidden = sorted(name for name in folders if is_hidden(name))
  yield folder, sorted(others), hidden
  for name in sorted(folders):
    if not is_hidden(name):
      yield from _walk(folder / name, above=(*above, here))
