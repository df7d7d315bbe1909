# SPDX-License-Identifier: Apache-2.0
"""Files appear whole or not at all."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from suti.io import files, parts


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_writes_replace_and_make_folders(tmp_path):
  path = tmp_path / "a" / "b.bin"
  files.write_atomic(path, b"one")
  files.write_atomic(path, b"two")
  assert path.read_bytes() == b"two"
  assert names(path.parent) == ["b.bin"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("old")
  with pytest.raises(RuntimeError), files.replacing(path) as part:
    part.write_text("half")
    raise RuntimeError
  assert path.read_text() == "old"
  assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_whole(tmp_path):
  folder = tmp_path / "model"
  for text in ("one", "two"):
    with files.replacing_folder(folder) as part:
      (part / "sub").mkdir()
      (part / "sub" / text).write_text(text)
      assert not (folder / "sub" / text).exists()
  assert names(folder / "sub") == ["two"]
  with pytest.raises(RuntimeError), files.replacing_folder(folder) as part:
    (part / "three").write_text("half")
    raise RuntimeError
  assert names(tmp_path) == ["model"]
  assert names(folder) == ["sub"]


_SLOW = """
import sys, time
from pathlib import Path
from suti.io import files
with files.{lender}(sys.argv[1]) as part:
  target = part / "x" if "{lender}" == "replacing_folder" else part
  with target.open("w") as file:
    file.write("half of it")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("lender", ["replacing", "replacing_folder"])
def test_kill_in_the_middle_leaves_nothing_half_written(tmp_path, root, lender):
  path = tmp_path / "out"
  command = [sys.executable, "-c", _SLOW.format(lender=lender), str(path)]
  with subprocess.Popen(
    command, cwd=root, stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
  assert not path.exists()
  assert [name for name in names(tmp_path) if not name.startswith(".")] == []
  assert len(names(tmp_path)) == 1  # What was being written, hidden.
  parts.clean_parts(tmp_path)
  assert names(tmp_path) == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
  path = tmp_path / "a.bin"
  path.write_bytes(b"old")

  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(ValueError, match=r"The disk of .* is full") as caught:
    files.write_atomic(path, b"new")
  assert "\n" not in str(caught.value)
  assert path.read_bytes() == b"old"
  assert names(tmp_path) == ["a.bin"]


def test_full_disks_are_known_by_number_and_by_words():
  assert files.is_disk_full(OSError(errno.ENOSPC, ""))
  assert files.is_disk_full(OSError(errno.EDQUOT, ""))
  assert files.is_disk_full(RuntimeError("x: No space left on device; y"))
  assert not files.is_disk_full(OSError(errno.EACCES, "denied"))
  try:
    try:
      raise OSError(errno.ENOSPC, "")
    except OSError as error:
      raise KeyError("wrapped") from error
  except KeyError as error:
    assert files.is_disk_full(error)


def test_json_round_trip(tmp_path):
  value = {"a": [1, 2.5, None], "ü": {"b": True}}
  files.write_json(tmp_path / "a.json", value)
  assert files.read_json(tmp_path / "a.json") == value
  assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")
  with pytest.raises(ValueError, match=r"b\.json would hold a NaN or an infin"):
    files.write_json(tmp_path / "b.json", {"loss": float("nan")})
  assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
  "content", [b"", b'{"a": ', b"\xff\xfe", b"[" * 100_000]
)
def test_damaged_json_is_named(tmp_path, content):
  path = tmp_path / "done.json"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"done\.json is not a JSON file"):
    files.read_json(path)


def test_an_object_is_read_or_named(tmp_path):
  path = tmp_path / "config.json"
  with pytest.raises(ValueError, match=r"config\.json is not there: fetch or"):
    files.read_object(path)
  for content in ("[]", "3", "null", '"x"'):
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no JSON object, as a config"):
      files.read_object(path)
  path.write_text('{"a": 1}')
  assert files.read_object(path) == {"a": 1}


def test_a_new_folder_is_where_nothing_is(tmp_path):
  """What is written there, and what stopped runs leave: tests/test_convert."""
  source = tmp_path / "source"
  source.mkdir()
  files.check_new_folder(tmp_path / "a" / "b", outside=source)
  files.check_new_folder(tmp_path / "source-2", outside=source)
  assert names(tmp_path) == ["source"], "nothing is made yet"
  (source / "file").write_text("")
  for path, text in (
    (source, "is already there"),
    (source / "new", "lies inside of"),
    (source / "file", "is already there"),
    (source / "file" / "new", "cannot be made in"),
  ):
    with pytest.raises(ValueError, match=text):
      outside = tmp_path / "x" if "made" in text else source
      files.check_new_folder(path, outside=outside)


def test_a_file_is_made_once_and_whole(tmp_path, monkeypatch):
  path = tmp_path / "sub" / "a"
  assert files.create(path, b"first")
  assert not files.create(path, b"second")
  assert path.read_bytes() == b"first"
  assert names(path.parent) == ["a"]

  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(ValueError, match=r"The disk of .* is full"):
    files.create(tmp_path / "b", b"x")
  assert names(tmp_path) == ["sub"]


@pytest.mark.parametrize(
  ("old", "new", "expected"),
  [
    ({"a": 1, "b": {"c": (1, 2)}}, {"b": {"c": [1, 2]}, "a": 1}, None),
    ({"a": {"b": 1}}, {"a": {"b": 2}}, ("x.a.b", "1", "2")),
    ({"a": 1}, {"a": 1, "b": 2}, ("x.b", "absent", "2")),
    ({"a": 1, "b": 2}, {"b": 2}, ("x.a", "1", "absent")),
    ({"a": {"b": 1}}, {"a": "b"}, ("x.a", "{'b': 1}", "'b'")),
    ({"a": 1}, {"a": 1.5}, ("x.a", "1", "1.5")),
    ({"a": None}, {"a": 0}, ("x.a", "None", "0")),
  ],
)
def test_first_difference(old, new, expected):
  assert files.first_difference(old, new, "x") == expected


def test_two_writers_do_not_mix(tmp_path, root):
  # The last one wins, whole: names of unfinished files hold the process id.
  code = (
    "import sys; from suti.io import files\n"
    "for _ in range(30):\n"
    "  files.write_atomic(sys.argv[1], sys.argv[2].encode() * 100000)"
  )
  path = tmp_path / "a.bin"
  writers = [
    subprocess.Popen([sys.executable, "-c", code, path, letter], cwd=root)
    for letter in "ab"
  ]
  seen = set()
  while any(writer.poll() is None for writer in writers):
    if path.exists():
      content = path.read_bytes()
      assert len(content) == 100000
      seen.add(len(set(content)))
    time.sleep(0.005)
  assert seen == {1}
  assert all(writer.wait() == 0 for writer in writers)
  assert names(tmp_path) == ["a.bin"]


def test_a_fingerprint_is_of_names_sizes_and_both_ends(tmp_path, monkeypatch):
  monkeypatch.setattr(files, "_SAMPLE", 4)
  folder = tmp_path / "model"
  (folder / "unet").mkdir(parents=True)
  file = folder / "unet" / "weights"

  def of(content):
    file.write_bytes(content)
    return files.fingerprint(folder)

  seen = [of(b"abcdefghijkl"), of(b"Abcdefghijkl"), of(b"abcdefghijkL")]
  seen += [of(b"abcdefghijkkl")]
  file.rename(folder / "weights")
  file = folder / "weights"
  seen += [of(b"abcdefghijkl")]
  assert len(set(seen)) == 5
  (folder / ".hidden").write_bytes(b"x")
  (folder / "README.md").write_bytes(b"x")
  (folder / "@eaDir").mkdir()
  (folder / "@eaDir" / "thumb.jpg").write_bytes(b"x")
  assert files.fingerprint(folder) == seen[-1]
  # A folder's mark is none of a file.
  (folder / "@picture").write_bytes(b"x")
  assert files.fingerprint(folder) != seen[-1]


def test_a_fingerprint_follows_links_to_folders(tmp_path):
  far, folder = tmp_path / "far", tmp_path / "photos"
  far.mkdir(), folder.mkdir()
  (far / "0.jpg").write_bytes(b"x")
  (folder / "0.jpg").write_bytes(b"x")
  (folder / "up").symlink_to(folder)  # this one would never end
  (folder / "self").symlink_to(folder / "self")
  seen = [files.fingerprint(folder)]
  (folder / "rex").symlink_to(far)
  seen.append(files.fingerprint(folder))
  (far / "0.jpg").write_bytes(b"y")
  seen.append(files.fingerprint(folder))
  (far / "0.jpg").write_bytes(b"x")
  (folder / "rex").unlink()
  (folder / "rex").mkdir()
  (folder / "rex" / "0.jpg").write_bytes(b"x")
  assert files.fingerprint(folder) == seen[1]
  assert len(set(seen)) == 3


def test_of_many_files_few_are_opened_and_all_are_listed(tmp_path, monkeypatch):
  pictures = [tmp_path / f"{i:02d}.jpg" for i in range(12)]
  for picture in pictures:
    picture.write_bytes(b"abc")
  with monkeypatch.context() as patch:
    patch.setattr(files, "_OPENED", 4)
    first = files.fingerprint(tmp_path)
    pictures[1].write_bytes(b"abX")  # of the same size, and not opened
    assert files.fingerprint(tmp_path) == first
    seen = [first]
    for change in (
      lambda: pictures[1].write_bytes(b"abcd"),
      lambda: pictures[3].write_bytes(b"abX"),
      lambda: pictures[2].rename(tmp_path / "new.jpg"),
      pictures[5].unlink,
    ):
      change()
      seen.append(files.fingerprint(tmp_path))
    assert len(set(seen)) == 5
  # A model's files are not many: none of them is left out.
  before = files.fingerprint(tmp_path)
  for picture in pictures[6:]:
    picture.write_bytes(b"xyz")
    assert files.fingerprint(tmp_path) != before
    picture.write_bytes(b"abc")
  assert files.fingerprint(tmp_path) == before


def test_a_disk_without_hard_links_is_one_line(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")

  monkeypatch.setattr(os, "link", refuse)
  with pytest.raises(ValueError, match=r"has no hard links.* on NFS, or gs:"):
    files.create_json(tmp_path / "stage.json", {})
  assert not list(tmp_path.iterdir())


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
  tmp_path, monkeypatch
):
  files.write_json(tmp_path / "claim", {"worker": "a"})
  read, stale = pathlib.Path.read_bytes, [errno.ESTALE]

  def once_stale(path):
    if stale:
      raise OSError(stale.pop(), "Stale file handle")
    return read(path)

  monkeypatch.setattr(pathlib.Path, "read_bytes", once_stale)
  assert files.read_json(tmp_path / "claim") == {"worker": "a"}


def test_a_file_has_a_fingerprint_too(tmp_path):
  table = tmp_path / "table.csv"
  table.write_text("url,path,text\n")
  one = files.fingerprint(table)
  table.write_text("url,path,text\na,b,c\n")
  assert one != files.fingerprint(table)
