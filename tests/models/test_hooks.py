# SPDX-License-Identifier: Apache-2.0
"""Where a U-Net may be changed: more keys, other attention, notes, inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.models.unet import declare_unet
from suti.nn.attention import attend, attention_weights, masked_by_channels
from suti.nn.layers import Linear
from suti.nn.notes import listening
from suti.nn.param import Module, functional, init, without
from suti.nn.surgery import adapter, listen, merge_wide, remat, widen
from tests import tiny

B, L = 2, 5
UNET = declare_unet(tiny.SMALLEST_UNET)
SPEC, APPLY = functional(UNET)
PARAMS = {
  # So that no residual is near zero.
  name: 0.2 * jax.random.normal(jax.random.key(i), p.shape)
  for i, (name, p) in enumerate(SPEC.items())
}
SIDE = tiny.SMALLEST_UNET["sample_size"]
X = jax.random.normal(
  jax.random.key(1), (B, SIDE, SIDE, tiny.SMALLEST_UNET["in_channels"])
)
T = jnp.array([3, 900])
TEXT = jax.random.normal(
  jax.random.key(2), (B, L, tiny.SMALLEST_UNET["cross_attention_dim"])
)


class Keys(Module):
  """More keys: those of the context, of which some are hidden."""

  def __call__(self, x_BSD, context):
    return context["more_BLD"][..., : x_BSD.shape[-1]], context["there_BL"]


class Doubled(Module):
  """Another attention, which looks at nothing."""

  def __init__(self, dim):
    self.to_out = Linear(dim, dim)

  def __call__(self, x_BSD, text_BLD, text_mask, context):
    return context["gain"] * self.to_out(x_BSD)


def more(there):
  shape = (B, 3, 64)
  return {
    "more_BLD": 20 * jax.random.normal(jax.random.key(4), shape),
    "there_BL": jnp.broadcast_to(jnp.asarray(there), (B, 3)),
  }


@pytest.fixture(scope="module")
def extended():
  net = adapter(UNET, r"attn1$", lambda path, layer: Keys(), place="extend")
  spec, apply = functional(net)
  assert spec.keys() == SPEC.keys()
  return jax.jit(lambda context: apply(PARAMS, X, T, TEXT, context=context))


@pytest.fixture(scope="module")
def plain():
  return jax.jit(APPLY)(PARAMS, X, T, TEXT)


def test_hidden_keys_are_not_there(extended, plain):
  np.testing.assert_allclose(
    extended(more([False] * 3)), plain, atol=1e-5, rtol=1e-5
  )
  seen = extended(more([True, False, False]))
  assert np.abs(seen - plain).max() > 2e-4
  assert np.abs(seen - extended(more([True] * 3))).max() > 1e-4


def test_more_keys_share_one_softmax():
  rng = np.random.default_rng(0)
  q, k, v = (
    jnp.asarray(rng.normal(size=(B, n, 2, 8)), jnp.float32) for n in (4, 6, 6)
  )
  there = jnp.asarray([[1, 1, 1, 1, 0, 1], [1, 1, 0, 0, 0, 0]], bool)
  found = attend(q, k, v, key_mask_BL=there)
  weights = attention_weights(q, k, there[:, None, None])
  np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
  by_hand = jnp.einsum("BNSL,BLND->BSND", weights, v)
  np.testing.assert_allclose(found, by_hand, atol=1e-6)
  bias = jnp.asarray(rng.normal(size=(B, 6)), jnp.float32)
  found = attend(q, k, v, key_mask_BL=there, key_bias_BL=bias)
  weights = weights * jnp.exp(bias)[:, None, None]
  weights = weights / weights.sum(-1, keepdims=True)
  by_hand = jnp.einsum("BNSL,BLND->BSND", weights, v)
  np.testing.assert_allclose(found, by_hand, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_channels_hide_keys_as_a_mask_does(dtype):
  """What kernels compute that take no mask."""
  rng = np.random.default_rng(0)
  q, k, v = (
    jnp.asarray(rng.normal(size=(B, n, 2, 16)), dtype) for n in (4, 6, 6)
  )
  there = jnp.asarray([[1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 1]], bool)
  bias = jnp.asarray(rng.uniform(-1, 0, (B, 6)), jnp.float32)
  atol = 1e-6 if dtype == "float32" else 2e-2
  for own in (None, bias):
    wide = masked_by_channels(q, k, v, there, own, scale=0.25)
    found = attend(*wide, scale=0.25)[..., :16]
    expected = attend(q, k, v, key_mask_BL=there, key_bias_BL=own)
    np.testing.assert_allclose(
      found.astype("float32"), expected.astype("float32"), atol=atol
    )


def test_another_attention_takes_the_texts_place(plain):
  net = adapter(
    UNET,
    r"transformer_blocks\.0$",
    lambda path, block: Doubled(block.dim),
    place="instead",
  )
  spec, apply = functional(net)
  params = PARAMS | init(without(spec, SPEC), jax.random.key(0))
  call = jax.jit(lambda text, gain: apply(
    params, X, T, text, context=None if gain is None else {"gain": gain}
  ))  # fmt: skip
  np.testing.assert_allclose(call(TEXT, None), plain, atol=1e-5)
  one = call(TEXT, jnp.float32(1.0))
  np.testing.assert_array_equal(one, call(2 * TEXT, jnp.float32(1.0)))
  assert np.abs(one - call(TEXT, jnp.float32(2.0))).max() > 1e-4


def test_notes_and_their_gradients_are_the_same_with_remat():
  pattern = r"transformer_blocks\.0(\.attn2)?$"
  noting = listen(UNET, pattern)

  def run(net):
    _, apply = functional(net)

    def loss(params):
      with listening() as notes:
        y = apply(params, X, T, TEXT)
      looked = sum(jnp.square(x).sum() for x in notes.values())
      return jnp.square(y).mean() + looked, notes

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(PARAMS)

  (value, notes), grads = run(noting)
  (again, others), same = run(remat(noting, r"attentions\.\d+$"))
  assert notes.keys() == others.keys() and len(notes) > 1
  for name, x in notes.items():
    assert name.endswith("attn2") == (x.shape[-1] == L), name
    np.testing.assert_allclose(x, others[name], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(value, again, rtol=1e-5)
  for name, grad in grads.items():
    np.testing.assert_allclose(
      grad, same[name], rtol=1e-3, atol=1e-3 * np.abs(grad).max() + 1e-6
    )


def test_nobody_listens_and_nothing_is_noted(plain):
  _, apply = functional(listen(UNET, r"transformer_blocks\.0$"))
  found = jax.jit(apply)(PARAMS, X, T, TEXT)
  np.testing.assert_allclose(found, plain, atol=1e-6)


def test_a_wider_input_starts_as_it_was_and_merges(plain):
  net = widen(UNET, "conv_in", 1)
  spec, apply = functional(net)
  (new,) = without(spec, SPEC)
  assert new == "conv_in.more.weight"
  wide = jnp.concatenate([X, jnp.ones((B, SIDE, SIDE, 1))], -1)
  call = jax.jit(lambda params, x: apply(params, x, T, TEXT))
  zero = PARAMS | {new: jnp.zeros(spec[new].shape)}
  np.testing.assert_allclose(call(zero, X), plain, atol=1e-5)
  np.testing.assert_allclose(call(zero, wide), plain, atol=1e-5)
  drawn = PARAMS | {new: jax.random.normal(jax.random.key(8), spec[new].shape)}
  config = tiny.SMALLEST_UNET
  channels = config["in_channels"] + 1
  _, whole = functional(declare_unet(config | {"in_channels": channels}))
  expected = jax.jit(whole)(merge_wide(drawn, "conv_in"), wide, T, TEXT)
  np.testing.assert_allclose(call(drawn, wide), expected, atol=1e-4)
  assert np.abs(expected - plain).max() > 1e-3


def test_a_pattern_that_matches_nothing_is_named():
  with pytest.raises(ValueError, match="'attn9' matches no layer that notes"):
    listen(UNET, "attn9")
