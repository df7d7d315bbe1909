# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of DINO: an encoder of images.

Caron et al. 2021, "Emerging properties in self-supervised vision transformers",
with the architecture of Dosovitskiy et al. 2020. Names are those of the files
of facebook/dino-vits16 and its kin. There is no pooler and no training head.

Shape suffixes: B batch, H W height and width, C channels, S tokens (the class
token first, then patches row by row), D width.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.nn.attention import attend, merge_heads, split_heads
from suti.nn.layers import ACTIVATIONS, Conv2d, LayerNorm, Linear
from suti.nn.param import NORMAL, Module, ModuleList, param

# Published files that carry a pooler were made with one that nothing uses.
RENAMES = {r"^vit\.": "", r"^pooler\..*": ""}


def declare_dino(config: Mapping[str, Any]) -> "Dino":
  """Declares a ViT encoder from its published `ViTConfig`.

  Args:
    config: as in config.json; what is absent has its default of ViT-B/16.

  Returns:
    A module; `module(x_BHWC)` takes normalised float images of any size not
    smaller than a patch and returns (B, 1 + S, D) after the final norm.
  """
  config = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
  } | dict(config)
  if config["hidden_act"] not in ACTIVATIONS:
    raise ValueError(
      f"hidden_act={config['hidden_act']!r} of a ViT is not one of "
      f"{', '.join(ACTIVATIONS)}."
    )
  return Dino(config)


class Dino(Module):
  """`embeddings`, `encoder.layer.N`, `layernorm`."""

  def __init__(self, config):
    self.embeddings = _Embeddings(config)
    self.encoder = _Encoder(config)
    self.layernorm = _norm(config)

  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    """Images (B, H, W, C) -> tokens (B, 1 + S, D), the class token first."""
    x_BSD = self.embeddings(x_BHWC)
    for layer in self.encoder.layer:
      x_BSD = layer(x_BSD)
    return self.layernorm(x_BSD)


class _Embeddings(Module):
  def __init__(self, config):
    dim = config["hidden_size"]
    self.grid = config["image_size"] // config["patch_size"]
    self.cls_token = param((1, 1, dim), init=NORMAL, axes=(None, None, "out"))
    self.position_embeddings = param(
      (1, 1 + self.grid**2, dim), init=NORMAL, axes=(None, None, "out")
    )
    self.patch_embeddings = _PatchEmbeddings(config)

  def __call__(self, x_BHWC):
    x_BHWD = self.patch_embeddings.projection(x_BHWC)
    batch, rows, columns, dim = x_BHWD.shape
    class_B1D = jnp.broadcast_to(self.cls_token[...], (batch, 1, dim))
    x_BSD = jnp.concatenate(
      [class_B1D, x_BHWD.reshape(batch, rows * columns, dim)], axis=1
    )
    return x_BSD + self._positions(rows, columns)

  def _positions(self, rows, columns):
    table_1SD = self.position_embeddings[...]
    if rows == columns == self.grid:
      return table_1SD
    patches_HWD = table_1SD[0, 1:].reshape(self.grid, self.grid, -1)
    patches_HWD = jnp.einsum(
      "YH,XW,HWD->YXD",
      jnp.asarray(_bicubic(rows, self.grid), table_1SD.dtype),
      jnp.asarray(_bicubic(columns, self.grid), table_1SD.dtype),
      patches_HWD,
    )
    patches_1SD = patches_HWD.reshape(1, rows * columns, -1)
    return jnp.concatenate([table_1SD[:, :1], patches_1SD], axis=1)


class _PatchEmbeddings(Module):
  def __init__(self, config):
    size = config["patch_size"]
    self.projection = Conv2d(
      config["num_channels"],
      config["hidden_size"],
      size,
      stride=size,
      padding=0,
    )


class _Encoder(Module):
  def __init__(self, config):
    self.layer = ModuleList(
      [_Layer(config) for _ in range(config["num_hidden_layers"])]
    )


class _Layer(Module):
  """Attention, then a feed-forward, each normalised first."""

  def __init__(self, config):
    dim, inner = config["hidden_size"], config["intermediate_size"]
    self.act = config["hidden_act"]
    self.layernorm_before = _norm(config)
    self.attention = _Attention(config)
    self.layernorm_after = _norm(config)
    self.intermediate = _Dense(dim, inner)
    self.output = _Dense(inner, dim)

  def __call__(self, x_BSD):
    x_BSD = x_BSD + self.attention(self.layernorm_before(x_BSD))
    h = ACTIVATIONS[self.act](
      self.intermediate.dense(self.layernorm_after(x_BSD))
    )
    return x_BSD + self.output.dense(h)


class _Attention(Module):
  def __init__(self, config):
    dim = config["hidden_size"]
    self.attention = _QueryKeyValue(config)
    self.output = _Dense(dim, dim)

  def __call__(self, x_BSD):
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


class _Dense(Module):
  def __init__(self, d_in, d_out):
    self.dense = Linear(d_in, d_out)


def _norm(config):
  return LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])


def _bicubic(num_out, num_in):
  """Weights (out, in) of bicubic resizing without antialiasing.

  PyTorch's coefficient of -0.75, which DINO's tables are resized with;
  `jax.image.resize` has -0.5.
  """
  a = -0.75
  at = (np.arange(num_out) + 0.5) * num_in / num_out - 0.5
  weights = np.zeros((num_out, num_in))
  for tap in range(-1, 3):
    source = np.floor(at).astype(int) + tap
    d = np.abs(at - source)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    rows = np.arange(num_out)
    weights[rows, source.clip(0, num_in - 1)] += np.where(d <= 1, near, far)
  return weights
