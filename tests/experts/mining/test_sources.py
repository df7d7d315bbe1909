# SPDX-License-Identifier: Apache-2.0
"""Sources of pictures, and what is wrong with them."""

import csv
import os
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from experts.mining.sources import open_pages
from suti.io.files import fingerprint


def config_of(source, path="", **kw):
  return ConfigDict(
    {"source": source, "path": str(path), "num_pages": 100, "split": "train"}
    | kw
  )


def pages_of(config, **kw):
  pages, total = open_pages(config, seed=0, size_px=16, **kw)
  return list(pages), total


def save(path, *, level=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((64, 80, 3), level, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
  for name in ("backpack_dog", "dog2"):
    for number in range(3):
      save(tmp_path / name / f"{number}.png", level=number)
  (tmp_path / "dog2" / "notes.txt").write_text("not a picture")
  (tmp_path / "empty").mkdir()
  return tmp_path


def test_a_folder_of_folders(folder):
  (backpack, dog), total = pages_of(config_of("folder", folder))
  assert total == 2
  assert (backpack.url, backpack.name, backpack.subject) == (
    "backpack_dog",
    "backpack dog",
    "",
  )
  assert dog.name == "dog"
  assert [row.load()[0, 0, 0] for row in dog.rows] == [0, 1, 2]


def test_a_table_of_classes_names_the_class(folder):
  (folder / "prompts_and_classes.txt").write_text(
    "Classes\n\nsubject_name,class\nbackpack_dog,backpack\ndog2,dog\n\n"
    "Prompts\n\nlist = [\n'a {0}, b'\n]\n"
  )
  pages, _ = pages_of(config_of("folder", folder))
  assert [page.subject for page in pages] == ["backpack", "dog"]


def test_a_folder_of_pictures_is_one_page(folder):
  (page,), _ = pages_of(config_of("folder", folder / "dog2"))
  assert len(page.rows) == 3


def test_names_that_are_no_text_are_shown_as_one(tmp_path):
  # As disks keep them that were written in Latin-1.
  folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9_dog")
  save(pathlib.Path(folder) / os.fsdecode(b"\xe9t\xe9.png"))
  before = fingerprint(tmp_path)
  (page,), _ = pages_of(config_of("folder", tmp_path))
  assert page.url == "caf\ufffd_dog" and page.name == "caf\ufffd dog"
  assert page.rows[0].load().shape == (64, 80, 3)
  save(pathlib.Path(folder) / os.fsdecode(b"\xe8t\xe9.png"))
  assert fingerprint(tmp_path) != before


def test_pages_that_a_config_leaves_out_are_counted_aloud(folder, capsys):
  assert pages_of(config_of("folder", folder, num_pages=2))[1] == 2
  assert not capsys.readouterr().err
  (page,), total = pages_of(config_of("folder", folder, num_pages=1))
  assert (page.url, total) == ("backpack_dog", 1)
  assert capsys.readouterr().err == (
    "config.mine.num_pages=1 leaves out the last 1 of the 2 pages of "
    f"{folder}.\n"
  )


def test_start_leaves_pages_out(folder):
  (page,), total = pages_of(config_of("folder", folder), start=1)
  assert (page.url, total) == ("dog2", 2)


def write_table(path, rows, names=("url", "path", "text")):
  with path.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(names)
    writer.writerows(rows)
  return path


ROWS = [
  ("u1", "dog2/0.png", "a dog"),
  ("u2", "dog2/1.png", "x"),
  ("u1", "dog2/2.png", "a dog, twice"),
]


def test_a_csv_table_is_grouped_by_url(folder):
  table = write_table(folder / "t.csv", ROWS)
  (one, two), _ = pages_of(config_of("table", table))
  assert (one.url, two.url) == ("u1", "u2")
  assert [row.text for row in one.rows] == ["a dog", "a dog, twice"]
  assert one.rows[1].load()[0, 0, 0] == 2
  assert not one.chosen


def test_a_parquet_table_is_the_same(folder):
  arrow = pytest.importorskip("pyarrow")
  import pyarrow.parquet

  urls, paths, texts = map(list, zip(*ROWS, strict=True))
  table = folder / "t.parquet"
  pyarrow.parquet.write_table(
    arrow.table({"url": urls, "path": paths, "text": texts}), table
  )
  parquet, _ = pages_of(config_of("table", table))
  as_csv, _ = pages_of(config_of("table", write_table(folder / "t.csv", ROWS)))
  assert [[r.text for r in page.rows] for page in parquet] == [
    [r.text for r in page.rows] for page in as_csv
  ]


def test_a_parquet_table_of_other_types(folder):
  """Categories and empty columns are text; numbers are named."""
  arrow = pytest.importorskip("pyarrow")
  import pyarrow.parquet

  urls, paths, texts = map(list, zip(*ROWS, strict=True))
  table = folder / "t.parquet"
  columns = {
    "url": arrow.array(urls).dictionary_encode(),
    "path": paths,
    "text": arrow.nulls(len(texts)),
  }
  pyarrow.parquet.write_table(arrow.table(columns), table)
  pages, _ = pages_of(config_of("table", table))
  assert [page.url for page in pages] == list(dict.fromkeys(urls))
  columns["text"] = list(range(len(texts)))
  pyarrow.parquet.write_table(arrow.table(columns), table)
  with pytest.raises(ValueError, match=r"has int64 in column text"):
    pages_of(config_of("table", table))


def error_of(config):
  with pytest.raises(ValueError) as caught:
    pages_of(config)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_mistakes_are_one_line(folder, monkeypatch):
  assert "does not exist: give a folder" in error_of(
    config_of("folder", folder / "nowhere")
  )
  assert "has no pictures" in error_of(config_of("folder", folder / "empty"))
  assert "is a file" in error_of(config_of("folder", folder / "dog2" / "0.png"))
  table = write_table(folder / "t.csv", ROWS, names=("url", "file", "text"))
  assert "has no column path" in error_of(config_of("table", table))
  table = write_table(folder / "u.csv", [*ROWS[:1], ("", "dog2/0.png", "dog")])
  line = error_of(config_of("table", table))
  assert line.startswith("Row 2 of ") and "has no url: pictures of one url" in (
    line
  )
  empty = write_table(folder / "e.csv", [])
  assert "has no rows" in error_of(config_of("table", empty))
  (folder / "b.csv").write_bytes(b"url,path,text\n\xff\xfe\xff,1,2\n")
  assert "not a CSV table" in error_of(config_of("table", folder / "b.csv"))
  (folder / "b.parquet").write_bytes(b"no parquet")
  monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
  assert "needs pyarrow: pip install pyarrow" in error_of(
    config_of("table", folder / "b.parquet")
  )


def test_a_damaged_parquet_table_is_one_line(tmp_path):
  pytest.importorskip("pyarrow")
  (tmp_path / "b.parquet").write_bytes(b"no parquet")
  assert "not a readable Parquet table" in error_of(
    config_of("table", tmp_path / "b.parquet")
  )
