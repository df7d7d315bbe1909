# SPDX-License-Identifier: Apache-2.0
"""Which clusters share a compiled step.

SuTI (arXiv 2304.00186), algorithm 1 takes K = 400 clusters from a queue at a
time, one expert for each core. Here such a group is a wave: all of its experts
are trained by one program, and a wave is what a killed run does again at most.
Waves follow the order of the clusters' keys, which are hashes of their content:
whatever order mining finds them in, a cluster lands in the same wave.

Every wave has as many places on the devices, so that one program serves them
all: those that it has no expert for are filled up. `map_experts` runs a
function of one expert on all places so that no device ever speaks to another.
What the function does is not known here.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from suti.pipeline.backbone import Backbone
from suti.pipeline.conditioning import cut_pictures, whole_pictures
from suti.schema import Cluster

# E experts of a wave, K pictures of a cluster, H W C latent.

# Room for the largest cluster of the paper: clusters of other limits, such as a
# benchmark's, then share a compiled program.
PICTURES = 10
# Steps whose losses are one mean, where an expert's last ones are compared with
# its first: each is of a few pictures at any noise. Of losses as unequal as
# those of one picture a step, exp(-5u) of uniform u, of 500 steps, 1 run in
# 20,000 has a window at six times its first; of windows of 10 steps 1 in 50.
DIVERGENCE_WINDOW = 25


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Wave:
  """Experts trained together.

  Attributes:
    index: its place, from 0.
    keys: its clusters.
    num_active: places that experts take, the first ones; where they are fewer
      than experts, these take turns (`experts.farm.slots`).
    num_slots: with those that are filled up.
  """

  index: int
  keys: tuple[str, ...]
  num_active: int
  num_slots: int

  @property
  def name(self) -> str:
    """The stem of its files."""
    return f"wave-{self.index:05d}"


def make_waves(
  keys: Iterable[str],
  *,
  experts_per_wave: int,
  num_devices: int,
  experts_per_slot: int = 1,
  limit: int | None = None,
) -> list[Wave]:
  """Divides clusters into waves.

  Args:
    keys: keys of clusters, in any order.
    experts_per_wave: clusters of a wave; the last has fewer.
    num_devices: of `count_slots`.
    experts_per_slot: of `count_slots`.
    limit: how many clusters at most, the first in the order of their keys; None
      or 0 takes them all.

  Returns: the waves, all of as many slots. Which clusters share one depends on
    nothing but their keys and `experts_per_wave`.
  """
  ordered = sorted(set(keys))[: limit or None]
  active, slots = count_slots(
    len(ordered),
    experts_per_wave=experts_per_wave,
    num_devices=num_devices,
    experts_per_slot=experts_per_slot,
  )
  return [
    Wave(
      index=index,
      keys=tuple(ordered[start : start + experts_per_wave]),
      num_active=min(active, len(ordered) - start),
      num_slots=slots,
    )
    for index, start in enumerate(range(0, len(ordered), experts_per_wave))
  ]


def count_slots(
  num_experts: int,
  *,
  experts_per_wave: int,
  num_devices: int,
  experts_per_slot: int,
) -> tuple[int, int]:
  """Slots of a wave: experts that are trained together.

  Args:
    num_experts: of all waves.
    experts_per_wave: clusters of a wave; the last has fewer.
    num_devices: each of them gets as many slots.
    experts_per_slot: how many experts of a wave there are for each slot.

  Returns: slots that experts take, whatever the devices, and all slots, those
    that only pad the wave included.
  """
  active = min(-(-experts_per_wave // experts_per_slot), num_experts)
  return active, -(-active // num_devices) * num_devices


def wave_data(
  clusters: Sequence[Cluster],
  backbone: Backbone,
  *,
  num_pictures: int,
  seed: int,
) -> dict[str, Any]:
  """What the experts of a wave learn from; texts are encoded once, here.

  Args:
    clusters: one for each expert.
    backbone: encodes texts and pictures.
    num_pictures: K; clusters with fewer are filled up with rows never drawn.
    seed: of the config; an expert's key is of it and its cluster's key.

  Returns: `x_KHWC`, `conditioning` (of each, see
  `suti.pipeline.conditioning`),
    `num` (pictures there are) and `key` of each expert, with E in front.
  """
  images: list[np.ndarray] = []  # X of the whole wave, nothing filled up
  captions: list[str] = []
  sizes: list[np.ndarray] = []
  rows_EK, num_E, keys = [], [], []
  for cluster in clusters:
    num = min(len(cluster.images), num_pictures)
    order_K = np.minimum(np.arange(num_pictures), num - 1)
    rows_EK.append(len(images) + order_K)
    images += cluster.images[:num]
    captions += cluster.captions[:num]
    sizes.append(_sizes(cluster)[:num])
    num_E.append(num)
    _check_size(cluster, backbone)
    keys.append(jax.random.key_data(expert_key(seed, cluster.key)))
  x_XHWC = backbone.encode_pictures(images)
  conditioning = backbone.encode_text(
    captions, time_ids_BI=np.concatenate(sizes)
  )
  return {
    "x_KHWC": x_XHWC[rows_EK],
    "conditioning": {name: x_X[rows_EK] for name, x_X in conditioning.items()},
    "num": np.asarray(num_E, np.int32),
    "key": np.stack(keys),
  }


def _check_size(cluster: Cluster, backbone: Backbone) -> None:
  """Refuses pictures of another size: convolutions would not."""
  size_px = cluster.images[0].shape[0]
  if size_px != backbone.size_px:
    raise ValueError(
      f"experts/mine holds pictures of {size_px} px, and config.backbone draws"
      f" {backbone.size_px} px: delete experts/mine and run experts.mine anew"
      f" with config.size_px={backbone.size_px}."
    )


def describe_wave(
  backbone: Backbone, *, num_experts: int, num_pictures: int
) -> dict[str, Any]:
  """The shapes of `wave_data`, to compile for; it reads no cluster.

  Args:
    backbone: opened, or described.
    num_experts, num_pictures: E and K.
  """
  conditioning = backbone.encode_text([""])
  leaves = {
    "x_KHWC": ((num_pictures, *backbone.latent_shape), np.float32),
    "num": ((), np.int32),
    "key": ((2,), np.uint32),
    "conditioning": {
      n: ((num_pictures, *x.shape[1:]), x.dtype)
      for n, x in conditioning.items()
    },
  }
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((num_experts, *leaf[0]), leaf[1]),
    leaves,
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )


def _sizes(cluster: Cluster) -> np.ndarray:
  """Sizes of a cluster's pictures, as SDXL takes them, (K, 6)."""
  height_px, width_px, _ = cluster.images[0].shape
  if cluster.originals is None:
    num = len(cluster.images)
    return whole_pictures(num, height_px=height_px, width_px=width_px)
  return cut_pictures(np.asarray(cluster.originals), size_px=height_px)


def expert_key(seed: int, cluster: str) -> jax.Array:
  """The random key of an expert: of what it learns from, not of its place."""
  return jax.random.fold_in(
    jax.random.key(seed), np.uint32(int(cluster, 16) % 2**32)
  )


def map_experts(
  function: Callable, mesh: Mesh, *, inner: str
) -> Callable[..., Any]:
  """Maps a function of one expert over a wave, without communication.

  Args:
    function: (shared, *of one expert) -> tree of arrays.
    mesh: all of its axes divide the experts.
    inner: how the experts of one device run: "vmap", all at once, or "map", one
      after the other, in the memory of one. One alone is not mapped by "vmap":
      its own kernels then make plain convolutions.

  Returns: (shared, *trees with leading E) -> tree with leading E.
  """
  assert inner in ("vmap", "map"), inner

  def device(shared, experts):
    def one(rows):
      return function(shared, *rows)

    if inner == "map":
      return lax.map(one, experts)
    if len(jax.tree.leaves(experts)[0]) == 1:
      alone = one(jax.tree.map(lambda x: x[0], experts))
      return jax.tree.map(lambda x: x[None], alone)
    return jax.vmap(one)(experts)

  wave = map_devices(device, mesh)
  return lambda shared, *experts: wave(shared, experts)


def map_devices(function: Callable, mesh: Mesh) -> Callable[[Any, Any], Any]:
  """Runs a function on each device's part of a wave, without communication.

  Args:
    function: (shared, rows of a device) -> tree of arrays with as many rows.
    mesh: all of its axes divide the rows.

  Returns: (shared, tree with leading E) -> tree with leading E.
  """
  each = P(mesh.axis_names)
  # check_vma: every output belongs to an expert; there is nothing to check.
  return jax.shard_map(
    function, mesh=mesh, in_specs=(P(), each), out_specs=each, check_vma=False
  )
