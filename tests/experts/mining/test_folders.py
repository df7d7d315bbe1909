# SPDX-License-Identifier: Apache-2.0
"""Folders of subject folders: what is a subject, and what is only named."""

import os

import pytest

from experts.mining.folders import find_subjects


def fill(folder, *names):
  folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    (folder / name).write_bytes(b"")


def subjects_of(path):
  return find_subjects(path)


def names_of(path):
  return [
    (subject.folder.name, [file.name for file in subject.files])
    for subject in subjects_of(path)
  ]


def error_of(path):
  with pytest.raises(ValueError) as caught:
    subjects_of(path)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_subjects_are_folders_of_pictures(tmp_path, capsys):
  fill(tmp_path / "dog", "1.JPG", "0.png", ".hidden.png", "notes.md")
  fill(tmp_path / "cat", "0.jpg")
  fill(tmp_path, "loose.png")
  assert names_of(tmp_path) == [
    (tmp_path.name, ["loose.png"]),
    ("cat", ["0.jpg"]),
    ("dog", ["0.png", "1.JPG"]),
  ]
  assert names_of(tmp_path / "dog") == [("dog", ["0.png", "1.JPG"])]
  first, second = capsys.readouterr().err.splitlines()
  assert first == (
    f"config.mine.path='{tmp_path}': 2 files are not read: 1 .md"
    " (dog/notes.md), 1 hidden (dog/.hidden.png)."
  )
  assert "2 files are not read: 1 .md (notes.md), 1 hidden" in second


@pytest.mark.parametrize(
  "name",
  [
    ".thumbnails",
    ".ipynb_checkpoints",
    ".git",
    "@eaDir",
    "@Recycle",
    "#recycle",
    "__MACOSX",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
  ],
)
def test_folders_of_systems_are_no_subjects_and_named(tmp_path, capsys, name):
  fill(tmp_path / "dog", "0.jpg")
  fill(tmp_path / name, "0.jpg")
  fill(tmp_path / "dog" / name, "0.jpg")
  fill(tmp_path / name / "deeper", "0.jpg")
  assert names_of(tmp_path) == [("dog", ["0.jpg"])]
  assert capsys.readouterr().err == (
    f"Hidden and system folders in {tmp_path} are no subjects: {name} (2).\n"
  )
  # One's own folder may have any name.
  assert names_of(tmp_path / name)[0] == (name, ["0.jpg"])


def test_pictures_that_lie_deeper_and_empty_folders_are_named(tmp_path, capsys):
  fill(tmp_path / "dog", "0.jpg")
  fill(tmp_path / "dog" / "2021", "0.jpg", "1.jpg")
  fill(tmp_path / "train" / "cat" / "raw", "0.jpg")
  fill(tmp_path / "nothing", "notes.txt")
  assert names_of(tmp_path) == [("dog", ["0.jpg"])]
  assert capsys.readouterr().err.splitlines() == [
    f"3 pictures in {tmp_path} lie deeper than in a subject's folder and are"
    " not read: dog/2021 (2), train/cat/raw (1); move them up if they belong to"
    " it.",
    f"Folders in {tmp_path} without pictures are no subjects: nothing.",
    f"config.mine.path='{tmp_path}': 1 file is not read: 1 .txt"
    " (nothing/notes.txt).",
  ]


def test_a_long_list_ends(tmp_path, capsys):
  fill(tmp_path / "dog", "0.jpg")
  for number in range(12):
    (tmp_path / f"empty{number:02d}").mkdir()
  subjects_of(tmp_path)
  assert capsys.readouterr().err.endswith("empty06, empty07 and 4 more.\n")


def test_pictures_that_all_lie_too_deep_are_one_line(tmp_path):
  fill(tmp_path / "photos" / "dog", "0.jpg", "1.jpg")
  fill(tmp_path / "photos" / "cat", "0.jpg")
  path = tmp_path / "photos"
  assert error_of(tmp_path) == (
    f"config.mine.path='{tmp_path}' has its pictures deeper than they are read,"
    f" such as the 1 in photos/cat: give {path} if each folder there is one"
    " subject, or move them up."
  )
  (tmp_path / "empty").mkdir()
  assert "has no pictures: give a folder" in error_of(tmp_path / "empty")


def test_folders_that_are_links_are_subjects(tmp_path):
  fill(tmp_path / "far" / "rex", "0.jpg")
  fill(tmp_path / "photos" / "dog", "0.jpg")
  (tmp_path / "photos" / "rex").symlink_to(tmp_path / "far" / "rex")
  (tmp_path / "photos" / "dog" / "up").symlink_to(tmp_path / "photos")
  assert [name for name, _ in names_of(tmp_path / "photos")] == ["dog", "rex"]


def test_texts_beside_pictures_are_read(tmp_path):
  fill(tmp_path, "0.jpg", "1.jpg", "2.png", "3.png", "notes.txt")
  (tmp_path / "0.txt").write_bytes("\ufeffa dog\nin the snow\r\n".encode())
  (tmp_path / "1.TXT").write_bytes("ein Hund, süß".encode("utf-16"))
  (tmp_path / "2.txt").write_bytes("ein Hund, süß".encode())
  (subject,) = subjects_of(tmp_path)
  assert subject.texts == (
    "a dog in the snow",
    "ein Hund, süß",
    "ein Hund, süß",
    "",
  )
  (tmp_path / "3.txt").write_bytes("süß".encode("latin-1"))
  line = error_of(tmp_path)
  assert line.startswith(f"{tmp_path / '3.txt'} is no text in UTF-8")
  assert line.endswith("save it as UTF-8.")
  (tmp_path / "3.txt").write_text("long " * 2001)
  assert "is larger than 10000 bytes" in error_of(tmp_path)


def test_names_that_are_not_text_can_be_printed(tmp_path, capsys):
  fill(tmp_path / "dog", "0.jpg")
  fill(tmp_path / "dog" / os.fsdecode(b"\xe9t\xe9"), "0.jpg")
  assert len(subjects_of(tmp_path)) == 1
  assert "dog/?t? (1)" in capsys.readouterr().err
