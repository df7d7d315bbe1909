# SPDX-License-Identifier: Apache-2.0
"""How many experts a device takes at once, and how it runs them.

SuTI (arXiv 2304.00186), algorithm 1 puts one expert on a core. Small nets, and
experts of low rank, leave a core mostly idle then: here as many are tuned at
once as its memory has room for, which the compiled step of a wave says before
one is run (`suti.parallel.memory`).

What is chosen depends on the machine, but the division into waves must not
change under a run: the size of a wave is written down where it is first chosen.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from suti.io.files import create_json, read_json
from suti.parallel.memory import fit_size, free_bytes, program_bytes
from suti.parallel.mesh import batch_sharding, check_batch, replicated

# Of the room that there is: allocators leave gaps, and the programs that start
# a wave and draw its candidates have temporaries of their own.
_SHARE = 0.9

# (config.finetune, experts of a device) -> bytes on a device.
BytesAt = Callable[[Any, int], int]


def settle(
  tune,
  mesh: Mesh,
  *,
  bytes_at: BytesAt,
  shared: Any,
  num_clusters: int,
  folder: Path,
) -> Any:
  """Decides what a config leaves to the machine.

  Args:
    tune: `config.finetune`.
    mesh: its devices take equally many experts.
    bytes_at: what the step of a wave needs; asked where the config has "auto".
    shared: parameters of all experts, on the devices already.
    num_clusters: there are no more experts than that.
    folder: of the stage, where the size of a wave is kept.

  Returns: a copy with a number in `experts_per_wave`, and "vmap" or "map" in
    `inner`.

  Raises:
    ValueError: not one expert fits, or devices cannot share a wave evenly.
  """
  tune = tune.copy_and_resolve_references().unlock()
  device = mesh.local_devices[0]
  room = int(_SHARE * free_bytes(device, counted=shared))
  if tune.experts_per_device:
    tune.experts_per_wave = _wave_size(
      tune, mesh, bytes_at=bytes_at, num_clusters=num_clusters, room=room,
      record=folder / "packing.json",
    )  # fmt: skip
  else:
    check_batch("config.finetune.experts_per_wave", tune.experts_per_wave, mesh)
  if tune.inner == "auto":
    each = -(-min(tune.experts_per_wave, num_clusters) // mesh.size)
    at_once = _with_inner(tune, "vmap")
    tune.inner = "vmap" if bytes_at(at_once, each) <= room else "map"
  return tune.lock()


def make_bytes_at(
  make_step: Callable[[Any], Any],
  start: Callable[[int], Any],
  frozen: Any,
  describe_data: Callable[[int], Any],
  mesh: Mesh,
) -> BytesAt:
  """Makes the function that compiles a step to see what it needs.

  Args:
    make_step: `config.finetune` -> the jitted step of a wave.
    start: number of experts -> the state of a wave.
    frozen: parameters that experts share.
    describe_data: number of experts -> shapes of a wave's data.
    mesh: the devices.
  """

  def placed(tree, sharding):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  whole, each = replicated(mesh), batch_sharding(mesh)

  def bytes_at(tune, num: int) -> int:
    state = jax.eval_shape(lambda: start(num * mesh.size))
    step = placed(state.pop("step"), whole)
    program = make_step(tune).lower(
      placed(state, each) | {"step": step},
      placed(frozen, whole),
      placed(describe_data(num * mesh.size), each),
    )
    return program_bytes(program.compile())

  return bytes_at


def _wave_size(tune, mesh, *, bytes_at, num_clusters, room, record):
  """Of all devices together: as it was when the run began."""
  if not record.exists():
    each = (
      _fit(tune, mesh, bytes_at, num_clusters, room)
      if tune.experts_per_device == "auto"
      else int(tune.experts_per_device)
    )
    # Another worker may have been faster: then its size holds.
    create_json(record, {"experts_per_wave": each * mesh.size})
  return read_json(record)["experts_per_wave"]


def _fit(tune, mesh, bytes_at, num_clusters, room):
  inner = "map" if tune.inner == "map" else "vmap"
  at_once = _with_inner(tune, inner)
  each = fit_size(
    lambda num: bytes_at(at_once, num),
    room,
    most=-(-num_clusters // mesh.size),
  )
  if not each:
    raise ValueError(
      f"An expert needs {bytes_at(at_once, 1) / 1e9:.2f} GB, and a device has "
      f"room for {room / 1e9:.2f} GB: set config.finetune.remat=True or dtype "
      "and master_dtype to 'bfloat16', or lower config.finetune.batch_size."
    )
  return each


def _with_inner(tune, inner):
  tune = tune.copy_and_resolve_references().unlock()
  tune.inner = inner
  return tune
