# SPDX-License-Identifier: Apache-2.0
"""Chooses the number of experts per wave and "vmap" or "map", by memory.

SuTI (arXiv 2304.00186), algorithm 1 puts one expert on a core. With small nets,
and experts of low rank, a core is then mostly idle. Here as many are tuned in
parallel as fit into its memory, by the memory analysis of the compiled programs
of a wave (`suti.plan.memory`): its step and, with
`config.finetune.sample_after_tuning`, sampling.

The choice depends on the machine, but the division into waves must not change
during a run: the first choice is recorded in the stage's folder, and workers
that start later use it, on other machines and in `experts.sample` too, with one
exception: experts that do not fit there in parallel run one after the other.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from experts.farm import programs
from experts.farm.waves import count_slots
from experts.teacher import find
from suti.io.files import create_json, read_json
from suti.pipeline.backbone import Backbone
from suti.plan.memory import SHARE, array_bytes, fit_size, free_bytes
from suti.plan.preflight import Program, total_bytes

_RECORD = "packing.json"
# If not even one expert fits.
REMEDY = (
  "set config.finetune.remat=True or dtype and master_dtype to 'bfloat16', or "
  "lower config.finetune.batch_size or config.sample.batch_size"
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
    mesh: each device takes the same number of experts, some of them padding.
    bytes_at: memory of a wave; called where the config has "auto".
    shared: parameters of all experts, and the autoencoder's, on the devices
      already.
    num_clusters: the largest number of experts.
    folder: of the stage, where the first choice is recorded.

  Returns: a copy with a number in `experts_per_wave`, and "vmap" or "map" in
    `inner`, as when the run began; "map" if "vmap" does not fit here.

  Raises:
    ValueError: not one expert fits.
  """
  left = tune.experts_per_device or tune.inner == "auto"
  record = folder / _RECORD
  began = read_json(record) if record.exists() else None
  room = room_of(mesh, shared)
  size, inner = choose(
    tune,
    mesh,
    bytes_at=bytes_at,
    room=room,
    num_clusters=num_clusters,
    began=began,
  )
  if not size:
    need = bytes_at(with_fields(tune, inner=inner), 1)
    raise ValueError(
      f"An expert needs {need / 1e9:.2f} GB, and a device has room for "
      f"{room / 1e9:.2f} GB: {REMEDY}."
    )
  chosen = {"experts_per_wave": size, "inner": inner}
  if left and began is None and not create_json(record, chosen):
    # Another worker was faster: its choice is used.
    return settle(
      tune,
      mesh,
      bytes_at=bytes_at,
      shared=shared,
      num_clusters=num_clusters,
      folder=folder,
    )
  if tune.inner == "auto" and began is not None:
    _tell_change(began["inner"], inner)
  return with_fields(tune, inner=inner, experts_per_wave=size)


def room_of(mesh: Mesh, shared: Any) -> int:
  """Bytes of a device's memory that a program may use, with a margin."""
  return int(SHARE * free_bytes(mesh.local_devices[0], counted=shared))


def choose(
  tune,
  mesh: Mesh,
  *,
  bytes_at: BytesAt,
  room: int,
  num_clusters: int,
  began: Mapping[str, Any] | None = None,
) -> tuple[int, str]:
  """The number of experts per wave, and how those of a device run.

  Args:
    tune, mesh, bytes_at, num_clusters: of `settle`.
    room: bytes that are free on a device.
    began: the choice when the run began; None for a new run.

  Returns: experts per wave, 0 if not even one fits, and "vmap" or "map".
  """
  if began is not None:
    size = began["experts_per_wave"]
  else:
    size = _wave_size(tune, mesh, bytes_at, room, num_clusters)
  if tune.inner != "auto":
    return size, tune.inner
  if began is not None and began["inner"] == "map":
    return size, "map"
  _, slots = count_slots(
    num_clusters,
    experts_per_wave=size,
    num_devices=mesh.size,
    experts_per_slot=tune.experts_per_slot,
  )
  each = max(1, slots // mesh.size)
  fits = bytes_at(with_fields(tune, inner="vmap"), each) <= room
  return size, "vmap" if fits else "map"


def _wave_size(tune, mesh, bytes_at, room, num_clusters) -> int:
  if tune.experts_per_device != "auto":
    if tune.experts_per_device:
      return int(tune.experts_per_device) * mesh.size * tune.experts_per_slot
    return tune.experts_per_wave
  tune = with_fields(tune, inner="map" if tune.inner == "map" else "vmap")
  most = -(-num_clusters // mesh.size)
  each = fit_size(lambda num: bytes_at(tune, num), room, most=most)
  return each * mesh.size * tune.experts_per_slot


def wave_size(tune, folder: Path) -> int:
  """The number of clusters per wave of a run that has begun.

  Args:
    tune: `config.finetune`.
    folder: of the stage.
  """
  if not tune.experts_per_device:
    return tune.experts_per_wave
  return read_json(folder / _RECORD)["experts_per_wave"]


def settle_sampling(
  tune, mesh: Mesh, *, bytes_at: BytesAt, shared: Any, num: int, folder: Path
) -> str:
  """Decides how to sample from experts on disk: with "vmap" or "map".

  Args:
    tune, mesh, shared: of `settle`.
    bytes_at: memory of sampling; called where the config has "auto".
    num: experts per device.
    folder: of the stage that tuned them.
  """
  began = tune.inner
  if began == "auto":
    began = read_json(folder / _RECORD)["inner"]
  room = room_of(mesh, shared)
  inner = choose_sampling(tune, began, bytes_at=bytes_at, room=room, num=num)
  _tell_change(began, inner)
  return inner


def choose_sampling(
  tune, inner: str, *, bytes_at: BytesAt, room: int, num: int
) -> str:
  """How to sample from experts on disk.

  Args:
    tune, bytes_at, num: of `settle_sampling`.
    inner: how they were tuned, "vmap" or "map".
    room: bytes that are free on a device.
  """
  left = "auto" in (tune.inner, tune.experts_per_device)
  if (
    left
    and inner == "vmap"
    and bytes_at(with_fields(tune, inner=inner), num) > room
  ):
    return "map"
  return inner


def _tell_change(began: str, inner: str) -> None:
  if inner != began:
    print(
      "This machine has too little memory to run the experts of a device in"
      " parallel, as the run began: they run one after the other, with the same"
      " results up to rounding.",
      file=sys.stderr,
      flush=True,
    )


def with_fields(tune, **fields: Any) -> Any:
  """A copy of `config.finetune` with some values replaced."""
  tune = tune.copy_and_resolve_references().unlock()
  tune.update(fields)
  return tune.lock()


def with_finetune(config, tune) -> Any:
  """A copy of a config with `config.finetune` replaced."""
  config = config.copy_and_resolve_references().unlock()
  config.finetune = tune
  return config.lock()


def make_bytes_at(
  config,
  backbone: Backbone,
  mesh: Mesh,
  *,
  tuned: bool = False,
  inspect: Callable[[Program], int] = total_bytes,
) -> BytesAt:
  """Makes the function that compiles a wave's programs to measure their memory.

  Args:
    config: the whole config.
    backbone: described; arrays will do as well.
    mesh: of a host's devices.
    tuned: the experts are on disk: measure sampling only.
    inspect: program -> bytes on a device.

  Returns: (`config.finetune`, experts per device) -> the bytes of the largest
    of the programs that run while a wave is on the devices, with the arrays
    that are there already.
  """
  # The autoencoder stays on the devices, and is not an argument of the step.
  beside = array_bytes(backbone.codec.params)
  is_tuned = find(config.finetune.teacher).loss is not None

  def bytes_at(tune, num: int) -> int:
    changed = with_finetune(config, tune)

    def bytes_of(make) -> int:
      return inspect(make(changed, backbone, mesh, per_device=num))

    needs = []
    if not tuned and is_tuned:
      needs += [bytes_of(programs.finetune) + beside]
      if tune.keep == "difference":
        needs += [bytes_of(programs.keep) + beside]
    if tuned or tune.sample_after_tuning or not is_tuned:
      needs += [bytes_of(programs.sample)]
    return max(needs)

  return bytes_at
