# SPDX-License-Identifier: Apache-2.0
"""Sharding by name and logical axes, and that it changes no result."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from suti.parallel import mesh as meshes
from suti.parallel import rules


@dataclasses.dataclass(frozen=True)
class Param:
  shape: tuple
  axes: tuple


SPEC = {
  "down.conv.weight": Param((3, 3, 64, 128), (None, None, "in", "out")),
  "down.conv.bias": Param((128,), ("out",)),
  "attn.to_q.weight": Param((128, 256), ("in", "out")),
  "conv_out.weight": Param((3, 3, 512, 7), (None, None, "in", "out")),
  "embed.weight": Param((4000, 15), ("vocab", "out")),
  "odd.weight": Param((333, 555), ("in", "out")),
  "scale": Param((), ()),
}


@pytest.fixture(scope="module")
def mesh():
  return meshes.make_mesh({"expert": 1, "data": 2, "fsdp": 4})


def test_the_output_dim_is_spread_where_it_can_be(mesh):
  chosen = {
    name: sharding.spec
    for name, sharding in rules.param_shardings(SPEC, mesh).items()
  }
  assert chosen == {
    "down.conv.weight": P(None, None, None, "fsdp"),
    "down.conv.bias": P(),  # Too small to be worth a gather.
    "attn.to_q.weight": P(None, "fsdp"),
    "conv_out.weight": P(None, None, "fsdp"),  # 7 outputs on 4 devices.
    "embed.weight": P("fsdp"),
    "odd.weight": P(),  # No dim can be divided by 4.
    "scale": P(),
  }


def test_nothing_is_spread_without_an_axis_for_it():
  mesh = meshes.make_mesh({"expert": 1, "data": -1, "fsdp": 1})
  shardings = rules.param_shardings(SPEC, mesh)
  assert all(s.spec == P() for s in shardings.values())


@pytest.mark.parametrize("name", ["adam", "adafactor"])
def test_the_optimizer_follows_its_parameters(mesh, name):
  params = {n: jnp.zeros(p.shape) for n, p in SPEC.items()}
  tx = {"adam": optax.adam, "adafactor": optax.adafactor}[name](1e-3)
  state = jax.eval_shape(
    lambda: {
      "params": params,
      "opt": tx.init(params),
      "step": jnp.zeros((), jnp.int32),
    }
  )
  shardings = rules.param_shardings(SPEC, mesh)
  placed = rules.state_shardings(state, shardings, mesh)
  assert placed["params"] == shardings
  assert placed["step"].spec == P()
  # Every leaf can really be placed so.
  jax.tree.map(lambda s, leaf: s.shard_shape(leaf.shape), placed, state)
  if name == "adam":
    assert placed["opt"][0].mu == shardings
    assert placed["opt"][0].nu == shardings


# Optax raises a float to an int power, which strict promotion forbids.
@jax.numpy_dtype_promotion("standard")
def test_a_spread_step_gives_the_same_numbers(mesh):
  keys = iter(jax.random.split(jax.random.key(0), 9))
  spec = {
    "a.weight": Param((64, 256), ("in", "out")),
    "b.weight": Param((256, 64), ("in", "out")),
  }
  params = {n: jax.random.normal(next(keys), p.shape) for n, p in spec.items()}
  x_BD = jax.random.normal(next(keys), (16, 64))
  tx = optax.adam(1e-2)

  def step(state, x_BD):
    def loss_of(params):
      y_BD = jnp.tanh(x_BD @ params["a.weight"]) @ params["b.weight"]
      return jnp.square(y_BD - x_BD).mean()

    grads = jax.grad(loss_of)(state["params"])
    updates, opt = tx.update(grads, state["opt"], state["params"])
    return {"params": optax.apply_updates(state["params"], updates), "opt": opt}

  state = {"params": params, "opt": tx.init(params)}
  alone = jax.jit(step)(state, x_BD)
  placed = rules.state_shardings(
    state, rules.param_shardings(spec, mesh, min_elements=1), mesh
  )
  spread = jax.jit(step, out_shardings=placed)(
    jax.device_put(state, placed),
    jax.device_put(x_BD, meshes.batch_sharding(mesh)),
  )
  weight = spread["params"]["a.weight"]
  held = {math.prod(s.data.shape) for s in weight.addressable_shards}
  assert held == {64 * 256 // 4}
  for name in spec:
    np.testing.assert_allclose(
      alone["params"][name], spread["params"][name], atol=1e-5
    )
