# SPDX-License-Identifier: Apache-2.0
"""Meshes of devices: of training, axes `data` and `fsdp`; of all else, flat.

Training spreads its batch over both axes, and its parameters over `fsdp`
(`suti.parallel.rules`). Experts, and sampled pictures, are independent of each
other: they are spread over the devices of one host, whatever their number.
Meshes are made in this file alone. Axis types are Auto: the compiler chooses
the sharding of what we do not.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp")


def make_mesh(
  config: Mapping[str, int], *, devices: Sequence[Any] | None = None
) -> Mesh:
  """Lays the devices of training out along its two axes.

  Args:
    config: `config.mesh`: devices along "data" and "fsdp"; one of them may be
      -1, which takes those that the other leaves.
    devices: what to lay out; those of this host if None. Where there are
      several hosts (`suti.runtime.hosts`), `jax.devices()` are those of all.

  Returns:
    The mesh.

  Raises:
    ValueError: the axes do not fit the devices.
  """
  devices = jax.local_devices() if devices is None else list(devices)
  sizes = {axis: int(config[axis]) for axis in AXES}
  text = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
  free = [axis for axis in AXES if sizes[axis] == -1]
  if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
    raise ValueError(
      f"config.mesh has {text}: give each axis a number of devices above 0,"
      " and at most one of them -1 for those that are left."
    )
  product = int(np.prod([size for size in sizes.values() if size != -1]))
  if free and len(devices) % product == 0:
    sizes[free[0]] = len(devices) // product
  elif product != len(devices):
    raise ValueError(
      f"config.mesh has {text}, which does not fit the {len(devices)} devices"
      f" of {_owner(devices)}: set the axes so that their product is"
      f" {len(devices)}, or one of them to -1."
    )
  return _lay_out(devices, sizes)


def flat_mesh(devices: Sequence[Any] | None = None) -> Mesh:
  """All devices in a row, for work in independent parts.

  Args:
    devices: those of this host if None.
  """
  devices = jax.local_devices() if devices is None else list(devices)
  return _lay_out(devices, {"device": len(devices)})


def _lay_out(devices: Sequence[Any], sizes: Mapping[str, int]) -> Mesh:
  # make_mesh alone knows which devices are neighbours in a TPU's torus; its
  # axes would be Explicit unless we say otherwise.
  return jax.make_mesh(
    tuple(sizes.values()),
    tuple(sizes),
    axis_types=(AxisType.Auto,) * len(sizes),
    devices=devices,
  )


def num_hosts(devices: Iterable[Any]) -> int:
  """How many hosts devices belong to: a process of JAX is one's."""
  return len({device.process_index for device in devices})


def _owner(devices: Sequence[Any]) -> str:
  """Whose devices they are, for messages."""
  num = num_hosts(devices)
  return "this machine" if num == 1 else f"{num} hosts"


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on every device."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The leading dim over all devices, whatever the axes are used for."""
  return NamedSharding(mesh, P(mesh.axis_names))


def check_batch(field: str, batch_size: int, mesh: Mesh) -> None:
  """Refuses a batch that the devices cannot share evenly.

  Args:
    field: the config field it came from, "config.train.batch_size".
    batch_size: of all devices together.
    mesh: of `make_mesh` or `flat_mesh`.

  Raises:
    ValueError: it is no multiple of the number of devices.
  """
  if batch_size % mesh.size == 0:
    return
  split = [axis for axis in AXES if mesh.shape.get(axis, 1) > 1]
  owner, remedy = "a host", ""
  if split:
    owner = f"mesh {'axis' if len(split) == 1 else 'axes'} "
    owner += " x ".join(map(repr, split))
    remedy = f" or set config.mesh.{split[0]}"
  raise ValueError(
    f"{field}={batch_size} is not divisible by the {mesh.size} devices of"
    f" {owner}: use a multiple of {mesh.size}{remedy}."
  )


def put_batch(batch: Any, mesh: Mesh) -> Any:
  """Spreads a batch over all devices; each host gives its own rows.

  Args:
    batch: tree of NumPy arrays, this host's share, leading dim B.
    mesh: the mesh.

  Returns:
    The same tree of global arrays.
  """
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch
  )


def described(tree: Any, sharding: Any = None) -> Any:
  """Descriptions of arrays, or of what describes them already.

  Args:
    tree: of arrays, `jax.ShapeDtypeStruct`s or numbers of NumPy.
    sharding: of all of them.
  """
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def many(tree: Any, num: int) -> Any:
  """Descriptions of `num` of them, in a leading dim."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((num, *x.shape), x.dtype), tree
  )
