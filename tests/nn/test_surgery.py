# SPDX-License-Identifier: Apache-2.0
"""Adding to declared models without touching what they have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.nn.layers import Linear
from suti.nn.param import (
  ZEROS,
  Module,
  ModuleList,
  functional,
  init,
  slot,
  split,
  without,
)
from suti.nn.surgery import adapter, lora


class Block(Module):
  def __init__(self, dim):
    self.dim = dim
    self.to_q = Linear(dim, dim, bias=False)
    self.to_out = ModuleList([Linear(dim, dim)])
    self.adapter = slot()

  def __call__(self, x, context):
    x = self.to_out[0](self.to_q(x))
    if self.adapter is not None and context is not None:
      x = x + self.adapter(x, context)
    return x


class Net(Module):
  def __init__(self):
    self.blocks = ModuleList([Block(4), Block(4)])

  def __call__(self, x, context=None):
    for block in self.blocks:
      x = block(x, context)
    return x


class Scale(Module):
  def __init__(self, dim, init):
    self.out = Linear(dim, dim, bias=False, init=init)

  def __call__(self, x, context):
    return self.out(x) * context


X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def test_lora_keeps_names_and_starts_as_the_base():
  base, base_apply = functional(Net())
  spec, apply = functional(lora(Net(), r"to_(q|out\.0)$", rank=2))
  added = without(spec, base)
  assert added.keys() == {
    f"blocks.{i}.{layer}.lora.{part}.weight"
    for i in range(2)
    for layer in ("to_q", "to_out.0")
    for part in ("down", "up")
  }
  assert {k: v for k, v in spec.items() if k in base} == base
  params = init(spec, jax.random.key(0))
  np.testing.assert_array_equal(apply(params, X), base_apply(params, X))


def test_lora_adds_the_product_of_its_factors():
  spec, apply = functional(lora(Net(), r"blocks\.0\.to_q", rank=2))
  params = init(spec, jax.random.key(0))
  up = "blocks.0.to_q.lora.up.weight"
  params[up] = jax.random.normal(jax.random.key(1), (2, 4))
  merged = params | {
    "blocks.0.to_q.weight": params["blocks.0.to_q.weight"]
    + params["blocks.0.to_q.lora.down.weight"] @ params[up]
  }
  _, base_apply = functional(Net())
  np.testing.assert_allclose(
    apply(params, X), base_apply(merged, X), rtol=1e-5, atol=1e-6
  )


def test_lora_in_float32_on_a_base_in_bfloat16():
  spec, apply = functional(lora(Net(), "to_q", rank=2))
  trained, frozen = split(init(spec, jax.random.key(0)), r"\.lora\.")
  frozen = {k: v.astype(jnp.bfloat16) for k, v in frozen.items()}
  gradients = jax.grad(
    lambda p: apply(frozen | p, X).astype(jnp.float32).sum()
  )(trained)
  assert apply(frozen | trained, X).dtype == jnp.bfloat16
  assert {g.dtype for g in gradients.values()} == {jnp.dtype(jnp.float32)}
  assert any((g != 0).any() for g in gradients.values())


def test_an_adapter_that_starts_at_zero_changes_nothing():
  base, base_apply = functional(Net())
  declared = adapter(Net(), "", lambda _, block: Scale(block.dim, ZEROS))
  spec, apply = functional(declared)
  assert without(spec, base).keys() == {
    f"blocks.{i}.adapter.out.weight" for i in range(2)
  }
  params = init(spec, jax.random.key(0))
  expected = base_apply(params, X)
  np.testing.assert_array_equal(apply(params, X, context=2.0), expected)
  params["blocks.1.adapter.out.weight"] = jnp.eye(4)
  np.testing.assert_array_equal(apply(params, X), expected)
  np.testing.assert_allclose(
    apply(params, X, context=2.0), 3 * expected, rtol=1e-6
  )


def test_make_is_told_where_and_the_original_stays():
  told = []

  def make(path, block):
    told.append((path, block.dim))
    return Scale(block.dim, ZEROS)

  net = Net()
  changed = adapter(net, r"blocks\.1$", make)
  assert told == [("blocks.1", 4)]
  assert net.blocks[1].adapter is None
  assert changed.blocks[0].adapter is None
  both = lora(changed, r"blocks\.0\.to_q$", rank=1)
  names = set(functional(both)[0]) - set(functional(net)[0])
  assert names == {
    "blocks.0.to_q.lora.down.weight",
    "blocks.0.to_q.lora.up.weight",
    "blocks.1.adapter.out.weight",
  }


@pytest.mark.parametrize(
  ("operate", "message"),
  [
    (
      lambda net: lora(net, "to_k", rank=1),
      "'to_k' matches no linear layer; one is 'blocks.0.to_out.0'",
    ),
    (lambda net: lora(net, "to_q", rank=0), "rank=0 of LoRA"),
    (
      lambda net: adapter(net, "mid", lambda *_: Scale(4, ZEROS)),
      "'mid' matches no block with a place for an adapter; one is 'blocks.0'",
    ),
  ],
)
def test_mistakes(operate, message):
  with pytest.raises(ValueError, match=message):
    operate(Net())
