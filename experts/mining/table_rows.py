# SPDX-License-Identifier: Apache-2.0
"""The rows of a table of pictures, and the checks that all formats share."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("url", "path", "text")


class TableRow(NamedTuple):
  """One picture. A tuple, as there are millions.

  Attributes:
    url: of the page where it was found.
    path: of its file, as in the table.
    text: its alt-text, "" if there is none.
  """

  url: str
  path: str
  text: str


def find_columns(part: Path, names: Sequence[str]) -> list[int]:
  """The indices of url, path and text among a table's columns."""
  folded = [name.strip().casefold() for name in names]
  missing = [column for column in COLUMNS if column not in folded]
  if missing:
    shown = ", ".join(repr(name[:40])[1:-1] for name in names[:10])
    raise ValueError(
      f"config.mine.path='{part}' has no column {', '.join(missing)}: a table "
      f"needs {', '.join(COLUMNS)}; it has {shown or 'none'}."
    )
  for column in COLUMNS:
    if folded.count(column) > 1:
      raise ValueError(
        f"config.mine.path='{part}' has {folded.count(column)} columns named"
        f" {column}: leave one."
      )
  return [folded.index(column) for column in COLUMNS]


def flaw_of(row: TableRow) -> str:
  """What a row lacks, as the rest of a sentence; "" if nothing."""
  if not row.url.strip():
    return (
      "has no url: pictures of one url are taken for one page; give each row"
      " its own, or leave it out."
    )
  if not row.path.strip():
    return "has no path: give the path of its picture, or leave the row out."
  return ""
