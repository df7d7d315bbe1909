# SPDX-License-Identifier: Apache-2.0
"""Meshes over the eight emulated devices."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from suti.parallel import mesh as meshes


def make(expert=1, data=1, fsdp=1):
  return meshes.make_mesh({"expert": expert, "data": data, "fsdp": fsdp})


def test_axes_and_their_types():
  mesh = make(expert=2, data=2, fsdp=2)
  assert mesh.axis_names == ("expert", "data", "fsdp")
  assert dict(mesh.shape) == {"expert": 2, "data": 2, "fsdp": 2}
  # JAX's own default is Explicit, under which unsharded code fails.
  assert mesh.axis_types == (AxisType.Auto,) * 3


@pytest.mark.parametrize(
  ("sizes", "expected"),
  [
    ((-1, 1, 1), (8, 1, 1)),
    ((1, -1, 2), (1, 4, 2)),
    ((2, 4, -1), (2, 4, 1)),
    ((1, 8, 1), (1, 8, 1)),
  ],
)
def test_minus_one_takes_what_is_left(sizes, expected):
  assert tuple(make(*sizes).shape.values()) == expected


@pytest.mark.parametrize(
  ("sizes", "words"),
  [
    ((1, 3, 1), "data=3, fsdp=1, which does not fit the 8 devices"),
    ((-1, 3, 1), "or one of them to -1"),
    ((1, 16, 1), "product is 8"),
    ((-1, -1, 1), "at most one of them -1"),
    ((1, 0, 1), "above 0"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, words):
  with pytest.raises(ValueError, match=words):
    make(*sizes)


def test_one_device_of_many():
  config = {"expert": 1, "data": 1, "fsdp": 1}
  mesh = meshes.make_mesh(config, devices=jax.devices()[:1])
  assert mesh.size == 1


def test_a_batch_is_spread_over_all_axes():
  mesh = make(expert=2, data=2, fsdp=2)
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
  with pytest.raises(ValueError) as caught:
    meshes.check_batch("config.train.batch_size", 30, make(data=-1))
  assert str(caught.value) == (
    "config.train.batch_size=30 is not divisible by the 8 devices of mesh axis"
    " 'data': use a multiple of 8 or set config.mesh.data."
  )
  with pytest.raises(ValueError, match="axes 'data' x 'fsdp'"):
    meshes.check_batch("config.train.batch_size", 30, make(data=4, fsdp=2))


def _single():
  config = {"expert": 1, "data": 1, "fsdp": 1}
  return meshes.make_mesh(config, devices=jax.devices()[:1])
