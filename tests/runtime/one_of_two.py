# SPDX-License-Identifier: Apache-2.0
"""One of two processes: joins, follows, gathers; started by test_hosts.py.

  python one_of_two.py WORKDIR [fail | sleep]

Prints what it saw, as JSON. With `fail` the first process makes a mistake, with
`sleep` it works until it is killed.
"""

import contextlib
import json
import sys
import time

import jax
import numpy as np

from suti.io import files
from suti.io.paths import in_bucket, path_of
from suti.parallel.mesh import make_mesh
from suti.runtime import hosts
from suti.runtime.stage import guard

workdir = path_of(sys.argv[1])
does = sys.argv[2:]
seen: dict = {}


@contextlib.contextmanager
def held():
  """Slow to enter: the other process must wait."""
  time.sleep(0.5)
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / "held").touch()
  yield
  (workdir / "held").unlink()


def work() -> None:
  """What a stage does; the first process alone calls it."""
  if does == ["sleep"]:
    (workdir / "asleep").touch()
    time.sleep(100)
  if does == ["fail"]:
    files.read_object(workdir / "model.json")
  # In a bucket the other process polls every two seconds.
  time.sleep(2.5 if in_bucket(workdir) else 0.5)
  (workdir / "done").touch()


def start() -> None:
  """As `suti.runtime.stage.main` does it."""
  group = hosts.join(workdir, how="first")
  with group.opened(held):
    seen["held"] = (workdir / "held").exists()
    group.run(work, how="first")
  seen["done"] = (workdir / "done").exists()
  mesh = make_mesh({"data": 1, "fsdp": -1}, devices=jax.devices())
  seen["devices"] = [mesh.size, len(jax.local_devices())]
  rows = np.arange(8, dtype=np.float32).reshape(4, 2)
  spread = jax.make_array_from_callback(
    rows.shape,
    jax.sharding.NamedSharding(mesh, jax.P("fsdp")),
    lambda index: rows[index],
  )
  copies = hosts.gather({"spread": spread, "here": jax.numpy.ones(2)})
  seen["copies"] = {name: x.tolist() for name, x in copies.items()}
  seen["index"] = group.index


code = guard(start)
print(json.dumps(seen), flush=True)
sys.exit(code)
