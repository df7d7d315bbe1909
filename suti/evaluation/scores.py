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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.backbone import find_model
from suti.io.files import read_json
from suti.io.weights import load
from suti.models import clip as clip_model
from suti.models import dino
from suti.nn.param import functional
from suti.pixels import load_pixel_reader
from suti.text import load_tokenizer

# B batch, K demonstrations, G generated and R real pictures, D embedding width.

_ROWS = 64  # pictures or texts at once: one compiled program for any number

Embed = Callable[[Sequence], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
  """The encoders that judge.

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

  Args:
    clip: a shipped name or a folder in the layout of a published CLIPModel.
    identity: the same for a DINO ViT.

  Raises:
    ValueError: no such folder, or weights that do not fit.
  """
  folder = find_model(clip)
  config = _config(folder, "clip")
  spec, apply_clip = functional(clip_model.declare_clip(config))
  clip_params = load(spec, folder, renames=clip_model.RENAMES)
  length = int(config["text_config"]["max_position_embeddings"])
  tokenize = load_tokenizer(folder, max_length=length)
  texts = jax.jit(lambda p, ids: apply_clip(p, ids, method="encode_text"))
  images = jax.jit(lambda p, x: apply_clip(p, x, method="encode_image"))
  clip_pixels = load_pixel_reader(folder)

  identity_folder = find_model(identity)
  spec, apply_vit = functional(
    dino.declare_dino(_config(identity_folder, "identity"))
  )
  vit_params = load(spec, identity_folder, renames=dino.RENAMES)
  vit = jax.jit(lambda p, x: unit(apply_vit(p, x)[:, 0]))
  vit_pixels = load_pixel_reader(identity_folder)

  return Scorer(
    clip_images=lambda batch: _in_rows(
      lambda rows: images(clip_params, clip_pixels(rows)), batch
    ),
    clip_texts=lambda batch: _in_rows(
      lambda rows: texts(clip_params, tokenize(rows)), batch
    ),
    identity=lambda batch: _in_rows(
      lambda rows: vit(vit_params, vit_pixels(rows)), batch
    ),
  )


def _config(folder: Path, field: str) -> dict[str, Any]:
  for name in ("config.json", "preprocessor_config.json"):
    if not (folder / name).is_file():
      raise ValueError(
        f"config.{field}={folder} has no {name}: give a model in the "
        "transformers layout."
      )
  return read_json(folder / "config.json")


def unit(x_BD: jax.Array) -> jax.Array:
  """Rows scaled to length one."""
  return x_BD / jnp.linalg.norm(x_BD, axis=-1, keepdims=True)


def _in_rows(encode: Callable, batch: Sequence) -> np.ndarray:
  """Encodes in blocks of equal size, the last one padded with its last row."""
  batch = list(batch)
  blocks = []
  for start in range(0, len(batch), _ROWS):
    rows = batch[start : start + _ROWS]
    padded = rows + [rows[-1]] * (_ROWS - len(rows))
    blocks.append(np.asarray(encode(padded))[: len(rows)])
  return np.concatenate(blocks)
