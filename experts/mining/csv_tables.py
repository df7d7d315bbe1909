# SPDX-License-Identifier: Apache-2.0
"""Reads the rows of a CSV table, strictly.

Columns are separated by commas, semicolons, tabs or bars, whichever gives the
needed columns; the text is UTF-8, or UTF-16 as spreadsheets save it. A row that
does not match the header is an error with its number: its meaning could only be
guessed, and a wrong guess gives texts to other pictures, or reads rows as text.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from experts.mining.table_rows import COLUMNS, TableRow, find_columns, flaw_of

ENDINGS = (".csv", ".tsv")

_MAX_LINE = 2**20  # characters
_SEPARATORS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}


def read(part: Path) -> Iterator[TableRow]:
  """Reads a file row by row; raises a ValueError that names a bad row."""
  with part.open("rb") as opened:
    start = opened.read(4)
  utf16 = start[:2] in (b"\xff\xfe", b"\xfe\xff")
  # Bytes that are not UTF-8 are kept, marked, until their row is known.
  encoding, errors = (
    ("utf-16", "strict") if utf16 else ("utf-8-sig", "surrogateescape")
  )
  try:
    with part.open(newline="", encoding=encoding, errors=errors) as file:
      separator = _separator(part, file.readline(_MAX_LINE), start)
      file.seek(0)
      yield from _rows(part, file, separator)
  except UnicodeDecodeError as error:
    raise ValueError(
      f"config.mine.path='{part}' is not a CSV table in UTF-16"
      f" ({error.reason}): save it as UTF-8."
    ) from error


def _separator(part: Path, header: str, start: bytes) -> str:
  """The separator with which the header has the needed columns."""
  if "\0" in header or not _is_text(header):
    what = {
      b"PK\x03\x04": "a workbook or an archive: save it as CSV",
      b"\x1f\x8b": "compressed: unpack it",
      b"ARRO": "an Arrow file: save it as Parquet",
    }
    kind = next((w for m, w in what.items() if start.startswith(m)), "")
    raise ValueError(
      f"config.mine.path='{part}' is not a CSV table in UTF-8"
      + (f" but {kind}." if kind else ", nor Parquet: save it as one of them.")
    )
  split = {s: _split(header, s) for s in _SEPARATORS}
  for separator, names in split.items():
    if {name.strip().casefold() for name in names}.issuperset(COLUMNS):
      return separator
  # If none does: the one with the most columns.
  return max(split, key=lambda separator: len(split[separator]))


def _split(line: str, separator: str) -> list[str]:
  """The columns of a line, parsed by itself."""
  try:
    return next(csv.reader([line.rstrip("\r\n")], delimiter=separator), [])
  except csv.Error:
    return []


def _rows(part: Path, file: TextIO, separator: str) -> Iterator[TableRow]:
  reader = csv.reader(_lines(part, file), delimiter=separator, strict=True)
  number, columns, width = 0, [0], 0
  while True:
    line, flaw = reader.line_num + 1, ""
    cells: list[str] = []
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      flaw = _reason(error)
    if not cells and not flaw:  # an empty line
      continue
    if not width and not flaw:
      columns, width = find_columns(part, cells), len(cells)
      continue
    number += 1
    flaw = flaw or _flaw(cells, columns, width=width, separator=separator)
    if not flaw:
      row = TableRow(*(cells[column] for column in columns))
      flaw = flaw_of(row)
    if flaw:
      name = (
        f"Row {number} (line {line})" if width else f"The header (line {line})"
      )
      raise ValueError(f"{name} of config.mine.path='{part}' {flaw}")
    yield row


def _lines(part: Path, file: TextIO) -> Iterator[str]:
  """The lines of a file, of bounded length."""
  number = 0
  while line := file.readline(_MAX_LINE):
    number += 1
    if len(line) == _MAX_LINE and line[-1] not in "\r\n":
      raise ValueError(
        f"Line {number} of config.mine.path='{part}' is longer than {_MAX_LINE}"
        " characters: give a table with a line for each picture."
      )
    yield line


def _reason(error: csv.Error) -> str:
  """The csv module's error as a message for the author of the table."""
  text = str(error)
  if "unexpected end" in text:
    return (
      'begins a text with a quote (") that is never closed: close it, or write'
      ' quotes inside of a quoted text as "".'
    )
  if "field limit" in text:
    return (
      f"has a text of more than {csv.field_size_limit()} characters, as after a"
      ' quote (") that is not closed: close it.'
    )
  if "expected after" in text:
    return (
      'goes on after the quote (") that closes a text, as if one before it were'
      ' not closed: close it, or write quotes inside of a quoted text as "".'
    )
  return f"is malformed ({text}): write it as the others."


def _flaw(
  cells: Sequence[str], columns: Sequence[int], *, width: int, separator: str
) -> str:
  """The error of a row that does not match the header, or swallowed others."""
  if len(cells) != width:
    remedy = f"put a text that has {_SEPARATORS[separator]} in it in quotes."
    if len(cells) < width:
      remedy = "give each, empty where there is nothing."
    return f"has {len(cells)} columns, the header {width}: {remedy}"
  whole = "".join(cells)
  if not _is_text(whole):
    return "is not UTF-8: save the table as UTF-8."
  if not _breaks(whole):
    return ""
  url, path, _ = columns
  for name, cell in (("url", cells[url]), ("path", cells[path])):
    if _breaks(cell):
      return (
        f'has a line break in {name}, as after a quote (") that is not closed:'
        " close it."
      )
  for cell in cells:
    for line in cell.splitlines() if _breaks(cell) else ():
      found = _split(line, separator)
      if len(found) == width and _is_row(found[url], found[path]):
        return (
          'has a text in quotes (") that goes on over what is a row itself,'
          f" {line.strip()[:60]!r}: close the quote before it."
        )
  return ""


def _breaks(cell: str) -> bool:
  return "\n" in cell or "\r" in cell


def _is_row(url: str, path: str) -> bool:
  """Whether a line inside of a text has a URL and a file's path in it."""
  # In a sentence with as many commas, these are followed by spaces.
  return bool(re.fullmatch(r"\S+", url) and re.fullmatch(r"\S*[./]\S+", path))


def _is_text(text: str) -> bool:
  """Whether all of it could be decoded."""
  if text.isascii():
    return True
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True
