# SPDX-License-Identifier: Apache-2.0
"""How many experts a device takes at once, and how it runs them.

SuTI (arXiv 2304.00186), algorithm 1 puts one expert on a core. Small nets, and
experts of low rank, leave a core mostly idle then: here as many are tuned at
once as its memory has room for, which the compiled step of a wave says before
one is run (`suti.parallel.memory`).

What is chosen depends on the machine, but the division into waves must not
change under a run: what is left to the machine is written down where it is
first chosen, and `experts.sample` goes by it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from suti.io.files import create_json, read_json
from suti.parallel.memory import SHARE, fit_size, free_bytes, program_bytes
from suti.parallel.mesh import batch_sharding, replicated
from suti.parallel.preflight import described

_RECORD = "packing.json"
# Where not one expert fits.
REMEDY = (
  "set config.finetune.remat=True or dtype and master_dtype to 'bfloat16', or "
  "lower config.finetune.batch_size"
)

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
    mesh: its devices take equally many experts, some of them padding.
    bytes_at: what the step of a wave needs; asked where the config has "auto".
    shared: parameters of all experts, on the devices already.
    num_clusters: there are no more experts than that.
    folder: of the stage, where what was first chosen is kept.

  Returns: a copy with a number in `experts_per_wave`, as it was when the run
    began, and "vmap" or "map" in `inner`, as there is room on this machine.

  Raises:
    ValueError: not one expert fits.
  """
  left = tune.experts_per_device or tune.inner == "auto"
  record = folder / _RECORD
  began = record.exists()
  room = int(SHARE * free_bytes(mesh.local_devices[0], counted=shared))
  size, inner = choose(
    tune,
    mesh,
    bytes_at=bytes_at,
    room=room,
    num_clusters=num_clusters,
    size=read_json(record)["experts_per_wave"] if began else None,
  )
  if not size:
    need = bytes_at(with_inner(tune, inner), 1)
    raise ValueError(
      f"An expert needs {need / 1e9:.2f} GB, and a device has room for "
      f"{room / 1e9:.2f} GB: {REMEDY}."
    )
  chosen = {"experts_per_wave": size, "inner": inner}
  if left and not began and not create_json(record, chosen):
    # Another worker was faster: its size holds.
    return settle(
      tune,
      mesh,
      bytes_at=bytes_at,
      shared=shared,
      num_clusters=num_clusters,
      folder=folder,
    )
  tune = with_inner(tune, inner).unlock()
  tune.experts_per_wave = size
  return tune.lock()


def choose(
  tune,
  mesh: Mesh,
  *,
  bytes_at: BytesAt,
  room: int,
  num_clusters: int,
  size: int | None = None,
) -> tuple[int, str]:
  """How many experts a wave has, and how those of a device run.

  Args:
    tune, mesh, bytes_at, num_clusters: of `settle`.
    room: bytes that a device has for the step.
    size: of a wave, if it was chosen before.

  Returns: experts of a wave, 0 if not one fits, and "vmap" or "map".
  """
  if size is None:
    size = _wave_size(tune, mesh, bytes_at, room, num_clusters)
  if tune.inner != "auto":
    return size, tune.inner
  each = max(1, -(-min(size, num_clusters) // mesh.size))
  fits = bytes_at(with_inner(tune, "vmap"), each) <= room
  return size, "vmap" if fits else "map"


def _wave_size(tune, mesh, bytes_at, room, num_clusters) -> int:
  if tune.experts_per_device != "auto":
    if tune.experts_per_device:
      return int(tune.experts_per_device) * mesh.size
    return tune.experts_per_wave
  tune = with_inner(tune, "map" if tune.inner == "map" else "vmap")
  most = -(-num_clusters // mesh.size)
  each = fit_size(lambda num: bytes_at(tune, num), room, most=most)
  return each * mesh.size


def inner_of(tune, folder: Path) -> str:
  """How the experts of a run are drawn: "vmap" or "map".

  Args:
    tune: `config.finetune`.
    folder: of the stage that tuned them; where it was left to the machine, that
      is what its first worker had room for.
  """
  if tune.inner != "auto":
    return tune.inner
  return read_json(folder / _RECORD)["inner"]


def with_inner(tune, inner: str) -> Any:
  """A copy of `config.finetune` whose experts run so."""
  tune = tune.copy_and_resolve_references().unlock()
  tune.inner = inner
  return tune.lock()


def describe_arguments(
  state: Any, frozen: Any, data: Any, mesh: Mesh
) -> tuple[Any, Any, Any]:
  """What the step of a wave takes, each where a run puts it.

  Args:
    state: shapes of a wave's, of all devices together.
    frozen: parameters that experts share, or their shapes.
    data: shapes of a wave's.
    mesh: the devices.
  """
  whole, each = replicated(mesh), batch_sharding(mesh)
  experts = {name: x for name, x in state.items() if name != "step"}
  return (
    described(experts, each) | {"step": described(state["step"], whole)},
    described(frozen, whole),
    described(data, each),
  )


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

  def bytes_at(tune, num: int) -> int:
    num_experts = num * mesh.size
    state = jax.eval_shape(lambda: start(num_experts))
    data = describe_data(num_experts)
    arguments = describe_arguments(state, frozen, data, mesh)
    return program_bytes(make_step(tune).lower(*arguments).compile())

  return bytes_at
