# SPDX-License-Identifier: Apache-2.0
"""Meshes over the eight emulated devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from suti.parallel import mesh as meshes


def make(data=1, fsdp=1):
  return meshes.make_mesh({"data": data, "fsdp": fsdp})


def test_axes_and_their_types():
  mesh = make(data=2, fsdp=4)
  assert mesh.axis_names == ("data", "fsdp")
  assert dict(mesh.shape) == {"data": 2, "fsdp": 4}
  # JAX's own default is Explicit, under which unsharded code fails.
  assert mesh.axis_types == (AxisType.Auto,) * 2


@pytest.mark.parametrize(
  ("sizes", "expected"),
  [
    ((-1, 1), (8, 1)),
    ((-1, 2), (4, 2)),
    ((8, -1), (8, 1)),
    ((1, 8), (1, 8)),
  ],
)
def test_minus_one_takes_what_is_left(sizes, expected):
  assert tuple(make(*sizes).shape.values()) == expected


@pytest.mark.parametrize(
  ("sizes", "words"),
  [
    ((3, 1), "data=3, fsdp=1, which does not fit the 8 devices"),
    ((-1, 3), "or one of them to -1"),
    ((16, 1), "product is 8"),
    ((-1, -1), "at most one of them -1"),
    ((0, 1), "above 0"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, words):
  with pytest.raises(ValueError, match=words):
    make(*sizes)


def test_some_devices_of_many():
  one = meshes.make_mesh({"data": 1, "fsdp": 1}, devices=jax.devices()[:1])
  assert one.size == 1
  assert meshes.flat_mesh(jax.devices()[:3]).size == 3
  assert meshes.flat_mesh().size == 8


@pytest.mark.parametrize("kind", ["of training", "flat"])
def test_a_batch_is_spread_over_all_axes(kind):
  mesh = meshes.flat_mesh() if kind == "flat" else make(data=2, fsdp=4)
  rows = np.arange(16.0, dtype=np.float32).reshape(16, 1)
  put = meshes.put_batch({"x": rows}, mesh)["x"]
  np.testing.assert_array_equal(put, rows)
  assert {shard.data.shape for shard in put.addressable_shards} == {(2, 1)}
  starts = [float(s.data[0, 0]) for s in put.addressable_shards]
  assert sorted(starts) == [0, 2, 4, 6, 8, 10, 12, 14]
  whole = jax.device_put(rows, meshes.replicated(mesh))
  assert {shard.data.shape for shard in whole.addressable_shards} == {(16, 1)}


def test_an_uneven_batch_is_named():
  meshes.check_batch("config.train.batch_size", 32, make(data=-1))
  meshes.check_batch("config.train.batch_size", 3, _single())
  meshes.check_batch("config.train.batch_size", 16, meshes.flat_mesh())
  with pytest.raises(ValueError) as caught:
    meshes.check_batch("config.train.batch_size", 30, make(data=-1))
  assert str(caught.value) == (
    "config.train.batch_size=30 is not divisible by the 8 devices of mesh axis"
    " 'data': use a multiple of 8 or set config.mesh.data."
  )
  with pytest.raises(ValueError, match="axes 'data' x 'fsdp'"):
    meshes.check_batch("config.train.batch_size", 30, make(data=4, fsdp=2))
  with pytest.raises(ValueError) as caught:
    meshes.check_batch(
      "config.finetune.experts_per_wave", 30, meshes.flat_mesh()
    )
  assert str(caught.value) == (
    "config.finetune.experts_per_wave=30 is not divisible by the 8 devices of"
    " a host: use a multiple of 8."
  )


def _single():
  return meshes.flat_mesh(jax.devices()[:1])
