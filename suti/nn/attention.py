# SPDX-License-Identifier: Apache-2.0
"""The one attention core of all models: projections live with their models.

Keys and values may be longer than the queries, or come from elsewhere (text,
demonstrations, other images of a batch); a mask says which count.

Shape suffixes: B batch, S queries, L keys, N heads, D width of a head.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import backend

# Up to this many logits are held in memory together: 32 MB in float32.
_MAX_LOGITS = 1 << 23
# Beyond, a block of queries has this many, of one head on a CPU, where they
# stay in its cache (2 images of 4096 positions and 8 heads: 0.3 s instead of
# 0.9), and of each head elsewhere.
_BLOCK_LOGITS = 1 << 20
# That hide keys: kernels take multiples of eight. The logit of a hidden key is
# so low that exp() of it is zero beside any other, and finite in float16.
_CHANNELS, _LOW_LOGIT = 8, -1000.0


def attend(
  q_BSND: jax.Array,
  k_BLND: jax.Array,
  v_BLND: jax.Array,
  mask: jax.Array | None = None,
  *,
  bias: jax.Array | None = None,
  key_mask_BL: jax.Array | None = None,
  key_bias_BL: jax.Array | None = None,
  scale: float | None = None,
) -> jax.Array:
  """Scaled dot-product attention (Vaswani et al. 2017, eq. 1).

  Args:
    q_BSND, k_BLND, v_BLND: queries, keys and values of one dtype.
    mask: bool, broadcastable to (B, N, S, L); True attends. A query that may
      attend to nothing gets exactly zero, with zero gradient.
    bias: floats (1 or B, 1 or N, 1 or S, L), added to the logits.
    key_mask_BL: which keys there are, for all queries of a row; one of them at
      least. Fused kernels take it, as they do not take `mask`.
    key_bias_BL: floats, added to the logits of a key; beside `key_mask_BL`.
    scale: what queries are multiplied by; D**-0.5 if None.

  Returns:
    (B, S, N, D), in the dtype of the queries; the softmax is in float32.
  """
  scale = float(q_BSND.shape[-1] ** -0.5 if scale is None else scale)
  assert key_bias_BL is None or key_mask_BL is not None
  if key_mask_BL is not None:
    if mask is None and bias is None and _has_kernel(q_BSND, more=_CHANNELS):
      q_BSND, k_BLND, v_BLND = masked_by_channels(
        q_BSND, k_BLND, v_BLND, key_mask_BL, key_bias_BL, scale=scale
      )
      width = v_BLND.shape[-1] - _CHANNELS
      return attend(q_BSND, k_BLND, v_BLND, scale=scale)[..., :width]
    key_mask = key_mask_BL[:, None, None]
    mask = key_mask if mask is None else mask & key_mask
    if key_bias_BL is not None:
      key_bias = key_bias_BL[:, None, None]
      bias = key_bias if bias is None else bias + key_bias
  if mask is None and bias is None and _has_kernel(q_BSND):
    # What is traced here may be for the CPU, or for a TPU that is planned.
    cuda, default = _with_kernel(scale)
    return lax.platform_dependent(
      q_BSND, k_BLND, v_BLND, cuda=cuda, default=default
    )
  return _unfused(q_BSND, k_BLND, v_BLND, mask, bias, scale=scale)


def masked_by_channels(
  q_BSND: jax.Array,
  k_BLND: jax.Array,
  v_BLND: jax.Array,
  key_mask_BL: jax.Array,
  key_bias_BL: jax.Array | None = None,
  *,
  scale: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Hides keys by further channels, so that no mask is needed.

  A query has 1 in the first of them, a key its bias or a large negative number:
  its logit is too low to have a weight. Values get zeros.

  Returns: q, k and v with `_CHANNELS` more channels.
  """
  own = 0.0 if key_bias_BL is None else key_bias_BL / scale
  low = jnp.where(key_mask_BL, own, _LOW_LOGIT / scale).astype(k_BLND.dtype)
  more = ((0, 0), (0, 0), (0, 0), (0, _CHANNELS))
  q_BSND, k_BLND, v_BLND = (jnp.pad(x, more) for x in (q_BSND, k_BLND, v_BLND))
  channel = -_CHANNELS
  q_BSND = q_BSND.at[..., channel].set(1)
  k_BLND = k_BLND.at[..., channel].set(low[:, :, None])
  return q_BSND, k_BLND, v_BLND


def attention_weights(
  q_BSND: jax.Array, k_BLND: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """The weights that `attend` gives each value, float32 (B, N, S, L).

  All of them at once: for layers that note them, such as those of a text.
  """
  logits_BNSL = jnp.einsum(
    "BSND,BLND->BNSL", q_BSND, k_BLND, preferred_element_type=jnp.float32
  )
  logits_BNSL = logits_BNSL * jnp.float32(q_BSND.shape[-1] ** -0.5)
  return jax.nn.softmax(logits_BNSL, axis=-1, where=mask)


@functools.cache
def _with_kernel(scale):
  """Attention by the kernel and without: JAX traces one function once."""
  return (
    lambda q, k, v: _fused(q, k, v, scale),
    lambda q, k, v: _unfused(q, k, v, None, None, scale=scale),
  )


def _unfused(q_BSND, k_BLND, v_BLND, mask, bias, *, scale):
  # Scaling the queries costs S * D products, scaling the logits S * L.
  q_BSND = q_BSND * jnp.asarray(scale, q_BSND.dtype)
  if mask is not None:
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
  q_BNSD, k_BNLD, v_BNLD = (x.swapaxes(1, 2) for x in (q_BSND, k_BLND, v_BLND))
  batch, num_queries, num_heads, _ = q_BSND.shape
  if batch * num_heads * num_queries * k_BLND.shape[1] <= _MAX_LOGITS:
    out_BNSD = _attend(q_BNSD, k_BNLD, v_BNLD, mask, bias)
  else:
    out_BNSD = lax.platform_dependent(
      q_BNSD,
      k_BNLD,
      v_BNLD,
      mask,
      bias,
      cpu=_head_by_head,
      default=_block_by_block,
    )
  return out_BNSD.swapaxes(1, 2)


def split_heads(x_BSD: jax.Array, num_heads: int) -> jax.Array:
  """(B, S, N * D) -> (B, S, N, D)."""
  return x_BSD.reshape(*x_BSD.shape[:-1], num_heads, -1)


def merge_heads(x_BSND: jax.Array) -> jax.Array:
  """(B, S, N, D) -> (B, S, N * D)."""
  return x_BSND.reshape(*x_BSND.shape[:-2], -1)


def _has_kernel(q_BSND, more=0):
  """Whether cuDNN's fused attention is there and takes heads of this kind.

  Without a GPU it cannot even be traced: a program for GPUs that is compiled on
  another machine goes without.
  """
  return (
    jax.default_backend() == "gpu"
    and "cuda" in backend.get_backend().platform_version
    and q_BSND.dtype in (jnp.bfloat16, jnp.float16)
    and q_BSND.shape[-1] % 8 == 0
    and q_BSND.shape[-1] + more <= 128
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _fused(q_BSND, k_BLND, v_BLND, scale, implementation: Any = "cudnn"):
  """Attention of cuDNN: logits are never written to memory."""
  return jax.nn.dot_product_attention(
    q_BSND, k_BLND, v_BLND, scale=scale, implementation=implementation
  )


def _fused_forward(q_BSND, k_BLND, v_BLND, scale, implementation: Any):
  """Its gradient takes even numbers of queries and of keys only."""
  num_queries, num_keys = q_BSND.shape[1], k_BLND.shape[1]
  lengths = {}
  if num_keys % 2:
    # Of the arrays, so that they are mapped where these are: under `vmap` the
    # kernel takes no lengths that all experts share.
    lengths = {
      "query_seq_lengths": _each(q_BSND, num_queries),
      "key_value_seq_lengths": _each(k_BLND, num_keys),
    }

  def padded(*inputs):
    out_BSND = jax.nn.dot_product_attention(
      *(_even(x) for x in inputs),
      scale=scale,
      implementation=implementation,
      **lengths,
    )
    return out_BSND[:, :num_queries]

  return jax.vjp(padded, q_BSND, k_BLND, v_BLND)


_fused.defvjp(_fused_forward, lambda _, __, pull_back, dy: pull_back(dy))


def _each(x_BSND, number):
  return jnp.where(x_BSND[:, 0, 0, 0] == 0, number, number)


def _even(x_BSND):
  return jnp.pad(x_BSND, ((0, 0), (0, x_BSND.shape[1] % 2), (0, 0), (0, 0)))


def _attend(q_NSD, k_NLD, v_NLD, mask, bias):
  """Any leading dims instead of N; `mask` and `bias` have them too."""
  logits_NSL = jnp.einsum(
    "...SD,...LD->...SL", q_NSD, k_NLD, preferred_element_type=jnp.float32
  )
  if bias is not None:
    logits_NSL = logits_NSL + bias.astype(jnp.float32)
  if mask is not None:
    logits_NSL = jnp.where(mask, logits_NSL, jnp.finfo(jnp.float32).min)
  # What is taken off changes no weight, so nothing flows back through it.
  highest_NS1 = lax.stop_gradient(logits_NSL.max(-1, keepdims=True))
  weights_NSL = jnp.exp(logits_NSL - highest_NS1)
  if mask is not None:
    # In a row without any key all weights are 1 by now: this makes them zero.
    weights_NSL = jnp.where(mask, weights_NSL, 0)
  total_NS1 = weights_NSL.sum(-1, keepdims=True)
  if mask is not None:
    total_NS1 = jnp.maximum(total_NS1, jnp.finfo(jnp.float32).tiny)
  out_NSD = weights_NSL.astype(v_NLD.dtype) @ v_NLD
  # S * D divisions instead of S * L.
  return (out_NSD / total_NS1.astype(v_NLD.dtype)).astype(q_NSD.dtype)


def _block_by_block(q_BNSD, k_BNLD, v_BNLD, mask, bias):
  """Attends block by block of queries, so that not all logits are in memory."""
  num_queries, num_keys = q_BNSD.shape[-2], k_BNLD.shape[-2]
  num_blocks = -(-num_queries * num_keys // _BLOCK_LOGITS)
  while num_queries % num_blocks:
    num_blocks += 1
  if num_blocks == 1:
    return _attend(q_BNSD, k_BNLD, v_BNLD, mask, bias)
  size = num_queries // num_blocks

  def block(i):
    def rows(x):
      if x is None or x.shape[-2] == 1:
        return x
      return lax.dynamic_slice_in_dim(x, i * size, size, axis=x.ndim - 2)

    return _attend(rows(q_BNSD), k_BNLD, v_BNLD, rows(mask), rows(bias))

  # checkpoint: the backward pass rematerialises a block's logits.
  out = lax.map(jax.checkpoint(block), jnp.arange(num_blocks))
  return jnp.moveaxis(out, 0, -3).reshape(q_BNSD.shape)


def _head_by_head(q_BNSD, k_BNLD, v_BNLD, mask, bias):
  """The same for one head after the other."""
  batch, num_heads = q_BNSD.shape[:2]

  def head(place):
    i, j = place

    def at(x: Any):
      if x is None:
        return None
      return x[i if x.shape[0] > 1 else 0, j if x.shape[1] > 1 else 0]

    return _block_by_block(
      *(at(x) for x in (q_BNSD, k_BNLD, v_BNLD, mask, bias))
    )

  places = jnp.indices((batch, num_heads)).reshape(2, -1)
  out = lax.map(jax.checkpoint(head), tuple(places))
  return out.reshape(q_BNSD.shape)
