# SPDX-License-Identifier: Apache-2.0
"""Divides clusters into waves, and maps functions over the experts of a wave.

SuTI (arXiv 2304.00186), algorithm 1 takes K = 400 clusters from a queue at a
time, one expert for each core. Here such a group is a wave: all of its experts
are trained by one program, and a killed run loses at most a wave. Waves are in
the order of the clusters' keys, which are hashes of their content: a cluster is
in the same wave whatever order mining finds them in.

All waves have the same number of slots on the devices, so that one program
serves them all: slots without an expert are padding. `map_experts` runs any
function of one expert on all slots, without communication between devices.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from experts.farm.text_tokens import blank_row, text_rows
from experts.teacher import TEXTUAL
from suti.pipeline.backbone import Backbone
from suti.pipeline.conditioning import cut_pictures, whole_pictures
from suti.schema import Cluster

# E experts of a wave, K pictures of a cluster, H W C latent.

# The largest cluster of the paper: all configs pad to it, such as a benchmark's
# with another limit, and so share a compiled program.
PICTURES = 10
# Steps whose losses are averaged to compare an expert's last ones with its
# first: each is of a few pictures at random noise. Of losses as unequal as
# those of one picture a step, exp(-5u) of uniform u, of 500 steps, 1 run in
# 20,000 has a window at six times its first; of windows of 10 steps 1 in 50.
DIVERGENCE_WINDOW = 25


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Wave:
  """Experts trained together.

  Attributes:
    index: its number, from 0.
    keys: its clusters.
    num_active: slots with experts, the first ones; if there are fewer than
      experts, slots are refilled (`experts.farm.slots`).
    num_slots: all slots, with padding.
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

  Returns: the waves, all with the same number of slots. Which clusters share a
    wave depends only on their keys and `experts_per_wave`.
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
  """Counts the slots of a wave: experts that are trained together.

  Args:
    num_experts: of all waves.
    experts_per_wave: clusters of a wave; the last has fewer.
    num_devices: each of them gets the same number of slots.
    experts_per_slot: experts of a wave per slot.

  Returns: the number of slots with experts, which does not depend on the
    devices, and of all slots, padding included.
  """
  active = min(-(-experts_per_wave // experts_per_slot), num_experts)
  return active, -(-active // num_devices) * num_devices


def padded_pictures(config: Any) -> int:
  """K of `wave_data`, of a whole config."""
  most = config.mine.max_images
  if config.finetune.num_pictures is not None:
    most = min(most, config.finetune.num_pictures)
  return max(most, PICTURES)


def wave_data(
  clusters: Sequence[Cluster],
  backbone: Backbone,
  *,
  num_pictures: int,
  seed: int,
  most: int | None = None,
  asks: Collection[str] = (),
  causes: dict[str, str] | None = None,
) -> dict[str, Any]:
  """The training data of a wave; texts are encoded once, here.

  Args:
    clusters: one for each expert.
    backbone: encodes texts and pictures.
    num_pictures: K; smaller clusters are padded with rows that are never used.
    seed: of the config; an expert's random key is made of it and its cluster's.
    most: `config.finetune.num_pictures`, the first that are used of each.
    asks: what a teacher asks for; what of it is of texts is given here.
    causes: {cluster: why it cannot give that}; added to.

  Returns: `x_KHWC`, `conditioning` (of each, see
    `suti.pipeline.conditioning`), `num` (of pictures without padding) and `key`
    of each expert, with E in front; and `asked`, of each caption what a teacher
    asks for, if there is any.
  """
  images: list[np.ndarray] = []  # X pictures of the whole wave, without padding
  captions: list[str] = []
  sizes: list[np.ndarray] = []
  rows_EK, num_E, keys = [], [], []
  for cluster in clusters:
    num = min(len(cluster.images), most or num_pictures)
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
  data = {
    "x_KHWC": x_XHWC[rows_EK],
    "conditioning": {name: x_X[rows_EK] for name, x_X in conditioning.items()},
    "num": np.asarray(num_E, np.int32),
    "key": np.stack(keys),
  }
  if TEXTUAL & set(asks):
    texts = {
      cluster.key: cluster.captions[:num]
      for cluster, num in zip(clusters, num_E, strict=True)
    }
    found = text_rows(
      texts,
      {cluster.key: cluster.subject for cluster in clusters},
      backbone,
      wanted=asks,
      causes={} if causes is None else causes,
      what="caption",
    )
    of = dict(zip(texts, found, strict=True))
    rows_X = [row for cluster in clusters for row in of[cluster.key]]
    data["asked"] = {
      name: np.stack([row[name] for row in rows_X])[rows_EK]
      for name in rows_X[0]
    }
  return data


def _check_size(cluster: Cluster, backbone: Backbone) -> None:
  """Refuses pictures of another size, which convolutions would accept."""
  size_px = cluster.images[0].shape[0]
  if size_px != backbone.size_px:
    raise ValueError(
      f"experts/mine holds pictures of {size_px} px, and config.backbone makes"
      f" {backbone.size_px} px: delete experts/mine and run experts.mine anew"
      f" with config.size_px={backbone.size_px}."
    )


def describe_wave(
  backbone: Backbone,
  *,
  num_experts: int,
  num_pictures: int,
  asks: Collection[str] = (),
) -> dict[str, Any]:
  """The shapes of `wave_data`, to compile for; it reads no cluster.

  Args:
    backbone: opened, or described.
    num_experts, num_pictures: E and K.
    asks: as for `wave_data`.
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
  if blank := blank_row(backbone, asks):
    leaves["asked"] = {
      n: ((num_pictures, *x.shape), x.dtype) for n, x in blank.items()
    }
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((num_experts, *leaf[0]), leaf[1]),
    leaves,
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )


def _sizes(cluster: Cluster) -> np.ndarray:
  """Time ids of a cluster's pictures, for SDXL, (K, 6)."""
  height_px, width_px, _ = cluster.images[0].shape
  if cluster.originals is None:
    num = len(cluster.images)
    return whole_pictures(num, height_px=height_px, width_px=width_px)
  return cut_pictures(np.asarray(cluster.originals), size_px=height_px)


def expert_key(seed: int, cluster: str) -> jax.Array:
  """The random key of an expert, of its cluster's key and not of its slot."""
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
    inner: how the experts of one device run: "vmap", in parallel, or "map", one
      after the other, in the memory of one. A single expert is not mapped by
      "vmap", so that its convolutions are plain ones.

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
  """Runs a function on each device's rows of a wave, without communication.

  Args:
    function: (shared, rows of a device) -> tree of arrays with as many rows.
    mesh: all of its axes divide the rows.

  Returns: (shared, tree with leading E) -> tree with leading E.
  """
  each = P(mesh.axis_names)
  # check_vma: no output is replicated; there is nothing to check.
  return jax.shard_map(
    function, mesh=mesh, in_specs=(P(), each), out_specs=each, check_vma=False
  )
