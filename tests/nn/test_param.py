# SPDX-License-Identifier: Apache-2.0
"""Declaring, naming, drawing and applying parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.nn.layers import Linear
from suti.nn.param import (
  LECUN,
  NORMAL,
  ZEROS,
  Module,
  ModuleList,
  Placeholder,
  copy,
  functional,
  init,
  modules,
  normal,
  param,
  slot,
  split,
  without,
)


class Net(Module):
  def __init__(self, *, swapped=False):
    def put_first():
      self.first = Linear(3, 4)

    def put_net():
      self.net = ModuleList([Linear(4, 4), Placeholder(), Linear(4, 2)])

    for put in (put_net, put_first) if swapped else (put_first, put_net):
      put()
    self.scale = param((), init=ZEROS, axes=())
    self.adapter = slot()

  def __call__(self, x):
    return self.net[2](self.net[0](self.first(x))) + self.scale[...]

  def half(self, x, *, times):
    return self.first(x) * times


NAMES = {
  "first.weight": (3, 4),
  "first.bias": (4,),
  "net.0.weight": (4, 4),
  "net.0.bias": (4,),
  "net.2.weight": (4, 2),
  "net.2.bias": (2,),
  "scale": (),
}


@pytest.fixture
def net():
  spec, apply = functional(Net())
  return spec, apply, init(spec, jax.random.key(0))


def test_a_name_is_the_path_of_attributes_and_indices():
  spec, _ = functional(Net())
  assert {name: p.shape for name, p in spec.items()} == NAMES
  assert spec["first.weight"].axes == ("in", "out")
  assert spec["first.weight"].torch == "o i -> i o"
  assert spec["net.2.weight"].size == 8


def test_a_declaration_holds_no_array():
  module = Net()
  assert isinstance(module.first.weight.get_value(), jax.ShapeDtypeStruct)


def test_apply_is_pure_and_compiles(net):
  _, apply, params = net
  before = {name: np.asarray(value) for name, value in params.items()}
  x = jnp.ones((2, 3))
  eager, compiled = apply(params, x), jax.jit(apply)(params, x)
  np.testing.assert_allclose(eager, compiled, rtol=1e-6)
  np.testing.assert_array_equal(eager, apply(params, x))
  for name, value in before.items():
    np.testing.assert_array_equal(params[name], value)


def test_apply_calls_other_methods(net):
  _, apply, params = net
  x = jnp.ones((2, 3))
  expected = 3 * (x @ params["first.weight"] + params["first.bias"])
  found = apply(params, x, method="half", times=3)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_apply_names_what_is_absent_and_ignores_what_is_more(net):
  _, apply, params = net
  x = jnp.ones((2, 3))
  more = params | {"adapter.weight": jnp.ones(3)}
  np.testing.assert_array_equal(apply(more, x), apply(params, x))
  with pytest.raises(ValueError, match=r"2 of 7 parameters are absent.*first"):
    apply(split(params, "^first")[1], x)


def test_gradients_and_vmap_over_parameters(net):
  spec, apply, _ = net
  keys = jax.random.split(jax.random.key(1), 3)
  params_E = jax.vmap(lambda key: init(spec, key))(keys)
  x_EBD = jax.random.normal(jax.random.key(2), (3, 2, 3))

  @jax.jit
  def step(params, x):
    return jax.grad(lambda p: jnp.square(apply(p, x)).sum())(params)

  together = jax.jit(jax.vmap(step))(params_E, x_EBD)
  for e in range(3):
    alone = step(init(spec, keys[e]), x_EBD[e])
    assert alone.keys() == NAMES.keys()
    for name, value in alone.items():
      np.testing.assert_allclose(together[name][e], value, rtol=1e-5, atol=1e-6)


def test_a_draw_depends_on_key_and_name_alone(net):
  spec, _, params = net
  other, _ = functional(Net(swapped=True))
  again = init(dict(reversed(other.items())), jax.random.key(0))
  for name, value in params.items():
    np.testing.assert_array_equal(again[name], value)
  one = init({"net.2.weight": spec["net.2.weight"]}, jax.random.key(0))
  np.testing.assert_array_equal(one["net.2.weight"], params["net.2.weight"])
  for changed in (
    init(spec, jax.random.key(1))["first.weight"],
    init({"second": spec["first.weight"]}, jax.random.key(0))["second"],
  ):
    assert not np.allclose(changed, params["first.weight"])


def test_draws_have_the_spread_they_promise():
  key = jax.random.key(0)
  for draw, shape, std in (
    (LECUN, (3, 3, 25, 64), 1 / 15),
    (NORMAL, (300, 100), 0.02),
    (normal(2.0), (99, 101), 2.0),
  ):
    values = np.asarray(draw(key, shape, jnp.float32))
    assert values.shape == shape
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.std(), std, rtol=0.03)
    assert abs(values.mean()) < 0.03 * std
    assert abs(values).max() <= 2 * std / 0.879


def test_parting_by_name(net):
  spec, _, params = net
  matching, rest = split(params, r"\.bias$")
  assert set(matching) == {"first.bias", "net.0.bias", "net.2.bias"}
  assert matching | rest == params
  assert not matching.keys() & rest.keys()
  assert without(spec, matching).keys() == rest.keys()


def test_a_copy_is_changed_alone():
  module = Net()
  changed = copy(module)
  changed.adapter = Linear(2, 2)
  assert "adapter.weight" in functional(changed)[0]
  assert functional(module)[0].keys() == NAMES.keys()
  assert "net.2" in dict(modules(module))
