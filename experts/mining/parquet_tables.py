# SPDX-License-Identifier: Apache-2.0
"""Reads the rows of a Parquet table, with text in any column type."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experts.mining.table_rows import TableRow, find_columns, flaw_of

ENDINGS = (".parquet", ".pq", ".parq")


def is_one(part: Path) -> bool:
  """Whether a file is Parquet, by its name or its first bytes."""
  if part.suffix.lower() in ENDINGS:
    return True
  with part.open("rb") as file:
    return file.read(4) == b"PAR1"


def count_rows(part: Path) -> int:
  """The number of rows by a file's metadata; none is read."""
  with _open(part) as table:
    return table.metadata.num_rows


def _open(part: Path) -> Any:
  try:
    import pyarrow.parquet
  except ImportError as error:
    raise ValueError(
      f"Reading config.mine.path='{part}' needs pyarrow: pip install pyarrow, "
      "or give the table as CSV."
    ) from error
  try:
    return pyarrow.parquet.ParquetFile(part)
  except (pyarrow.ArrowException, OSError) as error:
    raise _unreadable(part, error) from error


def _unreadable(part: Path, error: Exception) -> ValueError:
  reason = " ".join(str(error).split())
  return ValueError(
    f"config.mine.path='{part}' is not a readable Parquet table ({reason})."
  )


def read(part: Path) -> Iterator[TableRow]:
  """Reads a file row by row; raises a ValueError that names a bad row."""
  number = 0
  with _open(part) as table:
    import pyarrow

    schema = table.schema_arrow
    names = [schema.names[i] for i in find_columns(part, schema.names)]
    for name in names:
      _check_type(part, name, schema.field(name).type)
    try:
      for batch in table.iter_batches(columns=names):
        columns = [_texts(part, batch, name, number) for name in names]
        for values in zip(*columns, strict=True):
          number += 1
          row = TableRow(*values)
          if flaw := flaw_of(row):
            raise ValueError(
              f"Row {number} of config.mine.path='{part}' {flaw}"
            )
          yield row
    except (pyarrow.ArrowException, OSError) as error:
      raise _unreadable(part, error) from error


def _check_type(part: Path, name: str, kind: Any) -> None:
  """Refuses a column whose type does not store text."""
  from pyarrow import types

  if types.is_dictionary(kind):  # categories of pandas and polars
    kind = kind.value_type
  # Old writers leave text unmarked.
  for is_text in (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_binary,
    types.is_large_binary,
    types.is_binary_view,
    types.is_null,
  ):
    if is_text(kind):
      return
  raise ValueError(
    f"config.mine.path='{part}' has {kind} in column {name}: a table needs text"
    " there."
  )


def _texts(part: Path, batch: Any, name: str, before: int) -> list[str]:
  """A column's texts, "" where there is none."""
  column = batch.column(name)
  if hasattr(column, "dictionary_decode"):
    column = column.dictionary_decode()  # access by item is slow
  try:
    values = column.to_pylist()
    return [v.decode() if isinstance(v, bytes) else v or "" for v in values]
  except UnicodeDecodeError as error:
    row = before + 1
    for value in column:
      try:
        text = value.as_py()
        if isinstance(text, bytes):
          text.decode()
      except UnicodeDecodeError:
        break
      row += 1
    raise ValueError(
      f"Row {row} of config.mine.path='{part}' is not UTF-8 in column {name}:"
      " save the table as UTF-8."
    ) from error
