# SPDX-License-Identifier: Apache-2.0
"""The encoder of T5, by whose states DeepFloyd IF and Imagen are conditioned.

Raffel et al. 2019, "Exploring the limits of transfer learning with a unified
text-to-text transformer", with the gated feed-forward of Shazeer 2020 in
version 1.1. Names are those of published T5EncoderModel files. The decoder is
not here; a file that has one is read without it.

Shape suffixes: B batch, L text tokens (S as queries), N heads, D width.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.config.values import check_kinds
from suti.models.encoder_config import refuse
from suti.nn.attention import attend, merge_heads, split_heads
from suti.nn.layers import ACTIVATIONS, Embed, Linear, RMSNorm
from suti.nn.param import Module, ModuleList

# A copy of `shared`, or instead of it, and what follows the encoder.
RENAMES = {
  r"^encoder\.embed_tokens\.": "shared.",
  r"^decoder\..*": "",
  r"^lm_head\..*": "",
}

_DEFAULTS = {
  "vocab_size": 32128,
  "d_model": 512,
  "d_kv": 64,
  "d_ff": 2048,
  "num_layers": 6,
  "num_heads": 8,
  "relative_attention_num_buckets": 32,
  "relative_attention_max_distance": 128,
  "layer_norm_epsilon": 1e-6,
  "feed_forward_proj": "relu",
}
_STATED = {"is_gated_act": False, "dense_act_fn": ""}


def declare_t5(config: Mapping[str, Any]) -> "T5Encoder":
  """Declares an encoder from a published `T5Config`.

  Args:
    config: as in text_encoder/config.json; what is absent has its default of
      T5-small.

  Returns:
    A module; `module(ids_BL, mask_BL)` returns hidden states (B, L, D).

  Raises:
    ValueError: a value makes no sense, or is not supported.
  """
  check_kinds(config, _DEFAULTS, what="T5")
  refuse(config, what="T5")
  config = _DEFAULTS | dict(config)
  kind = config["feed_forward_proj"]
  gated, act = kind.startswith("gated-"), kind.removeprefix("gated-")
  # What the publisher calls gated-gelu is the approximate one.
  act = "gelu_new" if kind == "gated-gelu" else act
  # Its library also writes both out, and reads them so if they are there.
  stated = {k: config[k] for k in _STATED if config.get(k) is not None}
  check_kinds(stated, _STATED, what="T5")
  gated = stated.get("is_gated_act", gated)
  act = stated.get("dense_act_fn", act)
  if act not in ACTIVATIONS and "dense_act_fn" in stated:
    raise ValueError(
      f"dense_act_fn={act!r} of T5 is not one of {', '.join(ACTIVATIONS)}."
    )
  if act not in ACTIVATIONS:
    raise ValueError(
      f"feed_forward_proj={kind!r} of T5 is not one of "
      f"{', '.join(ACTIVATIONS)}, nor one of these after 'gated-'."
    )
  buckets = config["relative_attention_num_buckets"]
  farthest = config["relative_attention_max_distance"]
  if not 0 < buckets // 4 < farthest:
    raise ValueError(
      f"relative_attention_num_buckets={buckets} of T5 must be from 4, and a "
      f"quarter of it below relative_attention_max_distance={farthest}: "
      "correct them, or fetch the file again."
    )
  return T5Encoder(config | {"gated": gated, "act": act})


class T5Encoder(Module):
  """`shared` and `encoder`."""

  def __init__(self, config):
    self.shared = Embed(config["vocab_size"], config["d_model"])
    self.encoder = _Stack(config)

  def __call__(
    self, ids_BL: jax.Array, mask_BL: jax.Array | None = None
  ) -> jax.Array:
    """Encodes texts of any length; positions are relative.

    Args:
      ids_BL: token ids.
      mask_BL: which of them are text and not padding, bool; all if None. What
        stands at padding is not to be used.

    Returns:
      Hidden states (B, L, D) after the final norm.
    """
    mask_B11L = None if mask_BL is None else mask_BL[:, None, None]
    return self.encoder(self.shared(ids_BL), mask_B11L)


class _Stack(Module):
  def __init__(self, config):
    self.block = ModuleList(
      [_Block(config, first=i == 0) for i in range(config["num_layers"])]
    )
    self.final_layer_norm = _norm(config)

  def __call__(self, x_BLD, mask_B11L):
    # The first block has the only table of biases; all use it.
    first: Any = self.block[0].layer[0]
    bias_1NSL = first.SelfAttention.position_bias(x_BLD.shape[1])
    for block in self.block:
      for layer in block.layer:
        x_BLD = x_BLD + layer(x_BLD, mask_B11L, bias_1NSL)
    return self.final_layer_norm(x_BLD)


class _Block(Module):
  def __init__(self, config, *, first):
    self.layer = ModuleList(
      [_AttentionLayer(config, first=first), _FeedForwardLayer(config)]
    )


class _AttentionLayer(Module):
  def __init__(self, config, *, first):
    self.layer_norm = _norm(config)
    self.SelfAttention = _Attention(config, first=first)

  def __call__(self, x_BLD, mask_B11L, bias_1NSL):
    return self.SelfAttention(self.layer_norm(x_BLD), mask_B11L, bias_1NSL)


class _FeedForwardLayer(Module):
  def __init__(self, config):
    self.layer_norm = _norm(config)
    self.DenseReluDense = _Gated(config) if config["gated"] else _Mlp(config)

  def __call__(self, x_BLD, *_):
    return self.DenseReluDense(self.layer_norm(x_BLD))


class _Attention(Module):
  def __init__(self, config, *, first):
    dim, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    self.num_heads = config["num_heads"]
    self.max_distance = config["relative_attention_max_distance"]
    self.q = Linear(dim, inner, bias=False)
    self.k = Linear(dim, inner, bias=False)
    self.v = Linear(dim, inner, bias=False)
    self.o = Linear(inner, dim, bias=False)
    self.relative_attention_bias = (
      Embed(config["relative_attention_num_buckets"], self.num_heads)
      if first
      else None
    )

  def __call__(self, x_BLD, mask_B11L, bias_1NSL):
    q, k, v = (
      split_heads(project(x_BLD), self.num_heads)
      for project in (self.q, self.k, self.v)
    )
    # Unscaled: T5 has D**-0.5 in how its weights were initialised.
    y_BLND = attend(q, k, v, mask_B11L, bias=bias_1NSL, scale=1.0)
    return self.o(merge_heads(y_BLND))

  def position_bias(self, length):
    """What the logits of a query and a key get for their distance."""
    table = self.relative_attention_bias
    assert table is not None, "not the first block"
    at_L = np.arange(length)
    buckets_SL = _bucket(
      at_L - at_L[:, None],
      num_buckets=table.weight.shape[0],
      max_distance=self.max_distance,
    )
    return table(jnp.asarray(buckets_SL)).transpose(2, 0, 1)[None]


class _Gated(Module):
  def __init__(self, config):
    dim, inner = config["d_model"], config["d_ff"]
    self.act = config["act"]
    self.wi_0 = Linear(dim, inner, bias=False)
    self.wi_1 = Linear(dim, inner, bias=False)
    self.wo = Linear(inner, dim, bias=False)

  def __call__(self, x_BLD):
    return self.wo(ACTIVATIONS[self.act](self.wi_0(x_BLD)) * self.wi_1(x_BLD))


class _Mlp(Module):
  def __init__(self, config):
    dim, inner = config["d_model"], config["d_ff"]
    self.act = config["act"]
    self.wi = Linear(dim, inner, bias=False)
    self.wo = Linear(inner, dim, bias=False)

  def __call__(self, x_BLD):
    return self.wo(ACTIVATIONS[self.act](self.wi(x_BLD)))


def _norm(config):
  return RMSNorm(config["d_model"], eps=config["layer_norm_epsilon"])


def _bucket(distance, *, num_buckets, max_distance):
  """Which bucket a distance (key minus query) falls into.

  Half of the buckets are for keys that come later. Of either half, half are for
  one distance each, the others grow as logarithms do, up to `max_distance`.
  """
  half, exact = num_buckets // 2, num_buckets // 4
  d = np.abs(distance)
  # In float32, as the publisher computes: a bucket's edge is where it rounds.
  log = np.log(np.maximum(d, 1).astype(np.float32) / exact)
  far = exact + (log / math.log(max_distance / exact) * (half - exact)).astype(
    int
  )
  bucket = np.where(d < exact, d, np.minimum(far, half - 1))
  return bucket + half * (distance > 0)
