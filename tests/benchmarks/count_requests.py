# SPDX-License-Identifier: Apache-2.0
"""What a workdir in a bucket costs: requests, by what Cloud Storage charges.

Class A (writes, listings) is some ten times as dear as class B (reads);
deletions are free. Counted on tests/io/bucket_server.py, which is asked the
same.

  python -m tests.benchmarks.count_requests
"""

import collections
import os

import jax.numpy as jnp

from experts.farm.monitor import read_lines
from suti.io.checkpoint import Checkpoints
from suti.io.files import write_atomic
from suti.io.paths import path_of
from suti.runtime.leases import Leases
from tests.io import bucket_server

CLASSES = {"GET listing": "A", "POST upload": "A", "PUT upload": "A"}


def main() -> None:
  """Prints a row for each thing that a worker does again and again."""
  with bucket_server.serve() as buckets:
    os.environ.update(buckets.environment)
    workdir = path_of("gs://bucket/run")
    state = {f"p{i}": jnp.ones((4, 8)) for i in range(200)}

    def show(what: str) -> None:
      found = collections.Counter()
      for name, num in buckets.requests.items():
        if not name.startswith("DELETE"):
          found[CLASSES.get(name, "B")] += num
      print(f"{what:32} {found['A']:4} A {found['B']:4} B")
      buckets.requests.clear()

    checkpoints = Checkpoints(workdir / "checkpoints")
    for step in range(4):
      show("opening checkpoints" if step == 0 else "a checkpoint")
      checkpoints.save(step, state)
      checkpoints.wait()
    show("a checkpoint, an old one goes")
    checkpoints.close()
    again = Checkpoints(workdir / "checkpoints")
    again.restore(state)
    show("restoring one")
    again.close()
    with Leases(workdir / "leases", lease_s=1e3) as leases:
      lease = leases.take("wave-00000")
      assert lease is not None
      show("leasing a wave")
      leases.still_mine(lease)
      write_atomic(lease.path, b"{}")
      show("renewing a lease")
      log = workdir / "workers" / "one" / "log.jsonl"
      log.write_text('{"step": 1}\n')
      buckets.requests.clear()
      read_lines(workdir)
      show("a look at another worker's log")


if __name__ == "__main__":
  main()
