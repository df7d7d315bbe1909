# SPDX-License-Identifier: Apache-2.0
"""A workdir belongs to one process, on a disk and in a bucket."""

import re
import signal
import subprocess
import sys
import time

import pytest

from suti.io import files
from suti.io.paths import path_of
from suti.runtime import locks, preemption

_HOLD = """
import sys, time
from suti.io import files
from suti.runtime import locks
from suti.io.paths import path_of
with locks.lock(sys.argv[1]):
  print("held", flush=True)
  time.sleep(60)
"""


def test_a_workdir_belongs_to_one_process_until_it_dies(place, root):
  workdir = place
  with subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(workdir)],
    cwd=root,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "held\n"
    with (
      pytest.raises(ValueError, match="in use by another run") as caught,
      locks.lock(workdir),
    ):
      pass
    assert re.search(rf"\(process .*{process.pid}\)", str(caught.value))
    process.send_signal(signal.SIGKILL)
  with locks.lock(workdir):
    pass
  with locks.lock(workdir):  # Also free after a normal end.
    pass


def test_shared_locks_exclude_others(tmp_path):
  with (
    locks.lock(tmp_path, shared=True),
    locks.lock(tmp_path, shared=True),
    pytest.raises(ValueError, match="in use"),
    locks.lock(tmp_path),
  ):
    pass
  with (
    locks.lock(tmp_path),
    pytest.raises(ValueError, match="in use"),
    locks.lock(tmp_path, shared=True),
  ):
    pass


def test_a_file_is_no_workdir(tmp_path):
  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "file" / "sub"):
    with pytest.raises(ValueError, match="not a folder"), locks.lock(path):
      pass


def test_the_lock_of_a_machine_that_is_gone_ends_with_its_lease(buckets):
  workdir = path_of("gs://bucket/run")
  content = {"worker": "far-1-a", "expires": time.time() + 0.3}
  files.write_json(workdir / ".lock" / "workdir.1", content)
  with (
    pytest.raises(ValueError, match=r"in use .*\(process far-1\)"),
    locks.lock(workdir),
  ):
    pass
  with locks.lock(workdir, shared=True):
    pass  # Processes that share it lease their pieces.
  time.sleep(0.4)
  with locks.lock(workdir):
    assert "run/.lock/workdir.2" in buckets.objects
  assert "run/.lock/workdir.2" not in buckets.objects


def test_a_process_that_lost_its_lease_stops(buckets, monkeypatch, capsys):
  monkeypatch.setattr(locks, "_LEASE_S", 0.2)
  workdir = path_of("gs://bucket/run")
  with (
    pytest.raises(preemption.TerminatedError),
    preemption.watched(),
    locks.lock(workdir),
  ):
    content = {"worker": "far-1-a", "expires": time.time() + 60}
    files.write_json(workdir / ".lock" / "workdir.2", content)
    time.sleep(5)
  assert "has taken this workdir over" in capsys.readouterr().err
  assert "run/.lock/workdir.2" in buckets.objects
