# SPDX-License-Identifier: Apache-2.0
"""The one attention core of all models: projections live with their models.

Keys and values may be longer than the queries, or come from elsewhere (text,
demonstrations, other images of a batch); a mask says which count.

Shape suffixes: B batch, S queries, L keys, N heads, D width of a head.
"""

import jax
import jax.numpy as jnp
from jax import lax

# Above this many logits a head, queries go block by block: 1M float32 logits
# are 4 MB, so that 8 heads x 16 images fit beside a U-Net in 32 GB.
_MAX_LOGITS = 1 << 20


def attend(
  q_BSND: jax.Array,
  k_BLND: jax.Array,
  v_BLND: jax.Array,
  mask: jax.Array | None = None,
  *,
  bias: jax.Array | None = None,
  scale: float | None = None,
) -> jax.Array:
  """Scaled dot-product attention (Vaswani et al. 2017, eq. 1).

  Args:
    q_BSND, k_BLND, v_BLND: queries, keys and values of one dtype.
    mask: bool, broadcastable to (B, N, S, L); True attends. A query that may
      attend to nothing gets exactly zero, with zero gradient.
    bias: floats (1 or B, 1 or N, 1 or S, L), added to the logits.
    scale: what queries are multiplied by; D**-0.5 if None.

  Returns:
    (B, S, N, D), in the dtype of the queries; the softmax is in float32.
  """
  num_queries, num_keys = q_BSND.shape[1], k_BLND.shape[1]
  if mask is not None:
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
  num_blocks = -(-num_queries * num_keys // _MAX_LOGITS)
  while num_queries % num_blocks:
    num_blocks += 1
  scale = q_BSND.shape[-1] ** -0.5 if scale is None else scale
  if num_blocks == 1:
    return _attend(q_BSND, k_BLND, v_BLND, mask, bias, scale)

  def block(i):
    size = num_queries // num_blocks

    def rows(x, axis):
      if x is None or x.shape[axis] == 1:
        return x
      return lax.dynamic_slice_in_dim(x, i * size, size, axis=axis)

    return _attend(
      rows(q_BSND, 1), k_BLND, v_BLND, rows(mask, 2), rows(bias, 2), scale
    )

  # checkpoint: the backward pass redoes a block's logits, keeping none.
  out = lax.map(jax.checkpoint(block), jnp.arange(num_blocks))
  return jnp.moveaxis(out, 0, 1).reshape(q_BSND.shape)


def split_heads(x_BSD: jax.Array, num_heads: int) -> jax.Array:
  """(B, S, N * D) -> (B, S, N, D)."""
  return x_BSD.reshape(*x_BSD.shape[:-1], num_heads, -1)


def merge_heads(x_BSND: jax.Array) -> jax.Array:
  """(B, S, N, D) -> (B, S, N * D)."""
  return x_BSND.reshape(*x_BSND.shape[:-2], -1)


def _attend(q_BSND, k_BLND, v_BLND, mask, bias, scale):
  # Scaling the queries costs S * D products, scaling the logits S * L.
  q_BSND = q_BSND * jnp.asarray(scale, q_BSND.dtype)
  logits_BNSL = jnp.einsum(
    "BSND,BLND->BNSL", q_BSND, k_BLND, preferred_element_type=jnp.float32
  )
  if bias is not None:
    logits_BNSL = logits_BNSL + bias.astype(jnp.float32)
  if mask is not None:
    logits_BNSL = jnp.where(mask, logits_BNSL, jnp.finfo(jnp.float32).min)
  weights_BNSL = jax.nn.softmax(logits_BNSL)
  if mask is not None:
    # A row without any key has a uniform softmax by now: this makes it zero.
    weights_BNSL = jnp.where(mask, weights_BNSL, 0)
  return jnp.einsum(
    "BNSL,BLND->BSND", weights_BNSL.astype(v_BLND.dtype), v_BLND
  )
