# SPDX-License-Identifier: Apache-2.0
"""Textual inversion: of each subject one word's vector is learned.

Gal et al. 2022, "An image is worth one word" (arXiv 2208.01618, section 3). All
nets are frozen; the loss of the denoiser reaches the embedding of one token
through the U-Net and the text encoder. It begins as the embedding of the
subject's noun. What is learned is its difference to that, zero at first: all
experts of a wave begin alike, and before its first step one samples what the
base does.

As the paper is silent, or differently:

  the word     the noun itself, in captions and prompts: no new token is added.
               Of a noun of several tokens the vector stands at the last, the
               head of an English compound; those before it stay as they are.
  its texts    the captions that all teachers learn from, "a dog", "a dog in the
               snow" (`config.mine.captions="noun"`), where the paper draws from
               neutral ones, "a photo of a *", "a rendering of a *": these tell
               the vector's part from the scene's.
  its steps    as `config.finetune` has them; the paper's are 5,000 at a rate of
               0.04, in batches of 4 on each of two GPUs.

Texts are encoded again in each step, in the dtype that the net computes in.
Only bases with a single CLIP text encoder are supported.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experts.teacher import Teacher, guided_sample, tuning_loss
from suti.nn.param import ZEROS, Module, param
from suti.pipeline.backbone import Backbone
from suti.pipeline.text_encoders import describe_text_encoders

# B rows, L tokens, D width of the text encoder.

Array = jax.Array
Params = Mapping[str, Array]
_TABLE = "text_model.embeddings.token_embedding.weight"
_CLIPS = ("CLIPTextModel", "CLIPTextModelWithProjection")


class Subject(Module):
  """What a subject's vector has beside its noun's."""

  def __init__(self, width: int):
    self.offset = param((width,), init=ZEROS, axes=("out",))

  def __call__(self) -> Array:
    """The difference (D,)."""
    return self.offset[...]


def declare(backbone: Backbone, config: Any) -> dict[str, Module]:
  """The base, its text encoder, and a subject's vector.

  Raises:
    ValueError: texts are encoded otherwise than by one CLIP.
  """
  del config
  encoders = describe_text_encoders(backbone.folder)
  kinds = [encoder.kind for encoder in encoders]
  if len(kinds) > 1 or kinds[0] not in _CLIPS:
    raise ValueError(
      "config.finetune.teacher='textual_inversion' learns a vector of one "
      f"CLIP's, and config.backbone='{backbone.name}' reads texts by "
      f"{' and '.join(kinds)}: take a base as Stable Diffusion 1 or 2, or "
      "another teacher."
    )
  (encoder,) = encoders
  _, width = encoder.spec[_TABLE].shape
  return {
    "": backbone.unet,
    "text": encoder.module,
    "subject": Subject(width),
  }


def weights(backbone: Backbone, config: Any) -> Mapping[str, str]:
  """The text encoder's are the base's own."""
  del config
  return {"text": str(backbone.folder / "text_encoder")}


def last_token(noun_BL: Array) -> Array:
  """The last of the tokens of each row's noun, which stand side by side."""
  after_BL = jnp.pad(noun_BL[:, 1:], ((0, 0), (0, 1)))
  return noun_BL & ~after_BL


def with_subject(
  apply: Any, params: Params, texts: Mapping[str, Any]
) -> dict[str, Any]:
  """The same batch or request, its texts encoded with the subject's vector."""
  offset_D = apply(params, net="subject")
  is_subject_BL1 = last_token(texts["noun_BL"])[..., None]
  states_BLD = apply(
    params,
    texts["ids_BL"],
    jnp.where(is_subject_BL1, offset_D, jnp.zeros_like(offset_D)),
    net="text",
  )
  encoded = {"text_BLD": states_BLD.astype(jnp.float32)}
  return {**texts, "conditioning": {**texts["conditioning"], **encoded}}


def loss(
  apply: Any,
  backbone: Backbone,
  params: Params,
  batch: Mapping[str, Any],
  key: Array,
  config: Any,
) -> Array:
  """The base's own loss."""
  named = with_subject(apply, params, batch)
  return tuning_loss(apply, backbone, params, named, key, config)


def sample(
  apply: Any,
  backbone: Backbone,
  params: Params,
  request: Mapping[str, Any],
  keys_B: Array,
  config: Any,
) -> Array:
  """Guided sampling; the null text has no subject."""
  named = with_subject(apply, params, request)
  return guided_sample(apply, backbone, params, named, keys_B, config)


TEACHER = Teacher(
  paper="https://arxiv.org/abs/2208.01618",
  declare=declare,
  trainable=r"^subject:",
  loss=loss,
  sample=sample,
  asks=("noun", "tokens"),
  weights=weights,
)
