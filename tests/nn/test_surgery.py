# SPDX-License-Identifier: Apache-2.0
"""Adding to declared models without touching what they have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.nn.layers import Conv2d, Linear
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
from suti.nn.surgery import (
  adapter,
  joined,
  lora,
  lora_at,
  merge,
  ranks,
  remat,
)


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
    f"blocks.{i}.{layer}.lora_{part}.weight"
    for i in range(2)
    for layer in ("to_q", "to_out.0")
    for part in "AB"
  }
  assert {k: v for k, v in spec.items() if k in base} == base
  params = init(spec, jax.random.key(0))
  np.testing.assert_array_equal(apply(params, X), base_apply(params, X))


def drawn(spec, key=0):
  """Parameters without a zero among them."""
  return {
    name: jax.random.normal(jax.random.fold_in(jax.random.key(key), i), p.shape)
    for i, (name, p) in enumerate(spec.items())
  }


class Pictures(Module):
  """Every kind of layer that can have an update, with its own padding."""

  def __init__(self):
    self.conv_in = Conv2d(3, 4, 3)
    self.downsampler = Conv2d(4, 6, 3, stride=2)
    self.patches = Conv2d(6, 6, 2, stride=2, padding=0, bias=False)
    self.proj = Conv2d(6, 4, 1)
    self.out = Linear(4, 5)

  def __call__(self, x_BHWC):
    x_BHWC = self.downsampler(jnp.tanh(self.conv_in(x_BHWC)))
    return self.out(self.proj(self.patches(x_BHWC)))


PATHS = ("conv_in", "downsampler", "patches", "proj", "out")
WIDTHS = {path: 1 + i for i, path in enumerate(PATHS)}


@pytest.fixture(scope="module")
def pictures():
  """The layers alone and with updates: descriptions and functions."""
  base, base_apply = functional(Pictures())
  spec, apply = functional(lora_at(Pictures(), WIDTHS))
  return base, jax.jit(base_apply), spec, jax.jit(apply)


@pytest.mark.parametrize("scale", [1.0, -0.4])
def test_an_update_beside_its_layers_is_the_update_merged_into_them(
  pictures, scale
):
  base, base_apply, spec, apply = pictures
  x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  # A quarter, so that what comes out is about one.
  params = {name: value / 4 for name, value in drawn(spec).items()}
  update = without(params, base)
  assert ranks(update) == WIDTHS
  beside = apply(params | joined([(update, scale)]), x)
  merged = merge(without(params, update), update, scale=scale)
  assert merged.keys() == base.keys()
  np.testing.assert_allclose(
    beside, base_apply(merged, x), rtol=1e-5, atol=1e-5
  )
  assert float(jnp.abs(beside - base_apply(params, x)).max()) > 0.1
  back = merge(merged, update, scale=-scale)
  for name in base:
    np.testing.assert_allclose(back[name], params[name], rtol=0, atol=1e-6)


def test_a_merged_weight_keeps_its_dtype():
  spec, _ = functional(lora(Net(), "to_q", rank=2))
  params = drawn(spec)
  update, frozen = split(params, "lora_")
  frozen = {k: v.astype(jnp.bfloat16) for k, v in frozen.items()}
  merged = merge(frozen, update)
  assert {v.dtype for v in merged.values()} == {jnp.dtype(jnp.bfloat16)}


def test_lora_in_float32_on_a_base_in_bfloat16():
  spec, apply = functional(lora(Net(), "to_q", rank=2))
  trained, frozen = split(init(spec, jax.random.key(0)), r"\.lora_")
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
  calls = []

  def make(path, block):
    calls.append((path, block.dim))
    return Scale(block.dim, ZEROS)

  net = Net()
  changed = adapter(net, r"blocks\.1$", make)
  assert calls == [("blocks.1", 4)]
  assert net.blocks[1].adapter is None
  assert changed.blocks[0].adapter is None
  both = lora(changed, r"blocks\.0\.to_q$", rank=1)
  names = set(functional(both)[0]) - set(functional(net)[0])
  assert names == {
    "blocks.0.to_q.lora_A.weight",
    "blocks.0.to_q.lora_B.weight",
    "blocks.1.adapter.out.weight",
  }


@pytest.mark.parametrize(
  ("operate", "message"),
  [
    (
      lambda net: lora(net, "to_k", rank=1),
      "no linear layer or convolution; one is 'blocks.0.to_out.0'",
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


def test_recomputed_blocks_keep_less_and_change_nothing():
  base, base_apply = functional(Net())
  spec, apply = functional(remat(Net(), r"blocks\.\d+$"))
  assert spec == base
  params = init(spec, jax.random.key(0))

  def gradient(apply):
    def loss(params):
      return jnp.square(apply(params, X)).sum()

    kept = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
    return jax.jit(jax.grad(loss))(params), len(jax.tree.leaves(kept))

  expected, kept_by_base = gradient(base_apply)
  found, kept = gradient(apply)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected
  )
  assert kept < kept_by_base

  with pytest.raises(ValueError, match="matches no block"):
    remat(Net(), "resnets")
