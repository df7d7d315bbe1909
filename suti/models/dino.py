# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of DINO: an encoder of images.

Caron et al. 2021, "Emerging properties in self-supervised vision transformers".
Names are those of the files of facebook/dino-vits16 and alike; `RENAMES`
leads there from the names of torch.hub and timm. There is no pooler and no
training head.

Shape suffixes: B batch, H W height and width, C channels, S tokens (the class
token first, then patches row by row), D width.
"""

from collections.abc import Mapping
from typing import Any

import jax

from suti.models.encoder_config import complete
from suti.models.vit_blocks import (
  Attention,
  Dense,
  Encoder,
  PatchEmbeddings,
  embed,
)
from suti.nn.layers import ACTIVATIONS, LayerNorm
from suti.nn.param import NORMAL, Module, param

RENAMES = {
  r"^vit\.": "",
  # Published files that carry a pooler were made with one that nothing uses.
  r"^pooler\..*": "",
  # torch.hub and timm.
  r"^head\..*": "",
  r"^cls_token$": "embeddings.cls_token",
  r"^pos_embed$": "embeddings.position_embeddings",
  r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
  r"^blocks\.": "encoder.layer.",
  r"^(encoder\.layer\.\d+)\.norm1\.": r"\1.layernorm_before.",
  r"^(encoder\.layer\.\d+)\.norm2\.": r"\1.layernorm_after.",
  r"^(encoder\.layer\.\d+)\.attn\.proj\.": r"\1.attention.output.dense.",
  r"^(encoder\.layer\.\d+)\.mlp\.fc1\.": r"\1.intermediate.dense.",
  r"^(encoder\.layer\.\d+)\.mlp\.fc2\.": r"\1.output.dense.",
  r"^norm\.": "layernorm.",
  r"\.attn\.qkv\.": tuple(
    f".attention.attention.{name}." for name in ("query", "key", "value")
  ),
}

_DEFAULTS = {
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
}


def declare_dino(config: Mapping[str, Any]) -> "Dino":
  """Declares a ViT encoder from its published `ViTConfig`.

  Args:
    config: as in config.json; what is absent has its default of ViT-B/16.

  Returns:
    A module; `module(x_BHWC)` takes normalised float images of any size not
    smaller than a patch and returns (B, 1 + S, D) after the final norm.
  """
  return Dino(complete(config, _DEFAULTS, what="a ViT"))


class Dino(Module):
  """`embeddings`, `encoder.layer.N`, `layernorm`."""

  def __init__(self, config):
    self.embeddings = _Embeddings(config)
    self.encoder = Encoder(
      [_Layer(config) for _ in range(config["num_hidden_layers"])]
    )
    self.layernorm = _norm(config)

  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    """Images (B, H, W, C) -> tokens (B, 1 + S, D), the class token first."""
    return self.layernorm(self.encoder(self.embeddings(x_BHWC)))


class _Embeddings(Module):
  def __init__(self, config):
    dim = config["hidden_size"]
    num_patches = (config["image_size"] // config["patch_size"]) ** 2
    self.cls_token = param((1, 1, dim), init=NORMAL, axes=(None, None, "out"))
    self.position_embeddings = param(
      (1, 1 + num_patches, dim), init=NORMAL, axes=(None, None, "out")
    )
    self.patch_embeddings = PatchEmbeddings(config)

  def __call__(self, x_BHWC):
    return embed(
      self.patch_embeddings(x_BHWC),
      self.cls_token[...],
      self.position_embeddings[...],
    )


class _Layer(Module):
  """Attention, then a feed-forward, each normalised first."""

  def __init__(self, config):
    dim, inner = config["hidden_size"], config["intermediate_size"]
    self.act = config["hidden_act"]
    self.layernorm_before = _norm(config)
    self.attention = Attention(config)
    self.layernorm_after = _norm(config)
    self.intermediate = Dense(dim, inner)
    self.output = Dense(inner, dim)

  def __call__(self, x_BSD):
    x_BSD = x_BSD + self.attention(self.layernorm_before(x_BSD))
    h = ACTIVATIONS[self.act](
      self.intermediate.dense(self.layernorm_after(x_BSD))
    )
    return x_BSD + self.output.dense(h)


def _norm(config):
  return LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])
