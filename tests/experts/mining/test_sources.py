# SPDX-License-Identifier: Apache-2.0
"""Sources of pictures, and what is wrong with them."""

import csv
import os
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from experts.mining import labels, sources
from experts.mining.sources import open_pages
from suti.io.files import fingerprint


def config_of(source, path="", **kw):
  return ConfigDict(
    {
      "source": source,
      "path": str(path),
      "num_pages": 100,
      "max_images": 10,
      "split": "train",
    }
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
    "backpack_dog",
    "",
  )
  assert dog.name == "dog2"
  assert [row.load()[0, 0, 0] for row in dog.rows] == [0, 1, 2]


def test_a_table_of_classes_names_the_class(folder):
  (folder / "prompts_and_classes.txt").write_text(
    "Classes\n\nsubject_name,class\nbackpack_dog,backpack\ndog2,dog\n\n"
    "Prompts\n\nlist = [\n'a {0}, b'\n]\n"
  )
  pages, _ = pages_of(config_of("folder", folder))
  assert [page.subject for page in pages] == ["backpack", "dog"]


def test_a_table_of_one_s_own_is_a_header_and_rows(folder, capsys):
  table = folder / "prompts_and_classes.txt"
  table.write_text("\ufeffsubject_name, class\nbackpack_dog, backpack\nrex,dog")
  pages, _ = pages_of(config_of("folder", folder))
  assert [page.subject for page in pages] == ["backpack", ""]
  assert capsys.readouterr().err.splitlines()[-1] == (
    f"{table}: 1 of 2 names have no folder of pictures: rex."
  )
  table.write_text("backpack_dog,backpack\n")
  assert error_of(config_of("folder", folder)) == (
    f"{table} has no line 'subject_name,class': expected one, and a row "
    "'FOLDER,NOUN' for each subject below it."
  )
  table.write_text("subject_name,class\ndog2,\n")
  assert error_of(config_of("folder", folder)) == (
    f"{table}, line 2 is 'dog2,': expected 'FOLDER,NOUN'."
  )


def test_files_that_are_not_read_are_named(folder, capsys, monkeypatch):
  monkeypatch.setattr("suti.io.image_files._opens_heif", lambda: False)
  (folder / "cat").mkdir()
  for number in range(3):
    (folder / "cat" / f"{number}.HEIC").write_bytes(b"x")
  pages, _ = pages_of(config_of("folder", folder))
  assert [page.url for page in pages] == ["backpack_dog", "dog2"]
  assert capsys.readouterr().err == (
    f"Folders in {folder} without pictures are no subjects: cat, empty.\n"
    f"config.mine.path='{folder}': 4 files are not read: 3 .heic (cat/0.HEIC, "
    "...; pip install pillow-heif, or convert to JPEG), 1 .txt (dog2/notes.txt)"
    ".\n"
  )
  line = error_of(config_of("folder", folder / "cat"))
  assert "has no pictures" in line and "3 .heic (0.HEIC, ...; pip" in line


def test_a_folder_of_pictures_is_one_page(folder):
  (page,), _ = pages_of(config_of("folder", folder / "dog2"))
  assert len(page.rows) == 3


def test_the_folder_one_stands_in_has_its_name(folder, monkeypatch):
  monkeypatch.chdir(folder / "dog2")
  (page,), _ = pages_of(config_of("folder", "."))
  assert page.url == page.name == "dog2"


def test_names_that_are_no_text_are_shown_as_one(tmp_path):
  # As disks keep them that were written in Latin-1.
  folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9_dog")
  save(pathlib.Path(folder) / os.fsdecode(b"\xe9t\xe9.png"))
  before = fingerprint(tmp_path)
  (page,), _ = pages_of(config_of("folder", tmp_path))
  assert page.url == "caf\ufffd_dog" and page.name == "caf\ufffd_dog"
  assert page.rows[0].load().shape == (64, 80, 3)
  # Masks are looked for by the same name.
  assert [*labels._files(tmp_path)] == [page.url]
  save(pathlib.Path(folder) / os.fsdecode(b"\xe8t\xe9.png"))
  assert fingerprint(tmp_path) != before


def test_a_name_that_is_too_long_is_one_picture_that_cannot_be_read(tmp_path):
  for name in ("b" * 300, "a\\" + "b" * 300):
    with pytest.raises(ValueError, match=r"give a JPEG, PNG or WebP file\.$"):
      sources._load_below(tmp_path, name)


def test_pages_that_a_config_leaves_out_are_counted_aloud(folder, capsys):
  (folder / "empty").rmdir()
  assert pages_of(config_of("folder", folder, num_pages=2))[1] == 2
  assert "leaves out" not in capsys.readouterr().err
  (page,), total = pages_of(config_of("folder", folder, num_pages=1))
  assert (page.url, total) == ("backpack_dog", 1)
  assert capsys.readouterr().err.splitlines(True)[-1] == (
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
  empty = write_table(folder / "e.csv", [])
  assert "has no rows" in error_of(config_of("table", empty))


def test_the_user_s_home_is_found(folder, monkeypatch):
  monkeypatch.setenv("HOME", str(folder))
  (page,), _ = pages_of(config_of("folder", "~/dog2"))
  assert page.name == "dog2"
  table = write_table(folder / "t.csv", [("u", "~/dog2/1.png", "")])
  (page,), _ = pages_of(config_of("table", "~/t.csv"))
  assert page.rows[0].load()[0, 0, 0] == 1
  assert table.exists()
  assert "'~nobody-here/x' does not exist" in error_of(
    config_of("folder", "~nobody-here/x")
  )


def test_rows_that_a_config_leaves_out_are_counted_and_not_held(folder, capsys):
  rows = [(f"u{i % 3}", "dog2/0.png", f"{i}") for i in range(30)]
  table = write_table(folder / "t.csv", rows)
  config = config_of("table", table, num_pages=2, max_images=2)
  (one, two), total = pages_of(config)
  assert total == 2
  assert [row.text for row in one.rows] == [str(3 * i) for i in range(8)]
  assert len(two.rows) == 8
  assert capsys.readouterr().err.splitlines() == [
    f"config.mine.num_pages=2 leaves out 10 rows of {table}, whose urls come"
    " after the first 2.",
    f"config.mine.max_images=2 leaves out 4 pictures of {table}: of a page the"
    " first 8 are opened.",
  ]


def test_pictures_of_a_folder_that_are_not_opened_are_counted(folder, capsys):
  for number in range(5):
    save(folder / "dog2" / f"{number}.png", level=number)
  (page,), _ = pages_of(config_of("folder", folder / "dog2", max_images=1))
  assert len(page.rows) == 4
  assert "leaves out 1 pictures of " in capsys.readouterr().err


def test_where_a_table_s_paths_begin(folder, tmp_path_factory):
  """In the table's folder; also as Windows writes them; not on the web."""
  far = tmp_path_factory.mktemp("far")
  save(far / "x.png", level=7)
  rows = [
    ("u", "dog2\\1.png", ""),
    ("u", str(far / "x.png"), ""),
    ("u", "http://x.test/1.png", ""),
    ("u", "s3://bucket/1.png", ""),
  ]
  (page,), _ = pages_of(config_of("table", write_table(folder / "t.csv", rows)))
  found = [row.load()[0, 0, 0] for row in page.rows[:2]]
  assert found == [1, 7]
  for row, scheme in zip(page.rows[2:], ("http://", "s3://"), strict=True):
    with pytest.raises(ValueError, match=rf"is an address \({scheme}\)"):
      row.load()
