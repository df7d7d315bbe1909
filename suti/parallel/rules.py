# SPDX-License-Identifier: Apache-2.0
"""From a parameter's name and logical axes to its sharding.

Fully sharded data parallelism (ZeRO stage 3, arXiv 1910.02054): one dim of each
large parameter, and of all that the optimizer keeps of it, is spread over the
mesh's `fsdp` axis; the compiler gathers a layer when it is used. A description
needs only `shape` and `axes`, so nothing here depends on how nets are declared.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Which logical axis is spread, in order of preference. "out" first: a layer's
# output then comes out spread as its bias is, and a gather is of weights alone.
PREFERRED = ("out", "in", "vocab")

# Smaller parameters are kept whole on every device: gathering them costs more
# time than they take room.
MIN_ELEMENTS = 2**14


class Described(Protocol):
  """What is known of a parameter before it has a value."""

  @property
  def shape(self) -> tuple[int, ...]:
    """Its dims."""
    ...

  @property
  def axes(self) -> tuple[str | None, ...]:
    """A logical name, or None, for each dim."""
    ...


def partition(
  described: Described, num_shards: int, *, min_elements: int = MIN_ELEMENTS
) -> P:
  """Chooses the dim of a parameter that is spread over `fsdp`.

  Args:
    described: shape and logical axes.
    num_shards: size of the mesh's `fsdp` axis.
    min_elements: parameters with fewer stay whole.

  Returns:
    A spec with at most one dim over `fsdp`: that of the most preferred logical
    axis among the dims that can be divided evenly.
  """
  shape, axes = described.shape, described.axes
  if num_shards > 1 and math.prod(shape) >= min_elements:
    for name in PREFERRED:
      for dim, axis in enumerate(axes):
        if axis == name and shape[dim] % num_shards == 0:
          return P(*[None] * dim, "fsdp")
  return P()


def param_shardings(
  spec: Mapping[str, Described],
  mesh: Mesh,
  *,
  min_elements: int = MIN_ELEMENTS,
) -> dict[str, NamedSharding]:
  """Shards parameters by name and logical axes.

  Args:
    spec: `{name: description}`, as of `suti.nn.param.functional`.
    mesh: the mesh.
    min_elements: parameters with fewer stay whole.

  Returns:
    `{name: sharding}`.
  """
  num_shards = mesh.shape["fsdp"]
  return {
    name: NamedSharding(
      mesh, partition(described, num_shards, min_elements=min_elements)
    )
    for name, described in spec.items()
  }


def state_shardings(
  state: Any, shardings: Mapping[str, NamedSharding], mesh: Mesh
) -> Any:
  """Shards a training state: what belongs to a parameter goes where it is.

  Args:
    state: tree of arrays or of their shapes, such as {"params", "ema", "opt",
      "step", "key"}; parameters, averages and moments are flat dicts by name.
    shardings: of the parameters, by name.
    mesh: the mesh.

  Returns:
    The tree of shardings. A leaf follows a parameter if a key on its path is
    the parameter's name and the parameter's spec fits its shape; Adafactor's
    row and column means, steps and keys are whole on every device.
  """
  whole = NamedSharding(mesh, P())

  def choose(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    for entry in reversed(path):
      name = getattr(entry, "key", None)
      if isinstance(name, str) and name in shardings:
        return shardings[name] if _fits(shardings[name], leaf) else whole
    return whole

  def _fits(sharding: NamedSharding, leaf: Any) -> bool:
    spec = sharding.spec
    if len(spec) > len(leaf.shape):
      return False
    return all(
      leaf.shape[dim] % _num_shards(axis, mesh) == 0
      for dim, axis in enumerate(spec)
    )

  return jax.tree_util.tree_map_with_path(choose, state)


def _num_shards(axis: Any, mesh: Mesh) -> int:
  """Into how many parts an entry of a spec cuts a dim."""
  if axis is None:
    return 1
  axes = (axis,) if isinstance(axis, str) else axis
  return math.prod(mesh.shape[name] for name in axes)
