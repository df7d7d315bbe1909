# SPDX-License-Identifier: Apache-2.0
"""Workers of one workdir that are killed and started again; run by the tests.

  python farm.py WORKERS KILLS SEED --config ... --workdir DIR ...

Each worker is `python -m experts.finetune` in a process of its own, forked from
this one, which has paid for the imports and touches no device. Half of those
that die do so just before a file gets its name, or an object is put into a
bucket, the others when their time is up; one in three by SIGTERM, the rest by
SIGKILL. After KILLS deaths the workers are left alone. Prints what happened as
one line of JSON.
"""

import atexit
import collections
import importlib
import json
import os
import random
import signal
import sys
import time
import warnings
from typing import Any

from experts import finetune
from suti.io.bucket import BucketPath
from suti.runtime import stage

WORKERS, KILLS, SEED = map(int, sys.argv[1:4])
ARGUMENTS = sys.argv[4:]
CODES = {0, 143, -signal.SIGKILL, -signal.SIGTERM}


def die_at_file(number: int, how: int) -> None:
  """Makes this process die just before its next files get their names."""
  left = number

  def watched(appear):
    def appear_and_count(*args, **kw):
      nonlocal left
      left -= 1
      if left == 0:
        os.kill(os.getpid(), how)
      return appear(*args, **kw)

    return appear_and_count

  for owner, names in (
    (os, ("link", "rename", "replace")),
    (BucketPath, ("create", "upload", "write_bytes")),
  ):
    for name in names:
      setattr(owner, name, watched(getattr(owner, name)))


def start(rng: random.Random, *, dies: bool) -> tuple[int, float, int]:
  """Forks a worker: its process, when it is killed from outside, and how."""
  how = signal.SIGTERM if rng.random() < 1 / 3 else signal.SIGKILL
  number = rng.randint(1, 12) if rng.random() < 0.5 else 0
  seconds = float("inf") if number or not dies else rng.uniform(0.5, 8.0)
  with warnings.catch_warnings():
    # JAX has started nothing yet that a fork could lose.
    warnings.simplefilter("ignore", RuntimeWarning)
    process = os.fork()
  if process == 0:
    if dies and number:
      die_at_file(number, how)
    stage.main("experts.finetune", finetune.run, how="each", argv=ARGUMENTS)
  return process, time.monotonic() + seconds, how


def leave_none(farm: int, alive: dict[int, Any]) -> None:
  """Kills the workers of a farm that failed; a worker, forked, kills nobody."""
  if os.getpid() == farm:
    for process in alive:
      os.kill(process, signal.SIGKILL)


def main() -> None:
  if any("gs://" in argument for argument in ARGUMENTS):
    importlib.import_module("gcsfs.core")  # It takes a second.
  rng = random.Random(SEED)
  began = time.monotonic()
  alive: dict[int, tuple[float, int]] = {}
  killed = collections.Counter()
  finished = 0
  atexit.register(leave_none, os.getpid(), alive)
  while finished < WORKERS:
    while len(alive) + finished < WORKERS:
      # Those that are under way may die as well.
      dies = sum(killed.values()) + len(alive) < KILLS
      process, until, how = start(rng, dies=dies)
      alive[process] = (until, how)
    for process, (until, how) in list(alive.items()):
      ended, status = os.waitpid(process, os.WNOHANG)
      if ended:
        code = os.waitstatus_to_exitcode(status)
        assert code in CODES, f"worker {process} ended with {code}"
        finished += code == 0
        killed[code] += code != 0
        del alive[process]
      elif until < time.monotonic():
        os.kill(process, how)
        alive[process] = (float("inf"), how)
    time.sleep(0.02)
  print(
    json.dumps(
      {
        "killed": sum(killed.values()),
        "by": {str(int(k)): n for k, n in killed.items() if n},
        "seconds": round(time.monotonic() - began, 1),
      }
    )
  )


if __name__ == "__main__":
  main()
