# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of DINOv2, with or without registers.

Oquab et al. 2023, "DINOv2: learning robust visual features without
supervision"; Darcet et al. 2023, "Vision transformers need registers". Names
are those of the files of facebook/dinov2-small and alike (Dinov2Model,
Dinov2WithRegistersModel). Masked patches, which only its training has, and
heads are not here.

Shape suffixes: B batch, H W height and width, C channels, R registers, S
patches (row by row), T tokens (class, registers, patches), D width.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from suti.models.encoder_config import complete
from suti.models.vit_blocks import Attention, Encoder, PatchEmbeddings, embed
from suti.nn.layers import ACTIVATIONS, LayerNorm, Linear
from suti.nn.param import NORMAL, ONES, ZEROS, Module, param

# Files of models with a head keep the encoder under this name.
RENAMES = {r"^dinov2(_with_registers)?\.": "", r"^classifier\..*": ""}

_DEFAULTS = {
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "mlp_ratio": 4,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-6,
  "image_size": 224,
  "patch_size": 14,
  "num_channels": 3,
  "qkv_bias": True,
  "use_swiglu_ffn": False,
  "use_mask_token": True,
  "num_register_tokens": 0,
}
_REGISTERS_DEFAULTS = _DEFAULTS | {"patch_size": 16, "num_register_tokens": 4}


def declare_dinov2(config: Mapping[str, Any]) -> "Dinov2":
  """Declares an encoder from its published config.

  Args:
    config: as in config.json, a `Dinov2Config` or, where `model_type` says so,
      a `Dinov2WithRegistersConfig`; what is absent has the default of its kind.

  Returns:
    A module; `module(x_BHWC)` and `encode` take normalised float images of any
    size not smaller than a patch.
  """
  registers = config.get("model_type") == "dinov2_with_registers"
  defaults = _REGISTERS_DEFAULTS if registers else _DEFAULTS
  config = complete(config, defaults, what="DINOv2")
  # The publisher smooths positions in the models with registers alone.
  return Dinov2(config, antialias=registers)


class Dinov2(Module):
  """`embeddings`, `encoder.layer.N`, `layernorm`."""

  def __init__(self, config, *, antialias):
    self.num_registers = config["num_register_tokens"]
    self.embeddings = _Embeddings(config, antialias)
    self.encoder = Encoder(
      [_Layer(config) for _ in range(config["num_hidden_layers"])]
    )
    self.layernorm = _norm(config)

  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    """Images (B, H, W, C) -> tokens (B, 1 + R + S, D) after the final norm."""
    return self.layernorm(self.encoder(self.embeddings(x_BHWC)))

  def encode(self, x_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images (B, H, W, C) -> class embeddings (B, D), patches (B, S, D)."""
    x_BTD = self(x_BHWC)
    return x_BTD[:, 0], x_BTD[:, 1 + self.num_registers :]


class _Embeddings(Module):
  def __init__(self, config, antialias):
    dim, num_registers = config["hidden_size"], config["num_register_tokens"]
    num_patches = (config["image_size"] // config["patch_size"]) ** 2
    self.antialias = antialias
    self.cls_token = param((1, 1, dim), init=NORMAL, axes=(None, None, "out"))
    # Published, and of use in training alone.
    self.mask_token = (
      param((1, dim), init=ZEROS, axes=(None, "out"))
      if config["use_mask_token"]
      else None
    )
    self.register_tokens = (
      param((1, num_registers, dim), init=NORMAL, axes=(None, None, "out"))
      if num_registers
      else None
    )
    self.patch_embeddings = PatchEmbeddings(config)
    self.position_embeddings = param(
      (1, 1 + num_patches, dim), init=NORMAL, axes=(None, None, "out")
    )

  def __call__(self, x_BHWC):
    x_BTD = embed(
      self.patch_embeddings(x_BHWC),
      self.cls_token[...],
      self.position_embeddings[...],
      antialias=self.antialias,
    )
    if self.register_tokens is None:
      return x_BTD
    registers_1RD = self.register_tokens[...]
    registers_BRD = jnp.broadcast_to(
      registers_1RD, (x_BTD.shape[0], *registers_1RD.shape[1:])
    )
    # They come after positions are added, and have none.
    return jnp.concatenate([x_BTD[:, :1], registers_BRD, x_BTD[:, 1:]], axis=1)


class _Layer(Module):
  """Attention, then a feed-forward, each normalised first and scaled after."""

  def __init__(self, config):
    self.norm1 = _norm(config)
    self.attention = Attention(config)
    self.layer_scale1 = _LayerScale(config)
    self.norm2 = _norm(config)
    self.mlp = _SwiGlu(config) if config["use_swiglu_ffn"] else _Mlp(config)
    self.layer_scale2 = _LayerScale(config)

  def __call__(self, x_BTD):
    x_BTD = x_BTD + self.layer_scale1(self.attention(self.norm1(x_BTD)))
    return x_BTD + self.layer_scale2(self.mlp(self.norm2(x_BTD)))


class _LayerScale(Module):
  """Touvron et al. 2021, "Going deeper with image transformers"."""

  def __init__(self, config):
    self.lambda1 = param((config["hidden_size"],), init=ONES, axes=("out",))

  def __call__(self, x_BTD):
    return x_BTD * self.lambda1[...]


class _Mlp(Module):
  def __init__(self, config):
    dim = config["hidden_size"]
    inner = int(dim * config["mlp_ratio"])
    self.act = config["hidden_act"]
    self.fc1 = Linear(dim, inner)
    self.fc2 = Linear(inner, dim)

  def __call__(self, x_BTD):
    return self.fc2(ACTIVATIONS[self.act](self.fc1(x_BTD)))


class _SwiGlu(Module):
  """Shazeer 2020, "GLU variants improve transformer"; DINOv2-g has it."""

  def __init__(self, config):
    dim = config["hidden_size"]
    # Two thirds make up for the third matrix; a multiple of 8.
    inner = (int(int(dim * config["mlp_ratio"]) * 2 / 3) + 7) // 8 * 8
    self.weights_in = Linear(dim, 2 * inner)
    self.weights_out = Linear(inner, dim)

  def __call__(self, x_BTD):
    gate, value = jnp.split(self.weights_in(x_BTD), 2, axis=-1)
    return self.weights_out(jax.nn.silu(gate) * value)


def _norm(config):
  return LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])
