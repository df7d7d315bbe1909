# SPDX-License-Identifier: Apache-2.0
"""Scratch: a folder of this user's alone, or none."""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from suti.io import paths


@pytest.fixture
def parent(tmp_path, monkeypatch):
  """Where the folders of this user's processes lie; not made yet."""
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  paths._scratch.cache_clear()
  yield tmp_path / f"suti-{os.getuid()}"
  paths._scratch.cache_clear()


def test_scratch_is_this_users_alone(parent):
  before = os.umask(0)
  try:
    folder = paths.scratch(1)
  finally:
    os.umask(before)
  assert folder.parent == parent and folder.is_dir()
  assert parent.stat().st_mode & 0o777 == 0o700
  paths._scratch.cache_clear()
  assert paths.scratch(1) == folder, "it may be there before"


def test_threads_that_come_together_share_one(parent, monkeypatch):
  this_process = paths.this_process

  def late():
    time.sleep(0.05)  # whoever comes now finds nothing kept yet
    return this_process()

  monkeypatch.setattr(paths, "this_process", late)
  with ThreadPoolExecutor(8) as pool:
    found = set(pool.map(paths.scratch, [1] * 8))
  assert len(found) == 1


def refusal(parent):
  with pytest.raises(ValueError) as caught:
    paths.scratch(1)
  assert os.listdir(parent.resolve()) == [] if parent.is_dir() else True
  text = str(caught.value)
  start, end = (
    f"{parent} ",
    (
      ", and is not used for copies and temporary files: remove it, or set"
      " TMPDIR to a folder of your own."
    ),
  )
  assert text.startswith(start) and text.endswith(end)
  return text.removeprefix(start).removesuffix(end)


def test_what_is_not_this_users_alone_is_refused(parent, tmp_path, monkeypatch):
  parent.mkdir()
  parent.chmod(0o777)
  assert refusal(parent) == "is open to others (mode 777, not 700)"
  parent.chmod(0o750)
  assert refusal(parent) == "is open to others (mode 750, not 700)"
  parent.rmdir()
  aside = tmp_path / "aside"
  aside.mkdir(mode=0o700)
  parent.symlink_to(aside)
  assert refusal(parent) == "is a link"
  parent.unlink()
  parent.symlink_to(tmp_path / "nowhere")
  assert refusal(parent) == "is a link"
  parent.unlink()
  parent.write_text("")
  assert refusal(parent) == "is no folder"
  parent.unlink()

  parent.mkdir(mode=0o700)
  uid = os.getuid()
  theirs = parent.rename(parent.with_name(f"suti-{uid + 1}"))
  monkeypatch.setattr(os, "getuid", lambda: uid + 1)
  assert refusal(theirs) == "is another user's"


@pytest.mark.parametrize("name", ["s3://b/x", "https://a.b/c", "file:///x"])
def test_addresses_of_elsewhere_are_no_folders_here(name):
  with pytest.raises(ValueError, match=f"{name} is neither on a disk nor in a"):
    paths.path_of(name)
  assert paths.path_of("a:/b").parts == ("a:", "b")
