# SPDX-License-Identifier: Apache-2.0
"""Sources of pictures with texts, as pages: all rows of one URL or folder.

  world    SubjectWorld's web view, noise of the web included
  folder   a folder of subject folders, as DreamBench is (`folders`)
  table    rows of url, path, text, a page for each url (`tables`)

Pages are lazy: pictures are opened on access, so that a list of all pages is
cheap and pages of an earlier run cost nothing. `experts.mine` filters them.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from experts.mining.folders import CLASSES_FILE, find_subjects, read_classes
from experts.mining.tables import folder_of, read_table
from suti.io.image_files import load_image
from suti.runtime.progress import say

# Pictures of a page that are opened for each that a cluster may keep: longer
# pages, such as a shop's list of thousands, are cut.
OPENED = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One picture and the text beside it.

  Attributes:
    text: alt-text, "" if there is none.
    load: opens the picture, uint8 RGB (H, W, 3).
    truth: "world:SPLIT:SEED" if known; for evaluation only.
    view: equal for near-duplicates, if known; for evaluation only.
  """

  text: str
  load: Callable[[], np.ndarray]
  truth: str | None = None
  view: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
  """All pictures under one URL, or in one folder.

  Attributes:
    url: the URL, or the folder.
    rows: its pictures, in order.
    subject: class noun if the source gives it, else "".
    name: of the folder, which may name the subject; "" in other sources.
    chosen: whether a user collected these as pictures of one subject.
  """

  url: str
  rows: tuple[Row, ...]
  subject: str = ""
  name: str = ""
  chosen: bool = False


def open_pages(
  config, *, seed: int, size_px: int, start: int = 0
) -> tuple[Iterator[Page], int]:
  """Opens the source that a config names.

  Args:
    config: the section `mine`.
    seed, size_px: of the pages that SubjectWorld renders; not used by other
      sources.
    start: number of pages to skip.

  Returns: the pages from `start` on, and the number of all pages.

  Raises:
    ValueError: no such source, no such path, or no pictures in it.
  """
  if config.source == "world":
    # Imported here: a run on photographs does not need the renderer.
    from suti.world.dataset import web_rows

    rows = web_rows(
      config.split,
      num_pages=config.num_pages,
      seed=seed,
      start=start,
      size_px=size_px,
    )
    return _pages_of(rows), config.num_pages
  if config.source not in ("folder", "table"):
    raise ValueError(
      f"config.mine.source={config.source!r} is unknown: use 'world', 'folder' "
      "or 'table'."
    )
  path = source_path(config)
  if not config.path or not path.exists():
    raise ValueError(
      f"config.mine.path='{config.path}' does not exist: give a "
      f"{config.source} of pictures."
    )
  most = OPENED * config.max_images
  find = _folders if config.source == "folder" else _table
  pages, rows = find(path, num_pages=config.num_pages, most=most)
  if rows:
    say(
      f"config.mine.max_images={config.max_images} leaves out {rows} pictures"
      f" of {path}: of a page the first {most} are opened."
    )
  return iter(pages[start:]), len(pages)


def source_path(config) -> Path:
  """The folder or the table that a config names; `~` is the user's home.

  Args:
    config: the section `mine`.
  """
  # Path.expanduser fails for a user that does not exist.
  return Path(os.path.expanduser(config.path))


def _pages_of(rows: Iterable) -> Iterator[Page]:
  """Groups consecutive rows of one url."""
  url, group = None, []
  for row in rows:
    if row.url != url and group:
      yield Page(url=str(url), rows=tuple(group))
      group = []
    url = row.url
    group.append(
      Row(
        text=row.alt_text,
        load=lambda image=row.image: image,
        truth=row.truth,
        view=row.view,
      )
    )
  if group:
    yield Page(url=str(url), rows=tuple(group))


def _folders(
  path: Path, *, num_pages: int, most: int
) -> tuple[list[Page], int]:
  """One page for each folder of pictures in `path`, or `path` itself.

  Args:
    path: the folder.
    num_pages: the most pages to take.
    most: the most pictures to take of each.

  Returns: the pages, and the number of pictures left out of them.
  """
  if not path.is_dir():
    raise ValueError(
      f"config.mine.path='{path}' is a file: give a folder of subject folders, "
      "or set config.mine.source='table'."
    )
  table = path / CLASSES_FILE
  classes = read_classes(table)
  subjects = find_subjects(path)
  if len(subjects) > num_pages:
    say(
      f"config.mine.num_pages={num_pages} leaves out the last"
      f" {len(subjects) - num_pages} of the {len(subjects)} pages of {path}."
    )
  pages, more = [], 0
  for subject in subjects[:num_pages]:
    name = subject.name
    both = list(zip(subject.texts, subject.files, strict=True))
    more += max(0, len(both) - most)
    pages.append(
      Page(
        url=name,
        rows=tuple(
          Row(text=text, load=functools.partial(load_image, file))
          for text, file in both[:most]
        ),
        subject=classes.get(name, ""),
        name=name,
        chosen=True,
      )
    )
  _say_unused(table, classes, {s.folder.name for s in subjects})
  return pages, more


def _say_unused(table: Path, classes: dict[str, str], names: set) -> None:
  """Reports the rows of a table of classes that have no folder."""
  if unused := sorted(set(classes) - names):
    first = ", ".join(unused[:5]) + (", ..." if unused[5:] else "")
    say(
      f"{table}: {len(unused)} of {len(classes)} names have no folder of"
      f" pictures: {first}."
    )


def _table(path: Path, *, num_pages: int, most: int) -> tuple[list[Page], int]:
  """One page for each url of a table, in order of appearance.

  Arguments and results are those of `_folders`. Rows that are not taken are
  counted, but not held in memory.
  """
  folder = folder_of(path)
  groups: dict[str, list[Row]] = {}
  others = more = 0
  for url, picture, text in read_table(path):
    if (rows := groups.get(url)) is None:
      if len(groups) == num_pages:
        others += 1
        continue
      rows = groups[url] = []
    if len(rows) == most:
      more += 1
      continue
    load = functools.partial(_load_below, folder, picture)
    rows.append(Row(text=text, load=load))
  if not groups:
    raise ValueError(f"config.mine.path='{path}' has no rows.")
  if others:
    say(
      f"config.mine.num_pages={num_pages} leaves out {others} rows of {path},"
      f" whose urls come after the first {num_pages}."
    )
  pages = [Page(url=url, rows=tuple(rows)) for url, rows in groups.items()]
  return pages, more


def _load_below(folder: Path, picture: str) -> np.ndarray:
  """Opens a picture that a table names.

  Raises:
    ValueError: it is on the web, or `load_image` cannot read it.
  """
  if address := re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", picture):
    raise ValueError(
      f"{picture} is an address ({address[0]}): pictures are read from this"
      " machine's disk and not fetched, give the path of a copy."
    )
  file = folder / os.path.expanduser(picture)
  # Path.exists raises an error for a name that is too long.
  if "\\" in picture and not os.path.exists(file):  # written on Windows
    file = folder / picture.replace("\\", "/")
  return load_image(file)
