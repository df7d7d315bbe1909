# SPDX-License-Identifier: Apache-2.0
"""CLIP-T, CLIP-I, identity and delta-CLIP: one definition for all stages.

Scores are raw cosines of unit embeddings, without the factors 2.5 or 100 that
some evaluators apply (SuTI's threshold 0.02 has a meaning only on raw cosines).
DreamBooth, section 4.1: CLIP-I and DINO are means over all pairs of generated
and real pictures of a subject; CLIP-T is the mean over pictures and prompts.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from suti.hf.find import find_model
from suti.hf.image_processor import PixelReader, load_pixel_reader
from suti.hf.model import Model, open_model
from suti.hf.tokenizer import load_tokenizer

# B batch, K demonstrations, G generated and R real pictures, D embedding width.

ROWS = 64  # pictures or texts a batch: one compiled program for any number
# Either kind of DINO; all have the class token first.
IDENTITY = ("ViTModel", "Dinov2Model", "Dinov2WithRegistersModel")

Embed = Callable[[Sequence], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
  """The encoders that score pictures.

  Attributes:
    clip_images: uint8 pictures of any size -> unit (B, D) float32.
    clip_texts: texts -> unit (B, D) float32.
    identity: uint8 pictures of any size -> unit (B, D) float32.
  """

  clip_images: Embed
  clip_texts: Embed
  identity: Embed


def delta_clip(
  image_D: np.ndarray | jax.Array,
  demonstrations_KD: np.ndarray | jax.Array,
  text_D: np.ndarray | jax.Array,
  mask_K: np.ndarray | jax.Array,
) -> jax.Array:
  """How much better a picture meets a prompt than the best demonstration does.

  SuTI, eq. 7: CLIP(y, p) - max_x CLIP(x, p).

  Args:
    image_D, demonstrations_KD, text_D: unit CLIP embeddings, float32.
    mask_K: which demonstrations exist, bool.

  Returns: a scalar in [-2, 2].
  """
  best = jnp.max(
    jnp.where(jnp.asarray(mask_K), demonstrations_KD @ text_D, -1.0)
  )
  return jnp.asarray(image_D) @ text_D - best


def mean_over_pairs(generated_GD: np.ndarray, real_RD: np.ndarray) -> float:
  """Mean cosine over all pairs of a generated and a real picture."""
  return float((generated_GD @ real_RD.T).mean())


def mean_over_distinct_pairs(real_RD: np.ndarray) -> float:
  """Mean cosine over pairs of different pictures: the oracle row of a table."""
  similarity = real_RD @ real_RD.T
  return float(similarity[~np.eye(len(real_RD), dtype=bool)].mean())


def load_scorer(
  *, clip: str | Path = "world_clip", identity: str | Path = "world_identity"
) -> Scorer:
  """Opens the judges.

  DreamBooth (section 4.1) judges by CLIP and by DINO ViT-S/16, some later
  papers by DINOv2: numbers compare where the judges are the same.

  Args:
    clip: a shipped name, or the folder of a published CLIPModel, its tokenizer
      and its preprocessor_config.json or processor_config.json.
    identity: the same for a DINO or a DINOv2, of which the class token counts.

  Raises:
    ValueError: no such folder, a model of another kind, or one that lacks
      something.
  """
  judge, clip_pixels = open_encoder("clip", clip, expected=("CLIPModel",))
  positions = judge.spec["text_model.embeddings.position_embedding.weight"]
  tokenize = load_tokenizer(find_model(clip), max_length=positions.shape[0])
  texts = jax.jit(lambda p, ids: judge.apply(p, ids, method="encode_text"))
  images = image_encoder(judge)

  vit, vit_pixels = open_encoder("identity", identity, expected=IDENTITY)
  class_token = image_encoder(vit)

  return Scorer(
    clip_images=lambda batch: in_rows(
      lambda rows: images(judge.params, clip_pixels(rows)), batch
    ),
    clip_texts=lambda batch: in_rows(
      lambda rows: texts(judge.params, tokenize(rows)), batch
    ),
    identity=lambda batch: in_rows(
      lambda rows: class_token(vit.params, vit_pixels(rows)), batch
    ),
  )


def image_encoder(judge: Model) -> Callable[..., jax.Array]:
  """The compiled program that embeds pictures, whichever kind the judge is.

  Returns: (params, pixels_BHWC float32) -> unit (B, D) float32.
  """
  if judge.kind == "CLIPModel":
    return jax.jit(lambda p, x: judge.apply(p, x, method="encode_image"))
  return jax.jit(lambda p, x: unit(judge.apply(p, x)[:, 0]))


def open_encoder(
  field: str, name_or_dir: str | Path, *, expected: Sequence[str]
) -> tuple[Model, PixelReader]:
  """A judge, and its image preprocessing."""
  folder = find_model(name_or_dir)
  try:
    return open_model(folder, expected=expected), load_pixel_reader(folder)
  except ValueError as error:
    raise ValueError(f"config.{field}: {error}") from error


def unit(x_BD: jax.Array) -> jax.Array:
  """Rows scaled to length one."""
  return x_BD / jnp.linalg.norm(x_BD, axis=-1, keepdims=True)


def in_rows(encode: Callable, batch: Sequence) -> np.ndarray:
  """Encodes in blocks of equal size, the last one padded with its last row."""
  batch = list(batch)
  blocks = []
  for start in range(0, len(batch), ROWS):
    rows = batch[start : start + ROWS]
    padded = rows + [rows[-1]] * (ROWS - len(rows))
    blocks.append(np.asarray(encode(padded))[: len(rows)])
  return np.concatenate(blocks)
