# SPDX-License-Identifier: Apache-2.0
"""What the vision transformers of DINO and DINOv2 have in common.

Dosovitskiy et al. 2020, "An image is worth 16x16 words". Names are those of the
Hugging Face files. CLIP's towers have other names and stand in `clip`.

Shape suffixes: B batch, H W height and width, C channels, S tokens, D width.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.nn.attention import attend, merge_heads, split_heads
from suti.nn.layers import Conv2d, Linear
from suti.nn.param import Module, ModuleList


class Encoder(Module):
  """`layer.N`, one after the other."""

  def __init__(self, layers: list[Module]):
    self.layer: Any = ModuleList(layers)

  def __call__(self, x_BSD: jax.Array) -> jax.Array:
    """Tokens -> tokens."""
    for layer in self.layer:
      x_BSD = layer(x_BSD)
    return x_BSD


class PatchEmbeddings(Module):
  """`projection`: an image in patches, each a vector."""

  def __init__(self, config):
    size = config["patch_size"]
    self.projection = Conv2d(
      config["num_channels"],
      config["hidden_size"],
      size,
      stride=size,
      padding=0,
    )

  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, H / size, W / size, D); what is over is left out."""
    return self.projection(x_BHWC)


class Attention(Module):
  """`attention.query`, `.key`, `.value` and `output.dense`."""

  def __init__(self, config):
    dim = config["hidden_size"]
    self.attention = _QueryKeyValue(config)
    self.output = Dense(dim, dim)

  def __call__(self, x_BSD: jax.Array) -> jax.Array:
    """Every token attends to every token."""
    qkv = self.attention
    q, k, v = (
      split_heads(project(x_BSD), qkv.num_heads)
      for project in (qkv.query, qkv.key, qkv.value)
    )
    return self.output.dense(merge_heads(attend(q, k, v)))


class _QueryKeyValue(Module):
  def __init__(self, config):
    dim, bias = config["hidden_size"], config["qkv_bias"]
    self.num_heads = config["num_attention_heads"]
    self.query = Linear(dim, dim, bias=bias)
    self.key = Linear(dim, dim, bias=bias)
    self.value = Linear(dim, dim, bias=bias)


class Dense(Module):
  """A linear layer, published one level deeper."""

  def __init__(self, d_in, d_out):
    self.dense = Linear(d_in, d_out)


def embed(
  x_BHWD: jax.Array,
  class_11D: jax.Array,
  positions_1SD: jax.Array,
  *,
  antialias: bool = False,
) -> jax.Array:
  """Puts the class token in front of the patches and adds positions to all.

  Args:
    x_BHWD: patches.
    class_11D: the class token.
    positions_1SD: the class token's position, then a square of the patches',
      row by row. Patches that form another grid get a resized square.
    antialias: whether a square that shrinks is smoothed.

  Returns:
    (B, 1 + H * W, D).
  """
  batch, rows, columns, dim = x_BHWD.shape
  class_B1D = jnp.broadcast_to(class_11D, (batch, 1, dim))
  x_BSD = jnp.concatenate([class_B1D, x_BHWD.reshape(batch, -1, dim)], axis=1)
  side = round((positions_1SD.shape[1] - 1) ** 0.5)
  if rows == columns == side:
    return x_BSD + positions_1SD
  weigh = _smooth_bicubic if antialias else _bicubic
  # In float32: bfloat16 would shift positions by a hundredth of their spread.
  square_YXD = jnp.einsum(
    "YH,XW,HWD->YXD",
    jnp.asarray(weigh(rows, side), jnp.float32),
    jnp.asarray(weigh(columns, side), jnp.float32),
    positions_1SD[0, 1:].reshape(side, side, dim).astype(jnp.float32),
  )
  patches_1SD = square_YXD.reshape(1, -1, dim).astype(positions_1SD.dtype)
  return x_BSD + jnp.concatenate([positions_1SD[:, :1], patches_1SD], axis=1)


def _bicubic(num_out: int, num_in: int) -> np.ndarray:
  """Weights (out, in) of PyTorch's bicubic resizing without antialiasing.

  Its coefficient is -0.75, where `jax.image.resize` has -0.5.
  """
  at = (np.arange(num_out) + 0.5) * num_in / num_out - 0.5
  weights = np.zeros((num_out, num_in))
  rows = np.arange(num_out)
  for tap in range(-1, 3):
    source = np.floor(at).astype(int) + tap
    # Beyond the edge, the edge counts again.
    weights[rows, source.clip(0, num_in - 1)] += _cubic(at - source, -0.75)
  return weights


def _smooth_bicubic(num_out: int, num_in: int) -> np.ndarray:
  """Weights (out, in) of PyTorch's bicubic resizing with antialiasing.

  The kernel has the coefficient -0.5, is as much wider as the result is
  smaller, and ends at the edge: what is left of it is scaled to add up to one.
  """
  width = max(num_in / num_out, 1.0)
  at = (np.arange(num_out) + 0.5) * num_in / num_out - 0.5
  weights = _cubic((np.arange(num_in) - at[:, None]) / width, -0.5)
  return weights / weights.sum(1, keepdims=True)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
  """Keys 1981, "Cubic convolution interpolation", eq. 15; `a` is its slope."""
  d = np.abs(distance)
  near = (a + 2) * d**3 - (a + 3) * d**2 + 1
  far = a * (d**3 - 5 * d**2 + 8 * d - 4)
  return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
