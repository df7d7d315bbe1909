# SPDX-License-Identifier: Apache-2.0
"""Where pictures come from: pages of (text, picture) rows under one address.

  world    SubjectWorld's web view, noise of the web included
  folder   a folder of subject folders, as DreamBench is
  table    Parquet or CSV with the columns url, path, text

A page is lazy: a picture is opened when it is asked for, so that a list of all
pages is cheap and a page that was done before costs nothing. What is a good
page is `experts.mine`'s business.
"""

import csv
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from suti.images import load_image
from suti.runtime.progress import say

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_COLUMNS = ("url", "path", "text")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One picture and the text beside it.

  Attributes:
    text: alt-text, "" if there is none.
    load: opens the picture, uint8 RGB (H, W, 3).
    truth: "world:SPLIT:SEED" where it is known; for evaluation alone.
    view: the same for near-duplicates, where it is known; for evaluation alone.
  """

  text: str
  load: Callable[[], np.ndarray]
  truth: str | None = None
  view: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
  """What was found under one address.

  Attributes:
    url: the address, or the folder.
    rows: its pictures, in their order there.
    subject: class noun if the source tells it, "" if it must be found.
    name: what a person called the subject, "" if nobody did.
    chosen: a person chose these pictures as pictures of one subject.
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
    seed, size_px: which web SubjectWorld draws, and how large; other sources
      are as they are.
    start: pages to leave out at the beginning.

  Returns: the pages from `start` on, and how many there are in all.

  Raises:
    ValueError: no such source, nothing there, or no pictures in it.
  """
  if config.source == "world":
    # Imported here: a run on photographs needs no renderer.
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
  path = Path(config.path).expanduser()
  if not config.path or not path.exists():
    raise ValueError(
      f"config.mine.path='{config.path}' does not exist: give a "
      f"{config.source} of pictures."
    )
  pages = _folders(path) if config.source == "folder" else _table(path)
  if len(pages) > config.num_pages:
    say(
      f"config.mine.num_pages={config.num_pages} leaves out the last"
      f" {len(pages) - config.num_pages} of the {len(pages)} pages of {path}."
    )
  pages = pages[: config.num_pages]
  return iter(pages[start:]), len(pages)


def _pages_of(rows: Iterable) -> Iterator[Page]:
  """Groups rows that follow each other under one url."""
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


def _folders(path: Path) -> list[Page]:
  """One page for each folder of pictures in `path`, or `path` itself."""
  if not path.is_dir():
    raise ValueError(
      f"config.mine.path='{path}' is a file: give a folder of subject folders, "
      "or set config.mine.source='table'."
    )
  classes = _classes(path / "prompts_and_classes.txt")
  pages = []
  for folder in [path, *sorted(p for p in path.iterdir() if p.is_dir())]:
    files = sorted(
      file
      for file in folder.iterdir()
      if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    )
    if files:
      # Disks hold names that are no text; JSON does not.
      name = os.fsencode(folder.name).decode(errors="replace")
      pages.append(
        Page(
          url=name,
          rows=tuple(Row(text="", load=_opener(file)) for file in files),
          subject=classes.get(name, ""),
          name=_readable(name),
          chosen=True,
        )
      )
  if not pages:
    raise ValueError(
      f"config.mine.path='{path}' has no pictures: give a folder whose folders "
      f"each hold pictures ({' '.join(PICTURES)}) of one subject."
    )
  return pages


def _opener(file: Path) -> Callable[[], np.ndarray]:
  return lambda: load_image(file)


def _readable(name: str) -> str:
  """'grey_sloth_plushie' -> 'grey sloth plushie', 'dog2' -> 'dog'."""
  words = name.replace("_", " ").replace("-", " ").lower().split()
  return " ".join(w.rstrip("0123456789") or w for w in words)


def _classes(file: Path) -> dict[str, str]:
  """Reads DreamBench's table `subject_name,class`; {} if there is none."""
  if not file.is_file():
    return {}
  lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
  rows: dict[str, str] = {}
  inside = False
  for line in (line.strip() for line in lines):
    if line == "subject_name,class":
      inside = True
    elif inside and line.count(",") == 1:
      name, noun = line.split(",")
      rows[name.strip()] = noun.strip()
    elif inside:
      break
  return rows


def _table(path: Path) -> list[Page]:
  """One page for each url of a Parquet or CSV table, in order of appearance.

  The texts of the whole table are held in memory, its pictures are not: split
  a table of more than some tens of millions of rows, each url in one part.
  """
  reader = _parquet if path.suffix.lower() == ".parquet" else _csv
  groups: dict[str, list[Row]] = {}
  for number, (url, picture, text) in enumerate(reader(path), start=1):
    if not url.strip():
      raise ValueError(
        f"Row {number} of config.mine.path='{path}' has no url: pictures of one"
        " url are taken for one page; give each row its own, or leave it out."
      )
    file = path.parent / picture
    groups.setdefault(url, []).append(Row(text=text, load=_opener(file)))
  if not groups:
    raise ValueError(f"config.mine.path='{path}' has no rows.")
  return [Page(url=url, rows=tuple(rows)) for url, rows in groups.items()]


def _csv(path: Path) -> Iterator[tuple[str, str, str]]:
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      reader = csv.DictReader(file)
      _check_columns(path, reader.fieldnames or ())
      for row in reader:
        yield row["url"] or "", row["path"] or "", row["text"] or ""
  except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
    raise ValueError(
      f"config.mine.path='{path}' is not a CSV table in UTF-8 ({error})."
    ) from error


def _parquet(path: Path) -> Iterator[tuple[str, str, str]]:
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError as error:
    raise ValueError(
      f"Reading config.mine.path='{path}' needs pyarrow: pip install pyarrow, "
      "or give the table as CSV."
    ) from error
  try:
    table = pyarrow.parquet.ParquetFile(path)
    _check_columns(path, table.schema_arrow.names)
    for column in _COLUMNS:
      kind = table.schema_arrow.field(column).type
      if pyarrow.types.is_dictionary(kind):  # what pandas calls categories
        kind = kind.value_type
      if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.null()):
        raise ValueError(
          f"config.mine.path='{path}' has {kind} in column {column}: a table"
          " needs text there."
        )
    for batch in table.iter_batches(columns=list(_COLUMNS)):
      for row in batch.to_pylist():
        yield row["url"] or "", row["path"] or "", row["text"] or ""
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(
      f"config.mine.path='{path}' is not a readable Parquet table ({error})."
    ) from error


def _check_columns(path: Path, names: Iterable[str]) -> None:
  missing = [column for column in _COLUMNS if column not in set(names)]
  if missing:
    raise ValueError(
      f"config.mine.path='{path}' has no column {', '.join(missing)}: a table "
      f"needs {', '.join(_COLUMNS)}; it has {', '.join(names) or 'none'}."
    )
