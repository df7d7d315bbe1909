# SPDX-License-Identifier: Apache-2.0
"""Tables as people have them: what is read, and what stops with its row."""

import csv
import itertools
import sys

import pytest

from experts.mining import tables
from experts.mining.tables import folder_of, read_table

ROWS = [
  ("u1", "a/0.jpg", "a dog"),
  ("u2", "a/1.jpg", ""),
  ("u1", "a/2.jpg", 'süß, "quoted"; a|b\tc'),
]
NAMES = ("url", "path", "text")


def write(path, rows=ROWS, *, names=NAMES, encoding="utf-8", **how):
  with path.open("w", newline="", encoding=encoding) as file:
    csv.writer(file, **how).writerows([names, *rows])
  return path


def rows_of(path):
  return [tuple(row) for row in read_table(path)]


def error_of(path):
  with pytest.raises(ValueError) as caught:
    rows_of(path)
  line = str(caught.value)
  assert "\n" not in line and str(path) in line
  return line


# --- CSV ---------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_encodings_and_ends_of_lines(
  tmp_path, separator, encoding, end
):
  path = write(
    tmp_path / "t.csv",
    encoding=encoding,
    delimiter=separator,
    lineterminator=end,
  )
  assert rows_of(path) == ROWS


@pytest.mark.parametrize(
  "names", [("URL", "PATH", "TEXT"), (" Url", "Path ", "text")]
)
def test_columns_are_found_by_name_in_any_order(tmp_path, names):
  rows = [(text, 3, url, path) for url, path, text in ROWS]
  header = (names[2], "width", names[0], names[1])
  assert rows_of(write(tmp_path / "t.tsv", rows, names=header)) == ROWS
  with pytest.raises(ValueError, match="has 2 columns named url: leave one"):
    rows_of(write(tmp_path / "u.csv", names=("url", "URL", "path", "text")))
  assert error_of(write(tmp_path / "v.csv", names=("url", "f", "text"))) == (
    f"config.mine.path='{tmp_path / 'v.csv'}' has no column path: a table needs"
    " url, path, text; it has url, f, text."
  )


def written(tmp_path, *lines):
  path = tmp_path / "t.csv"
  path.write_text("\n".join(["url,path,text", *lines, ""]))
  return path


GOOD = "u,a/1.jpg,a dog"


@pytest.mark.parametrize(
  ("lines", "row", "words"),
  [
    # To the end of the file.
    ([GOOD, 'u,a/2.jpg,"Rex, a dog', GOOD], 2, "quote .* that is never closed"),
    # To the next text in quotes.
    (
      [GOOD, 'u,a/2.jpg,"Rex', GOOD, 'u,a/4.jpg,"a dog"'],
      2,
      "goes on after the quote",
    ),
    # To an inch, which closes it in a way that is well formed.
    (
      ['u,a/1.jpg,"Rex', GOOD, GOOD, 'u,a/4.jpg,a 12"'],
      1,
      "goes on over what is a row itself, 'u,a/1.jpg,a dog'",
    ),
    (['"u,a/1.jpg,x', 'u,a/2.jpg,x"y,a/3.jpg,z'], 1, "goes on after the quote"),
    (['"u', 'u",a/3.jpg,z'], 1, "has a line break in url"),
    (
      [GOOD, GOOD, "u,a/1.jpg,a dog, in snow"],
      3,
      "has 4 columns, the header 3",
    ),
    ([GOOD, "", "u,a/1.jpg"], 2, "has 2 columns, the header 3: give each"),
    ([GOOD, "u,,a dog"], 2, "has no path"),
    ([GOOD, " ,a.jpg,a dog"], 2, "has no url: pictures of one url are taken"),
    ([GOOD, f'u,a/2.jpg,"{"x" * 200_000}'], 2, "more than 131072 characters"),
  ],
)
def test_a_malformed_row_is_named(tmp_path, lines, row, words):
  path = written(tmp_path, *lines)
  line = error_of(path)
  assert line.startswith(f"Row {row} (line ")
  assert f") of config.mine.path='{path}' " in line
  with pytest.raises(ValueError, match=words):
    rows_of(path)
  # The row's number is not its line's where others have several.
  if lines[1:2] == [""]:
    assert line.startswith("Row 2 (line 4)")


def test_a_text_may_have_lines_of_its_own(tmp_path):
  text = "a dog,\nrunning, jumping, playing\nand, then, so"
  path = write(tmp_path / "t.csv", [("u", "a.jpg", text)])
  assert rows_of(path) == [("u", "a.jpg", text)]


def test_a_row_in_another_encoding_is_named(tmp_path):
  path = tmp_path / "t.csv"
  content = "url,path,text\nu,a.jpg,a\nu,b.jpg,süß\n".encode("latin-1")
  path.write_bytes(content)
  assert error_of(path) == (
    f"Row 2 (line 3) of config.mine.path='{path}' is not UTF-8: save the table"
    " as UTF-8."
  )
  path.write_bytes("url,path,text\n".encode("utf-16") + b"\x00\xd8\x00")
  assert "is not a CSV table in UTF-16" in error_of(path)


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"PK\x03\x04\x14\x00\x06\x00", "a workbook or an archive: save it as CSV"),
    (b"\x1f\x8b\x08\x00\x00", "compressed: unpack it"),
    (b"ARROW1\x00\x00", "an Arrow file: save it as Parquet"),
    (b"\xff\xd8\xff\xe0\x00\x10JFIF", "nor Parquet: save it as one of them"),
    (b'{"url": "u", "path": "p"}\n', "has no column url, path, text"),
  ],
)
def test_other_files_are_one_line(tmp_path, content, words):
  (tmp_path / "t.csv").write_bytes(content)
  assert words in error_of(tmp_path / "t.csv")


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch):
  path = tmp_path / "t.csv"
  path.write_text("url,path,text\n" + "x" * 3_000_000)
  assert "Line 2 of " in error_of(path) and "longer than" in error_of(path)
  (tmp_path / "u.csv").write_text("x" * 3_000_000)
  assert "longer than 1048576 characters" in error_of(tmp_path / "u.csv")


# --- Parquet -----------------------------------------------------------------


def arrow_table(kind=None, names=NAMES):
  arrow = pytest.importorskip("pyarrow")
  columns = zip(*ROWS, strict=True)
  return arrow.table(
    {
      name: arrow.array(list(column), type=kind and kind(arrow))
      for name, column in zip(names, columns, strict=True)
    }
  )


def write_parquet(path, table=None, **how):
  parquet = pytest.importorskip("pyarrow.parquet")
  parquet.write_table(arrow_table() if table is None else table, path, **how)
  return path


@pytest.mark.parametrize("version", ["1.0", "2.4", "2.6"])
@pytest.mark.parametrize("page", ["1.0", "2.0"])
@pytest.mark.parametrize(
  "compression", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]
)
@pytest.mark.parametrize("dictionary", [True, False])
def test_what_pyarrow_writes_is_read(
  tmp_path, version, page, compression, dictionary
):
  path = write_parquet(
    tmp_path / "t.parquet",
    version=version,
    data_page_version=page,
    compression=compression,
    use_dictionary=dictionary,
    store_schema=dictionary,
  )
  assert rows_of(path) == ROWS


@pytest.mark.parametrize(
  "kind",
  [
    lambda arrow: arrow.string(),
    lambda arrow: arrow.large_string(),
    lambda arrow: arrow.string_view(),
    lambda arrow: arrow.binary(),
    lambda arrow: arrow.large_binary(),
    lambda arrow: arrow.binary_view(),
    lambda arrow: arrow.dictionary(arrow.int8(), arrow.string()),
    lambda arrow: arrow.dictionary(arrow.int32(), arrow.large_string()),
  ],
)
def test_text_of_any_type_is_read(tmp_path, kind):
  table = arrow_table(kind, names=("URL", "Path", "TEXT"))
  assert rows_of(write_parquet(tmp_path / "t.pq", table)) == ROWS
  # A name says less than what a file begins with.
  assert rows_of((tmp_path / "t.pq").rename(tmp_path / "t.data")) == ROWS


def test_what_polars_writes_is_read(tmp_path):
  polars = pytest.importorskip("polars", reason="polars is not installed")
  pytest.importorskip("pyarrow")
  path = tmp_path / "t.parquet"
  text = polars.DataFrame(ROWS, schema=NAMES, orient="row")
  compressions = ("uncompressed", "snappy", "gzip", "brotli", "lz4", "zstd")
  for compression, kind, pyarrow in itertools.product(
    compressions, ("String", "Categorical", "Binary"), (False, True)
  ):
    text.cast(getattr(polars, kind)).write_parquet(
      path, compression=compression, use_pyarrow=pyarrow, row_group_size=2
    )
    assert rows_of(path) == ROWS, (compression, kind, pyarrow)
  text.write_csv(tmp_path / "t.csv")
  assert rows_of(tmp_path / "t.csv") == ROWS


def test_a_malformed_parquet_row_is_named(tmp_path):
  arrow = pytest.importorskip("pyarrow")
  columns = {"url": ["u"] * 3, "path": ["a", "b", None], "text": [None] * 3}
  path = write_parquet(tmp_path / "t.parquet", arrow.table(columns))
  assert error_of(path).startswith(f"Row 3 of config.mine.path='{path}' has no")
  latin = "süß".encode("latin-1")
  for kind in (arrow.binary(), arrow.string()):
    text = arrow.array([b"a", latin, None], type=arrow.binary())
    text = text if kind == arrow.binary() else text.view(kind)
    table = arrow.table(columns | {"path": ["a", "b", "c"], "text": text})
    line = error_of(write_parquet(path, table))
    assert line == (
      f"Row 2 of config.mine.path='{path}' is not UTF-8 in column text: save"
      " the table as UTF-8."
    )
  table = arrow.table(columns | {"path": ["a", "b", "c"], "text": [1, 2, 3]})
  assert "has int64 in column text: a table needs text there" in error_of(
    write_parquet(path, table)
  )
  assert "has no column url, path" in error_of(
    write_parquet(path, arrow.table({"text": ["a"]}))
  )


def test_a_damaged_parquet_table_is_one_line(tmp_path, monkeypatch):
  pytest.importorskip("pyarrow")
  path = tmp_path / "b.parquet"
  path.write_bytes(b"no parquet")
  assert "is not a readable Parquet table" in error_of(path)
  write_parquet(path)
  content = bytearray(path.read_bytes())
  content[4:60] = b"\xff" * 56
  path.write_bytes(content)
  assert "is not a readable Parquet table" in error_of(path)
  path.write_bytes(content[:100])
  assert "is not a readable Parquet table" in error_of(path)
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  assert "needs pyarrow: pip install pyarrow" in error_of(path)


def test_absurdly_many_rows_are_refused_before_they_are_read(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(tables, "MAX_ROWS", 5)
  monkeypatch.setattr(tables, "_MANY_ROWS", 2)
  path = write_parquet(tmp_path / "t.parquet")
  assert rows_of(path) == ROWS
  assert capsys.readouterr().err == f"Reading the 3 rows of {path}.\n"
  folder = tmp_path / "parts"
  folder.mkdir()
  for name in ("part-0.parquet", "part-1.parquet"):
    write_parquet(folder / name)
  assert error_of(folder) == (
    f"config.mine.path='{folder}' has 6 rows, and at most 5 are read in one"
    " run: split the table, each url in one part, and give each part its own"
    " --workdir."
  )
  # Of CSV nobody knows how many there are.
  assert "has more rows" in error_of(write(tmp_path / "t.csv", 2 * ROWS))


# --- Parts -------------------------------------------------------------------


def test_parts_in_a_folder_are_one_table(tmp_path):
  folder = tmp_path / "web.parquet"  # as Spark names it
  folder.mkdir()
  for number in range(len(ROWS)):
    part = folder / f"part-{number}.snappy.parquet"
    write_parquet(part, arrow_table().slice(number, 1))
  for name in ("_SUCCESS", "_metadata", ".part-0.parquet.crc", "0.jpg"):
    (folder / name).write_bytes(b"")
  (folder / "images").mkdir()
  assert rows_of(folder) == ROWS
  assert folder_of(folder) == folder
  write(folder / "more.csv")
  assert "more.csv cannot be read beside part-0" in error_of(folder)


def test_csv_parts_have_a_header_each_and_a_bad_one_is_named(tmp_path):
  folder = tmp_path / "parts"
  folder.mkdir()
  write(folder / "a.csv", ROWS[:2])
  write(folder / "b.tsv", ROWS[2:], names=NAMES, delimiter="\t")
  assert rows_of(folder) == ROWS
  assert folder_of(folder / "a.csv") == folder
  write(folder / "c.csv", [(*ROWS[0], "more")])
  assert f"Row 1 (line 2) of config.mine.path='{folder / 'c.csv'}' has 4" in (
    error_of(folder)
  )
  (folder / "part-9.csv.gz").write_bytes(b"")
  assert "part-9.csv.gz cannot be read beside a.csv" in error_of(folder)


def test_a_folder_without_parts_is_one_line(tmp_path):
  assert "has no parts of a table: give a Parquet or CSV file" in error_of(
    tmp_path
  )
  (tmp_path / "year=2020").mkdir()
  write(tmp_path / "year=2020" / "part-0.csv")
  assert "(year=2020/part-0.csv lies deeper than they are read)" in error_of(
    tmp_path
  )
