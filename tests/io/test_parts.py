# SPDX-License-Identifier: Apache-2.0
"""What killed runs leave: removed, or put back, and nothing else is touched."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from suti.io import files, parts
from suti.io.processes import this_process

HOST = this_process().rpartition("-")[0]
DEAD = f"{HOST}-999999999"
ALIVE = f"{HOST}-{os.getppid()}"


def make_folder(path, text):
  path.mkdir(parents=True)
  (path / "text").write_text(text)
  return path


def tree(folder):
  """{path: text} of all files, hidden ones too; folders have no text."""
  return {
    path.relative_to(folder).as_posix(): path.read_text()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def test_cleaning_removes_what_this_code_names_so_and_nothing_else(tmp_path):
  theirs = (
    "deep/a.part.json",
    "deep/.a.json.123.part",  # of another program
    f"deep/.a.json.{DEAD}.part",
    "deep/.suti-part",
    f"deep/a.{DEAD}.suti-part",  # not hidden
    f".model.old.{DEAD}.part/x",
  )
  ours = (
    f"deep/.a.json.{DEAD}.suti-part",
    "deep/.b.with.dots.elsewhere-1.suti-new",
    f".model.{ALIVE}.suti-part/sub/x",
  )
  for name in (*theirs, *ours):
    files.write_atomic(tmp_path / name, b"x")
  os.symlink(tmp_path / "deep", tmp_path / f".link.{DEAD}.suti-part")
  parts.clean_parts(tmp_path)
  assert tree(tmp_path).keys() == set(theirs)
  assert not (tmp_path / f".link.{DEAD}.suti-part").is_symlink()


def test_a_folder_without_its_successor_is_put_back(tmp_path):
  gone = make_folder(tmp_path / f".model.{DEAD}.suti-old", "old")
  make_folder(tmp_path / f".model.{DEAD}.suti-part", "half")
  # Here the successor has come.
  make_folder(tmp_path / "other", "new")
  make_folder(tmp_path / f".other.{DEAD}.suti-old", "old")
  # Two runs died one after the other: the second had the younger folder.
  make_folder(tmp_path / f".third.{DEAD}.suti-old", "older")
  os.utime(tmp_path / f".third.{DEAD}.suti-old", (1, 1))
  make_folder(tmp_path / f".third.{HOST}-999999998.suti-old", "younger")
  for shared in (True, False):
    parts.clean_parts(tmp_path, shared=shared)
    assert not gone.exists()
    assert tree(tmp_path) == {
      "model/text": "old",
      "other/text": "new",
      "third/text": "younger",
    }


def test_beside_others_only_what_the_dead_left_is_touched(tmp_path):
  alive = make_folder(tmp_path / f".model.{ALIVE}.suti-old", "old")
  elsewhere = make_folder(tmp_path / ".model.elsewhere-1.suti-part", "half")
  dead = make_folder(tmp_path / f".model.{DEAD}.suti-old", "older")
  parts.clean_parts(tmp_path, shared=True)
  assert alive.exists() and elsewhere.exists()
  # The living one is between its two renames: it needs the name.
  assert dead.exists() and not (tmp_path / "model").exists()
  os.utime(dead, (1, 1))
  parts.clean_parts(tmp_path)
  assert tree(tmp_path) == {"model/text": "old"}


def failing_once(number, error):
  """os.rename that fails at its call of a number, from 1."""
  rename, calls = os.rename, []

  def fail(*args):
    calls.append(args)
    if len(calls) == number:
      raise error
    return rename(*args)

  return fail


@pytest.mark.parametrize(
  "error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()]
)
def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch, error):
  """The second rename fails: the old one is there again, and alone."""
  model = make_folder(tmp_path / "model", "old")
  monkeypatch.setattr(os, "rename", failing_once(2, error))
  with (
    pytest.raises(type(error)),
    files.replacing_folder(model) as part,
  ):
    (part / "text").write_text("new")
  assert tree(tmp_path) == {"model/text": "old"}
  assert os.listdir(tmp_path) == ["model"]
  with files.replacing_folder(model) as part:
    (part / "text").write_text("new")
  assert tree(tmp_path) == {"model/text": "new"}


_BETWEEN = """
import os, sys, time
from suti.io import files
rename, calls = os.rename, []
def stop(*args):
  calls.append(args)
  if len(calls) == 2:
    print("between", flush=True)
    time.sleep(60)
  rename(*args)
os.rename = stop
with files.replacing_folder(sys.argv[1]) as part:
  (part / "text").write_text("new")
"""


@pytest.mark.parametrize("way", ["clean_parts", "check_new_folder", "again"])
def test_killed_between_its_renames_nothing_is_lost(tmp_path, root, way):
  model = make_folder(tmp_path / "model", "old")
  command = [sys.executable, "-c", _BETWEEN, str(model)]
  with subprocess.Popen(
    command, cwd=root, stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == "between\n"
    process.send_signal(signal.SIGKILL)
  assert not model.exists()
  if way == "clean_parts":
    parts.clean_parts(tmp_path, shared=True)
  elif way == "check_new_folder":
    with pytest.raises(ValueError, match="is already there"):
      files.check_new_folder(model, outside=pathlib.Path("/nowhere"))
  else:  # by a process of the same number, which fails in its turn
    here = tmp_path / f".model.{HOST}-{process.pid}.suti-old"
    os.rename(here, tmp_path / f".model.{this_process()}.suti-old")
    with pytest.raises(RuntimeError), files.replacing_folder(model):
      raise RuntimeError
    parts.clean_parts(tmp_path, shared=True)
  assert tree(tmp_path) == {"model/text": "old"}
