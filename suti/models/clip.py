# SPDX-License-Identifier: Apache-2.0
"""CLIP: a text and a vision tower that share one space of embeddings.

Radford et al. 2021, "Learning transferable visual models from natural language
supervision"; OpenCLIP's models are the same with another activation. Names are
those of the published CLIPModel files, and of one tower's alone: CLIPTextModel,
CLIPVisionModel, either with its projection. Preparing images and texts is not
done here.

What is called an embedding is one vector for a whole text or image, in the
space that both towers share; states are one vector a token.

Shape suffixes: B batch, H W height and width, C channels, L text tokens, S
image tokens (the class token first), D width, P width of the shared space.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.config.values import check_kinds, shorten
from suti.models.encoder_config import complete
from suti.nn.attention import attend, merge_heads, split_heads
from suti.nn.layers import ACTIVATIONS, Conv2d, Embed, LayerNorm, Linear
from suti.nn.param import NORMAL, Module, ModuleList, param

# Older files store the constant 0, 1, 2, ... beside the parameters.
RENAMES = {r"(^|.*\.)position_ids$": ""}
# Some files of one tower leave its name out.
TEXT_RENAMES = RENAMES | {
  r"^(?=(embeddings|encoder|final_layer_norm)\.)": "text_model."
}
VISION_RENAMES = RENAMES | {
  r"^(?=(embeddings|encoder|pre_layrnorm|post_layernorm)\.)": "vision_model."
}

_TEXT_DEFAULTS = {
  "vocab_size": 49408,
  "hidden_size": 512,
  "intermediate_size": 2048,
  "num_hidden_layers": 12,
  "num_attention_heads": 8,
  "max_position_embeddings": 77,
  "projection_dim": 512,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
  "eos_token_id": 49407,
}
_VISION_DEFAULTS = {
  "hidden_size": 768,
  "intermediate_size": 3072,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "num_channels": 3,
  "image_size": 224,
  "patch_size": 32,
  "projection_dim": 512,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
}
# Of both towers.
_DEFAULTS = {
  "text_config": None,
  "vision_config": None,
  "projection_dim": 512,
  "logit_scale_init_value": 2.6592,
}


def declare_clip(config: Mapping[str, Any]) -> "Clip":
  """Declares both towers from a published `CLIPConfig`.

  Args:
    config: as in config.json, with `text_config`, `vision_config` and
      `projection_dim`; what is absent has the default of CLIP ViT-B/32.

  Returns:
    A module with the methods `text_states`, `encode_text` and `encode_image`.
  """
  both = {**_DEFAULTS, **config}
  check_kinds(both, _DEFAULTS, what="CLIP")
  return Clip(
    _tower(both, "text_config", _TEXT_DEFAULTS),
    _tower(both, "vision_config", _VISION_DEFAULTS),
    both["projection_dim"],
    both["logit_scale_init_value"],
  )


def declare_clip_text(
  config: Mapping[str, Any], *, projected: bool | None = None
) -> "ClipText":
  """Declares a lone text encoder from a published `CLIPTextConfig`.

  Args:
    config: as in text_encoder/config.json.
    projected: whether its file has a projection; None reads `architectures`,
      which names CLIPTextModelWithProjection then.

  Returns:
    A module; `module(ids_BL)` and `text_states` return the hidden states
    (B, L, D) after the final norm.
  """
  return ClipText(
    _lone_tower(config, "text_config", _TEXT_DEFAULTS),
    _projected(config, projected),
  )


def declare_clip_vision(
  config: Mapping[str, Any], *, projected: bool | None = None
) -> "ClipVision":
  """Declares a lone image encoder from a published `CLIPVisionConfig`.

  Args:
    config: as in image_encoder/config.json.
    projected: as for `declare_clip_text`, with CLIPVisionModelWithProjection.

  Returns:
    A module; `module(x_BHWC)` and `image_states` return the hidden states
    (B, 1 + S, D) of the last layer.
  """
  return ClipVision(
    _lone_tower(config, "vision_config", _VISION_DEFAULTS),
    _projected(config, projected),
  )


class Clip(Module):
  """`text_model`, `vision_model`, `*_projection`, `logit_scale`."""

  def __init__(self, text, vision, projection_dim, logit_scale):
    self.text_model = _TextTower(text)
    self.vision_model = _VisionTower(vision)
    self.text_projection = Linear(
      text["hidden_size"], projection_dim, bias=False
    )
    self.visual_projection = Linear(
      vision["hidden_size"], projection_dim, bias=False
    )
    self.logit_scale = param(
      (), init=lambda *_: jnp.asarray(logit_scale, jnp.float32), axes=()
    )

  def text_states(self, ids_BL: jax.Array) -> jax.Array:
    """Token ids (B, L) -> hidden states (B, L, D) after the final norm."""
    return self.text_model(ids_BL)[1]

  def encode_text(self, ids_BL: jax.Array) -> jax.Array:
    """Token ids (B, L), each row with its end token -> unit float32 (B, P)."""
    pooled_BD = self.text_model.pool(self.text_states(ids_BL), ids_BL)
    return _unit(self.text_projection(pooled_BD))

  def encode_image(self, x_BHWC: jax.Array) -> jax.Array:
    """Images, normalised as CLIP's are (B, H, W, C) -> unit float32 (B, P)."""
    pooled_BD = self.vision_model.pool(self.vision_model(x_BHWC)[1])
    return _unit(self.visual_projection(pooled_BD))


class ClipText(Module):
  """`text_model` and perhaps `text_projection`, as text_encoder/ has them."""

  def __init__(self, config, projected):
    self.text_model = _TextTower(config)
    self.text_projection = _projection(config) if projected else None

  def __call__(
    self, ids_BL: jax.Array, offsets_BLD: jax.Array | None = None
  ) -> jax.Array:
    """Token ids (B, L) -> hidden states (B, L, D) after the final norm.

    Offsets are added to the tokens' embeddings, such as what was learned of a
    subject to its noun's.
    """
    return self.text_model(ids_BL, offsets_BLD)[1]

  text_states = __call__

  def penultimate_states(self, ids_BL: jax.Array) -> jax.Array:
    """Token ids (B, L) -> states (B, L, D) before the last layer, no norm."""
    return self.text_model(ids_BL)[0]

  def penultimate_states_and_embedding(
    self, ids_BL: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Both of the above in one pass, which is what SDXL is conditioned on."""
    penultimate_BLD, x_BLD = self.text_model(ids_BL)
    project = _present(self.text_projection, "text", "CLIPTextModel")
    return penultimate_BLD, project(self.text_model.pool(x_BLD, ids_BL))


class ClipVision(Module):
  """`vision_model` and perhaps `visual_projection`, as image_encoder/ has."""

  def __init__(self, config, projected):
    self.vision_model = _VisionTower(config)
    self.visual_projection = _projection(config) if projected else None

  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    """Images (B, H, W, C) -> states (B, 1 + S, D) after the last layer."""
    return self.vision_model(x_BHWC)[1]

  image_states = __call__

  def penultimate_states(self, x_BHWC: jax.Array) -> jax.Array:
    """Images -> states (B, 1 + S, D) before the last layer, no norm."""
    return self.vision_model(x_BHWC)[0]

  def embed_image(self, x_BHWC: jax.Array) -> jax.Array:
    """Images -> embedding (B, P), not of unit length."""
    project = _present(self.visual_projection, "image", "CLIPVisionModel")
    return project(self.vision_model.pool(self.vision_model(x_BHWC)[1]))


class _TextTower(Module):
  def __init__(self, config):
    self.eos_token_id = config["eos_token_id"]
    self.embeddings = _TextEmbeddings(config)
    self.encoder = _Encoder(config)
    self.final_layer_norm = _norm(config)

  def __call__(self, ids_BL, offsets_BLD=None):
    length = ids_BL.shape[1]
    causal_LL = np.tril(np.ones((length, length), bool))
    penultimate_BLD, x_BLD = self.encoder(
      self.embeddings(ids_BL, offsets_BLD), jnp.asarray(causal_LL)
    )
    return penultimate_BLD, self.final_layer_norm(x_BLD)

  def pool(self, x_BLD, ids_BL):
    # Files from before 2023 say eos_token_id 2, which is wrong: their end token
    # is the largest id. New ones may pad with the end token: the first counts.
    ends_BL = ids_BL if self.eos_token_id == 2 else ids_BL == self.eos_token_id
    return jnp.take_along_axis(
      x_BLD, ends_BL.argmax(-1)[:, None, None], axis=1
    )[:, 0]


class _VisionTower(Module):
  def __init__(self, config):
    self.embeddings = _VisionEmbeddings(config)
    # sic: the published name has lost its "e".
    self.pre_layrnorm = _norm(config)
    self.encoder = _Encoder(config)
    self.post_layernorm = _norm(config)

  def __call__(self, x_BHWC):
    return self.encoder(self.pre_layrnorm(self.embeddings(x_BHWC)), None)

  def pool(self, x_BSD):
    return self.post_layernorm(x_BSD[:, 0])


class _TextEmbeddings(Module):
  def __init__(self, config):
    dim = config["hidden_size"]
    self.max_length = config["max_position_embeddings"]
    self.token_embedding = Embed(config["vocab_size"], dim)
    self.position_embedding = Embed(self.max_length, dim)

  def __call__(self, ids_BL, offsets_BLD=None):
    length = ids_BL.shape[1]
    if length > self.max_length:
      raise ValueError(
        f"A text of {length} tokens is longer than the text encoder's "
        f"{self.max_length}: truncate it in the tokenizer."
      )
    tokens_BLD = self.token_embedding(ids_BL)
    if offsets_BLD is not None:
      tokens_BLD = tokens_BLD + offsets_BLD
    return tokens_BLD + self.position_embedding(jnp.arange(length))


class _VisionEmbeddings(Module):
  def __init__(self, config):
    dim, size = config["hidden_size"], config["patch_size"]
    self.image_size = config["image_size"]
    self.class_embedding = param((dim,), init=NORMAL, axes=("out",))
    self.patch_embedding = Conv2d(
      config["num_channels"], dim, size, stride=size, padding=0, bias=False
    )
    self.position_embedding = Embed(1 + (self.image_size // size) ** 2, dim)

  def __call__(self, x_BHWC):
    if x_BHWC.shape[1:3] != (self.image_size, self.image_size):
      raise ValueError(
        f"CLIP takes images of {self.image_size} px, not "
        f"{x_BHWC.shape[1]}x{x_BHWC.shape[2]}: resize them."
      )
    x_BHWD = self.patch_embedding(x_BHWC)
    batch, dim = x_BHWD.shape[0], x_BHWD.shape[-1]
    class_B1D = jnp.broadcast_to(self.class_embedding[...], (batch, 1, dim))
    x_BSD = jnp.concatenate([class_B1D, x_BHWD.reshape(batch, -1, dim)], axis=1)
    return x_BSD + self.position_embedding.weight[...]


class _Encoder(Module):
  def __init__(self, config):
    self.layers = ModuleList(
      [_Layer(config) for _ in range(config["num_hidden_layers"])]
    )

  def __call__(self, x_BSD, mask):
    """Returns the states before the last layer, and after it."""
    before_BSD = x_BSD
    for layer in self.layers:
      before_BSD, x_BSD = x_BSD, layer(x_BSD, mask)
    return before_BSD, x_BSD


class _Layer(Module):
  """Attention, then a feed-forward, each normalised first."""

  def __init__(self, config):
    self.layer_norm1 = _norm(config)
    self.self_attn = _Attention(config)
    self.layer_norm2 = _norm(config)
    self.mlp = _Mlp(config)

  def __call__(self, x_BSD, mask):
    x_BSD = x_BSD + self.self_attn(self.layer_norm1(x_BSD), mask)
    return x_BSD + self.mlp(self.layer_norm2(x_BSD))


class _Attention(Module):
  def __init__(self, config):
    dim = config["hidden_size"]
    self.num_heads = config["num_attention_heads"]
    self.q_proj = Linear(dim, dim)
    self.k_proj = Linear(dim, dim)
    self.v_proj = Linear(dim, dim)
    self.out_proj = Linear(dim, dim)

  def __call__(self, x_BSD, mask):
    q, k, v = (
      split_heads(project(x_BSD), self.num_heads)
      for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    return self.out_proj(merge_heads(attend(q, k, v, mask)))


class _Mlp(Module):
  def __init__(self, config):
    dim, inner = config["hidden_size"], config["intermediate_size"]
    self.act = config["hidden_act"]
    self.fc1 = Linear(dim, inner)
    self.fc2 = Linear(inner, dim)

  def __call__(self, x):
    return self.fc2(ACTIVATIONS[self.act](self.fc1(x)))


def _norm(config):
  return LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])


def _projection(config):
  return Linear(config["hidden_size"], config["projection_dim"], bias=False)


def _projected(config, projected):
  if projected is not None:
    return projected
  names = config.get("architectures") or ()
  return any(name.endswith("WithProjection") for name in names)


def _present(projection, what, architecture):
  if projection is None:
    raise ValueError(
      f"This CLIP {what} encoder has no projection, so no embedding: expected "
      f"{architecture}WithProjection in the architectures of its config.json."
    )
  return projection


def _unit(x_BD):
  x_BD = x_BD.astype(jnp.float32)
  return x_BD / jnp.linalg.norm(x_BD, axis=-1, keepdims=True)


def _tower(config, key, defaults):
  """The config of one tower, out of that of both."""
  # Its older name, which some files still have, counts more.
  old = config.get(f"{key}_dict")
  found = config.get(key) if old is None else old
  if not isinstance(found, Mapping | None):
    raise ValueError(
      f"{shorten(found)} is no config of a tower of CLIP: fetch it again."
    )
  return complete(found or {}, defaults, what="CLIP")


def _lone_tower(config, key, defaults):
  """The same of a file with one tower, whose config may be that of both."""
  if config.get("model_type") == "clip" and isinstance(
    config.get(key), Mapping
  ):
    config = config[key]
  return complete(config, defaults, what="CLIP")
