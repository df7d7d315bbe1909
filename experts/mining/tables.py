# SPDX-License-Identifier: Apache-2.0
"""Reads a table of pictures: a Parquet or CSV file, or a folder of parts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from experts.mining import csv_tables, parquet_tables
from experts.mining.table_rows import TableRow
from suti.io.folders import is_hidden
from suti.runtime.progress import say

MAX_ROWS = 100_000_000
_MANY_ROWS = 1_000_000  # above this, reading prints a message


def folder_of(path: Path) -> Path:
  """The folder to which a table's paths are relative: that of the table."""
  return path if path.is_dir() else path.parent


def read_table(path: Path) -> Iterator[TableRow]:
  """Reads a table row by row.

  Args:
    path: its file, of any name, or a folder of part-*.parquet or part-*.csv.

  Raises:
    ValueError: no table, a column is missing, or a row is malformed: names the
      file, the row and the reason.
  """
  parts = _parts(path)
  readers = [
    parquet_tables if parquet_tables.is_one(part) else csv_tables
    for part in parts
  ]
  if csv_tables not in readers:
    _check_size(path, parts)
  count = 0
  for part, reader in zip(parts, readers, strict=True):
    for row in reader.read(part):
      count += 1
      if count > MAX_ROWS:
        raise _too_many(path, "more")
      yield row


def _check_size(path: Path, parts: Sequence[Path]) -> None:
  """Checks the number of rows before any is read."""
  rows = sum(parquet_tables.count_rows(part) for part in parts)
  if rows > MAX_ROWS:
    raise _too_many(path, f"{rows:,}")
  if rows > _MANY_ROWS:
    say(f"Reading the {rows:,} rows of {path}.")


def _too_many(path: Path, rows: str) -> ValueError:
  return ValueError(
    f"config.mine.path='{path}' has {rows} rows, and at most {MAX_ROWS:,} are"
    " read in one run: split the table, each url in one part, and give each"
    " part its own --workdir."
  )


def _parts(path: Path) -> list[Path]:
  """The files of a table, by name."""
  if not path.is_dir():
    return [path]
  files = [
    file
    for file in sorted(path.iterdir())
    # Spark leaves _SUCCESS and _metadata beside its parts.
    if not file.name.startswith(("_", ".")) and not file.is_dir()
  ]
  tables = (*parquet_tables.ENDINGS, *csv_tables.ENDINGS)
  for endings in (parquet_tables.ENDINGS, csv_tables.ENDINGS):
    parts = [file for file in files if file.suffix.lower() in endings]
    for file in files if parts else ():
      is_table = file.suffix.lower() in tables or file.name.startswith("part-")
      if file not in parts and is_table:
        raise ValueError(
          f"config.mine.path='{path}' is a folder of a table's parts, of which"
          f" {file.name} cannot be read beside {parts[0].name}: give a folder"
          " of Parquet parts alone, or of CSV parts alone."
        )
    if parts:
      return parts
  deeper = [
    f"{folder.name}/{file.name}"
    for folder in sorted(path.iterdir())
    if folder.is_dir() and not is_hidden(folder.name)
    for file in sorted(folder.iterdir())
    if file.suffix.lower() in tables
  ]
  where = f" ({deeper[0]} lies deeper than they are read)" if deeper else ""
  raise ValueError(
    f"config.mine.path='{path}' has no parts of a table{where}: give a Parquet"
    " or CSV file, or the folder that its parts, part-0.parquet or part-0.csv,"
    " are in."
  )
