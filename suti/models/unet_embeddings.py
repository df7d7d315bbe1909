# SPDX-License-Identifier: Apache-2.0
"""Conditioning in one vector: time, `time_ids`, class labels, pooled text.

The vectors are added to the embedded time, which every ResNet reads. Pooling a
text by attention is DeepFloyd IF's, after Saharia et al. 2022, section 2.4;
sizes beside a pooled text are SDXL's (Podell et al. 2023, section 2.2). Which
net has which is decided in `unet.py`.

Shape suffixes: B batch, L text tokens, N heads, I numbers of a row, D width.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from suti.nn.attention import attend, merge_heads, split_heads
from suti.nn.layers import ACTIVATIONS, LayerNorm, Linear
from suti.nn.param import Module, normal, param


class Added(NamedTuple):
  """Conditioning of some nets beside time and text; None for all others.

  Attributes:
    pooled_BD: SDXL's text in one vector, of its second text encoder.
    time_ids_BI: SDXL's `time_ids`: height and width of the original picture,
      top and left of its crop, height and width to make; all in pixels.
    class_labels_B: class labels; for a super-resolution net the noise level of
      the small picture, a step of the noise schedule.
  """

  pooled_BD: jax.Array | None = None
  time_ids_BI: jax.Array | None = None
  class_labels_B: jax.Array | None = None


def time_frequencies(
  t_B: jax.Array, dim: int, *, flip: bool = True, shift: float = 0
) -> jax.Array:
  """Sines and cosines of a time (Vaswani et al. 2017, section 3.5).

  Args:
    t_B: times, integers or floats.
    dim: width of the result, even.
    flip: cosines first.
    shift: taken from the number of frequencies; 0 ends just above 1/10000.

  Returns:
    float32 (B, dim).
  """
  half = dim // 2
  freqs_D = np.exp(-math.log(10_000) * np.arange(half) / (half - shift))
  angles_BD = t_B[:, None].astype(jnp.float32) * freqs_D.astype(np.float32)
  parts = [jnp.sin(angles_BD), jnp.cos(angles_BD)]
  return jnp.concatenate(parts[::-1] if flip else parts, axis=-1)


class _TwoLayers(Module):
  """`TimestepEmbedding`, without what its input is made of."""

  def __init__(self, d_in, dim, *, act):
    self.act = act
    self.linear_1 = Linear(d_in, dim)
    self.linear_2 = Linear(dim, dim)

  def _project(self, x_BD):
    return self.linear_2(ACTIVATIONS[self.act](self.linear_1(x_BD)))


class TimeEmbedding(_TwoLayers):
  """One number in one vector: a time, or a noise level."""

  def __init__(
    self, d_in: int, dim: int, *, act: str, flip: bool, shift: float
  ):
    super().__init__(d_in, dim, act=act)
    self.d_in, self.flip, self.shift = d_in, flip, shift

  def __call__(self, t_B: jax.Array) -> jax.Array:
    """(B,) -> (B, dim)."""
    return self._project(
      time_frequencies(t_B, self.d_in, flip=self.flip, shift=self.shift)
    )


class SizeEmbedding(_TwoLayers):
  """A pooled text and some sizes in one vector."""

  def __init__(
    self, d_in: int, dim: int, *, size_dim: int, flip: bool, shift: float
  ):
    super().__init__(d_in, dim, act="silu")  # whatever the config's act_fn is
    self.d_in, self.size_dim = d_in, size_dim
    self.flip, self.shift = flip, shift

  def __call__(self, pooled_BD: jax.Array, time_ids_BI: jax.Array) -> jax.Array:
    """(B, D), (B, I) -> (B, dim); raises ValueError if they do not fit."""
    (batch, num), width = time_ids_BI.shape, pooled_BD.shape[-1]
    if width + num * self.size_dim != self.d_in:
      raise ValueError(
        f"added.pooled_BD of width {width} and added.time_ids_BI with {num} "
        f"numbers make {width + num * self.size_dim}, this U-Net needs "
        f"{self.d_in}: SDXL has 1280 and 6, its refiner 1280 and 5."
      )
    sizes_BD = time_frequencies(
      time_ids_BI.reshape(-1), self.size_dim, flip=self.flip, shift=self.shift
    ).reshape(batch, -1)
    return self._project(
      jnp.concatenate([pooled_BD.astype(sizes_BD.dtype), sizes_BD], axis=-1)
    )


class TextEmbedding(Module):
  """A text's states in one vector: `TextTimeEmbedding`."""

  def __init__(self, d_text: int, dim: int, *, num_heads: int):
    self.norm1 = LayerNorm(d_text)
    self.pool = AttentionPooling(d_text, num_heads=num_heads)
    self.proj = Linear(d_text, dim)
    self.norm2 = LayerNorm(dim)

  def __call__(self, text_BLD: jax.Array) -> jax.Array:
    """(B, L, d_text) -> (B, dim); reads padding too, as published."""
    return self.norm2(self.proj(self.pool(self.norm1(text_BLD))))


class AttentionPooling(Module):
  """The mean of a sequence attends to the sequence and itself.

  Radford et al. 2021, "Learning transferable visual models from natural
  language supervision", section 2.4, without a projection behind it.
  """

  def __init__(self, dim: int, *, num_heads: int):
    if dim % num_heads:
      raise ValueError(
        f"addition_embed_type_num_heads={num_heads} does not divide {dim}, the "
        "width of the text encoder."
      )
    self.num_heads = num_heads
    self.positional_embedding = param(
      (1, dim), init=normal(dim**-0.5), axes=(None, "out")
    )
    self.q_proj = Linear(dim, dim)
    self.k_proj = Linear(dim, dim)
    self.v_proj = Linear(dim, dim)

  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    """(B, L, D) -> (B, D)."""
    position_1D = self.positional_embedding[...]
    x_BLD = x_BLD.astype(position_1D.dtype)
    mean_B1D = x_BLD.mean(1, keepdims=True) + position_1D
    x_BLD = jnp.concatenate([mean_B1D, x_BLD], axis=1)
    q_B1ND = split_heads(self.q_proj(mean_B1D), self.num_heads)
    k_BLND = split_heads(self.k_proj(x_BLD), self.num_heads)
    v_BLND = split_heads(self.v_proj(x_BLD), self.num_heads)
    return merge_heads(attend(q_B1ND, k_BLND, v_BLND))[:, 0]
