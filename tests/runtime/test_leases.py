# SPDX-License-Identifier: Apache-2.0
"""Leases: one worker a piece, until it dies, sleeps or gives it back.

The same on a disk and in a bucket.
"""

import collections
import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from suti.io import files
from suti.io.processes import this_process
from suti.runtime.leases import Leases
from suti.runtime.preemption import TerminatedError

NAMES = ("wave-00000", "wave-00001", "wave-00002")
NEVER = threading.Event()


def each(leases, *, finished=set, names=NAMES, stop=NEVER, notify=None):
  return leases.each(
    names,
    finished=finished,
    stop=stop,
    notify=notify or (lambda note: pytest.fail(f"waits: {note}")),
  )


def hold(folder, name, *, worker="far-1-a", number=1, for_s=60.0):
  """The lease of another worker, on an unknown machine."""
  expires = time.time() + for_s
  path = folder / f"{name}.{number}"
  assert files.create_json(path, {"worker": worker, "expires": expires})
  return path


def files_in(folder):
  return sorted(files.names_in(folder))


def test_pieces_come_in_order_until_all_are_done(place):
  done = set()
  with Leases(place, lease_s=60) as leases:
    for lease in each(leases, finished=lambda: done):
      assert files_in(place) == [f"{lease.name}.1"]
      assert leases.still_mine(lease)
      done.add(lease.name)
  assert done == set(NAMES)
  assert files_in(place) == []


def test_what_another_holds_is_passed_over_then_waited_for(place):
  path = hold(place, "wave-00001")
  done, notes = set(), []

  def notify(note):
    notes.append(note)
    path.unlink()
    done.add("wave-00001")  # by the other

  with Leases(place, lease_s=1) as leases:
    for lease in each(leases, finished=lambda: set(done), notify=notify):
      assert lease.name != "wave-00001"
      done.add(lease.name)
  assert notes == ["waiting for wave-00001 (far-1-a)"]


def test_what_has_expired_is_taken_over_and_its_worker_sees_it(place):
  done = set()
  with Leases(place, lease_s=60) as leases:
    mine = next(each(leases, names=NAMES[:1]))
    # Another finds it expired, as if this process had been asleep.
    hold(place, NAMES[0], worker="far-2-b", number=2)
    assert not leases.still_mine(mine)
    assert mine.lost
  assert files_in(place) == ["wave-00000.2"]
  (place / "wave-00000.2").unlink()
  hold(place, NAMES[0], worker="far-2-b", number=7, for_s=-0.1)
  with Leases(place, lease_s=60) as leases:
    lease = next(each(leases, names=NAMES[:1], finished=lambda: done))
    assert files_in(place) == ["wave-00000.7", "wave-00000.8"]
    assert leases.still_mine(lease)


def test_what_a_dead_process_of_this_machine_held_is_free_immediately(place):
  here = this_process().rpartition("-")[0]
  hold(place, NAMES[0], worker=f"{here}-999999999-a")
  hold(place, NAMES[1], worker=f"{here}-{os.getppid()}-b")  # it lives
  # A machine that was started anew gives the same numbers again.
  hold(place, NAMES[2], worker=f"{this_process()}-c")
  done = set()
  with Leases(place, lease_s=1) as leases:
    stop = threading.Event()
    with pytest.raises(TerminatedError):
      for lease in each(
        leases,
        finished=lambda: set(done),
        stop=stop,
        notify=lambda note: stop.set(),
      ):
        done.add(lease.name)
  assert done == {NAMES[0], NAMES[2]}


def test_a_lease_is_renewed_while_its_worker_lives(place):
  with Leases(place, lease_s=0.4) as leases:
    lease = next(each(leases))
    first = files.read_json(lease.path)["expires"]
    time.sleep(1.0)  # a step that takes longer than a lease
    assert files.read_json(lease.path)["expires"] > first + 0.4
    assert leases.still_mine(lease)
    hold(place, lease.name, number=2)
    time.sleep(0.3)
    assert lease.lost, "the thread checks before it renews"


def test_a_full_disk_neither_ends_the_thread_nor_keeps_the_lease(
  tmp_path, monkeypatch
):
  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  with Leases(tmp_path, lease_s=0.2) as leases:
    next(each(leases))
    with monkeypatch.context() as patch:
      patch.setattr(os, "fsync", full)
      time.sleep(0.2)
      leases.give_back()
      assert files_in(tmp_path) == []
      with pytest.raises(ValueError, match="is full: free some space"):
        next(each(leases))
    assert next(each(leases)).name == NAMES[0]


_RACE = """
import sys, threading
from suti.io import files
from suti.runtime.leases import Leases
from suti.io.paths import path_of
folder = path_of(sys.argv[1])
with Leases(folder / "leases", lease_s=60) as leases:
  print(leases.worker, flush=True)
  sys.stdin.readline()
  for lease in leases.each(
    [f"wave-{i:05d}" for i in range(30)],
    finished=lambda: set(files.names_in(folder / "done")),
    stop=threading.Event(),
    notify=lambda note: None,
  ):
    print(lease.name)
    files.write_atomic(folder / "done" / lease.name, b"")
"""


def test_processes_that_race_for_it_do_each_piece_once(place, root):
  racers = [
    subprocess.Popen(
      [sys.executable, "-c", _RACE, str(place)],
      cwd=root,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    for _ in range(3)
  ]
  for racer in racers:
    racer.stdout.readline()
  times = collections.Counter()
  for racer in racers:
    racer.stdin.write("\n")
    racer.stdin.flush()
  for racer in racers:
    times.update(racer.communicate()[0].split())
    assert racer.returncode == 0
  assert len(times) == 30
  assert set(times.values()) == {1}
