# SPDX-License-Identifier: Apache-2.0
"""What attention does with orders, masks and long sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.nn import attention
from suti.nn.attention import attend, merge_heads, split_heads
from tests.goldens import drawing


@pytest.fixture
def qkv():
  lengths = {"q": 6, "k": 8, "v": 8}
  return [
    jnp.asarray(8 * drawing.draw(n, (2, s, 3, 4))) for n, s in lengths.items()
  ]


def test_the_formula(qkv):
  q, k, v = (np.asarray(t, np.float64) for t in qkv)
  logits = np.einsum("bsnd,blnd->bnsl", q, k) / 2
  weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  expected = np.einsum("bnsl,blnd->bsnd", weights, v)
  np.testing.assert_allclose(attend(*qkv), expected, rtol=1e-5, atol=1e-5)


def test_a_bias_adds_to_the_logits_of_unscaled_queries(qkv):
  q, k, v = (np.asarray(t, np.float64) for t in qkv)
  bias_1NSL = 4 * drawing.draw("bias", (1, 3, 6, 8))
  logits = np.einsum("bsnd,blnd->bnsl", q, k) + bias_1NSL
  weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  expected = np.einsum("bnsl,blnd->bsnd", weights, v)
  found = attend(*qkv, bias=jnp.asarray(bias_1NSL), scale=1.0)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  # Rounded in bfloat16 it is added in float32.
  half = jnp.asarray(bias_1NSL, jnp.bfloat16)
  np.testing.assert_array_equal(
    attend(*qkv, bias=half), attend(*qkv, bias=half.astype(jnp.float32))
  )


def test_a_bias_does_not_bring_a_masked_key_back(qkv):
  q, k, v = qkv
  bias = jnp.zeros((1, 1, 1, 8)).at[..., 5:].set(1e9)
  np.testing.assert_allclose(
    attend(q, k, v, jnp.arange(8) < 5, bias=bias),
    attend(q, k[:, :5], v[:, :5]),
    rtol=1e-5,
    atol=1e-6,
  )


def test_the_order_of_keys_does_not_matter(qkv):
  q, k, v = qkv
  order = np.random.permutation(8)
  mask = jnp.arange(8) < 5
  np.testing.assert_allclose(
    attend(q, k[:, order], v[:, order], mask[order]),
    attend(q, k, v, mask),
    rtol=1e-5,
    atol=1e-6,
  )


def test_a_masked_key_is_no_key(qkv):
  q, k, v = qkv
  mask_BL = jnp.arange(8) < jnp.array([[5], [8]])
  found = attend(q, k, v.at[0, 5:].set(1e9), mask_BL[:, None, None])
  np.testing.assert_allclose(
    found[0], attend(q[:1], k[:1, :5], v[:1, :5])[0], rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(found[1], attend(q, k, v)[1])


def test_a_query_without_keys_gets_zero_and_no_gradient(qkv):
  mask = jnp.ones((2, 1, 6, 8), bool).at[0, :, 2].set(False)
  found = attend(*qkv, mask)
  assert (found[0, 2] == 0).all()
  assert (found[0, 1] != 0).all()
  gradients = jax.grad(
    lambda qkv: (
      jnp.square(attend(*qkv, mask)[0, 2]).sum()
      + attend(*qkv, mask)[0, 2].sum()
    )
  )(qkv)
  for gradient in gradients:
    assert (gradient == 0).all()


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("place", ["cpu", "elsewhere"])
def test_long_sequences_go_in_blocks_with_equal_results(
  qkv, rows, place, monkeypatch
):
  mask = jnp.asarray(np.random.rand(2, 1, rows, 8) < 0.7)
  bias = jnp.asarray(drawing.draw("bias", (1, 3, rows, 8)))

  def value_and_gradients():
    def loss(qkv, bias):
      return jnp.sin(attend(*qkv, mask, bias=bias)).sum()

    value = attend(*qkv, mask, bias=bias)
    return value, jax.grad(loss, argnums=(0, 1))(qkv, bias)

  whole = jax.jit(value_and_gradients)()
  monkeypatch.setattr(attention, "_MAX_LOGITS", 0)
  monkeypatch.setattr(attention, "_BLOCK_LOGITS", 8 * 2)
  if place == "elsewhere":
    monkeypatch.setattr(attention, "_head_by_head", attention._block_by_block)
  assert "scan" in str(jax.make_jaxpr(attend)(*qkv, mask))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    jax.jit(lambda: value_and_gradients())(),  # traced anew
    whole,
  )


def test_bfloat16_in_and_out_with_a_float32_softmax(qkv):
  found = attend(*(t.astype(jnp.bfloat16) for t in qkv))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    found.astype(np.float32), attend(*qkv), rtol=0.05, atol=0.05
  )
  # 300 equal keys: in bfloat16, weights would not add up to one.
  q, k = jnp.zeros((1, 1, 1, 4), jnp.bfloat16), jnp.zeros((1, 300, 1, 4))
  ones = jnp.ones_like(k, jnp.bfloat16)
  mean = attend(q, k.astype(jnp.bfloat16), ones).astype(jnp.float32)
  np.testing.assert_allclose(mean, 1, atol=0.01)


def test_heads_are_consecutive_channels():
  x = jnp.arange(2 * 3 * 8).reshape(2, 3, 8)
  heads = split_heads(x, 4)
  np.testing.assert_array_equal(heads[1, 2, 3], x[1, 2, 6:])
  np.testing.assert_array_equal(merge_heads(heads), x)


def test_the_kernel_is_for_what_runs_on_the_gpu_not_for_all_on_its_machine(
  qkv, monkeypatch
):
  def gradients(qkv):
    def loss(*qkv):
      return jnp.square(attend(*qkv, scale=0.3)).sum()

    return jax.grad(loss, argnums=(0, 1, 2))(*qkv)

  rows = [jnp.stack([x, 2 * x]) for x in qkv]
  expected = gradients(qkv), jax.vmap(lambda *qkv: gradients(qkv))(*rows)
  monkeypatch.setattr(attention, "_has_kernel", lambda q: True)
  monkeypatch.setattr(attention, "_fused", lambda q, k, v, scale: jnp.sinh(q))
  attention._with_kernel.cache_clear()
  found = gradients(qkv), jax.vmap(lambda *qkv: gradients(qkv))(*rows)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  traced = jax.jit(gradients).trace(qkv)
  for platform in ("cpu", "tpu", "cuda"):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("cosh" in text) == (platform == "cuda"), platform
    assert ("dot_general" in text) == (platform != "cuda"), platform
  attention._with_kernel.cache_clear()


@pytest.mark.parametrize(("queries", "keys"), [(6, 4), (5, 7), (4, 77)])
def test_what_is_padded_for_the_fused_kernel_changes_nothing(queries, keys):
  # On a CPU with XLA's implementation in the place of the kernel's.
  q, k, v = (
    jax.random.normal(jax.random.key(i), (2, length, 3, 8))
    for i, length in enumerate((queries, keys, keys))
  )

  def fused(q, k, v):
    return attention._fused(q, k, v, 0.3, "xla")

  def plain(q, k, v):
    return attention.attend(q, k, v, scale=0.3)

  def results(function):
    def compute(q, k, v):
      value, pull_back = jax.vjp(function, q, k, v)
      rows = [jnp.stack([x, 2 * x]) for x in (q, k, v)]
      gradient = jax.vmap(jax.grad(lambda *qkv: function(*qkv).sum()))
      return value, (pull_back(q), gradient(*rows))

    return jax.jit(compute)(q, k, v)

  expected, expected_gradients = results(plain)
  found, gradients = results(fused)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    gradients,
    expected_gradients,
  )


def test_lengths_of_padded_keys_are_mapped_with_the_keys(monkeypatch):
  # cuDNN's rule for `vmap` refuses lengths that are the same for all.
  seen = []

  def kernel(q, k, v, **options):
    seen.extend(v for n, v in options.items() if n.endswith("_lengths"))
    return q

  monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
  x_EBLND = jnp.zeros((4, 2, 5, 3, 8))
  jax.vmap(lambda x: attention._fused_forward(x, x, x, 1.0, "cudnn")[0])(
    x_EBLND
  )
  assert len(seen) == 2  # of queries and of keys
  for lengths_B in seen:
    assert lengths_B.shape == (2,)
    assert isinstance(lengths_B, jax.core.Tracer), "not mapped"
