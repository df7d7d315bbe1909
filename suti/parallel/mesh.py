# SPDX-License-Identifier: Apache-2.0
"""The mesh of devices: axes `expert`, `data`, `fsdp`.

Experts need nothing of each other, so finetuning spreads them over all axes.
Training spreads its batch over all axes too, and its parameters over `fsdp`
(`suti.parallel.rules`). This is the one place that makes a mesh. Axis types are
Auto: the compiler places what we do not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("expert", "data", "fsdp")


def make_mesh(
  config: Mapping[str, int], *, devices: Sequence[Any] | None = None
) -> Mesh:
  """Lays the devices out along the three axes.

  Args:
    config: `config.mesh`: devices along "expert", "data" and "fsdp"; one of
      them may be -1, which takes those that the others leave.
    devices: what to lay out; those of this host if None. Where there are
      several hosts (`suti.parallel.hosts`), `jax.devices()` are those of all.

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
  # make_mesh alone knows which devices are neighbours in a TPU's torus; its
  # axes would be Explicit unless we say otherwise.
  return jax.make_mesh(
    tuple(sizes.values()),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=devices,
  )


def _owner(devices: Sequence[Any]) -> str:
  """Whose devices they are, for messages."""
  num = len({device.process_index for device in devices})
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
    mesh: the mesh.

  Raises:
    ValueError: it is no multiple of the number of devices.
  """
  if batch_size % mesh.size:
    axes = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
    name = "axis" if len(axes) == 1 else "axes"
    raise ValueError(
      f"{field}={batch_size} is not divisible by the {mesh.size} devices of"
      f" mesh {name} {' x '.join(repr(axis) for axis in axes)}: use a multiple"
      f" of {mesh.size} or set config.mesh.{axes[0]}."
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
