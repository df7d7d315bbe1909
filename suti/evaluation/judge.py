# SPDX-License-Identifier: Apache-2.0
"""The judge: an encoder that took no part in making what it judges.

A dictionary of patches (`suti.models.patch_dictionary`), or a folder in the
published layout of a ViT or a DINOv2. `heads/` beside it (`suti.models.heads`)
embed who a subject is, answer multiple-choice questions, and say by what
features pictures are compared. A ViT without heads tells subjects by its class
token, as DINO does, and is asked nothing.

Shape suffixes: B N pictures, F features, D embedding width, S tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from suti.evaluation.scores import IDENTITY, ROWS, open_encoder, unit
from suti.hf.find import find_model
from suti.hf.model import Model, open_model
from suti.io.files import fingerprint

HEADS = "heads"
_DICTIONARY = "PatchDictionary"
# Of the heads, those that are no questions.
_IDENTITY, _FEATURES = "identity", "features"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """What a judge sees in N pictures.

  Attributes:
    features_NF: float32, shape and detail: what the head of features gives, or
      a ViT's class token and the mean of its patches.
    identity_ND: unit float32, near for two pictures of one subject.
    answers: question -> the chosen answer of each picture.
  """

  features_NF: np.ndarray
  identity_ND: np.ndarray
  answers: Mapping[str, Sequence[str] | np.ndarray]

  def __len__(self) -> int:
    return len(self.features_NF)


# uint8 pictures of any size -> what is seen in them.
Judge = Callable[[Sequence[np.ndarray]], Judged]


def load_judge(name_or_dir: str | Path) -> Judge:
  """Opens a judge, once a process for as long as its files stay the same.

  Args:
    name_or_dir: a shipped name, "world_judge", or the folder of a published ViT
      or DINOv2 with its preprocessor_config.json; heads/ may stand in it, and
      must in that of a dictionary of patches.

  Raises:
    ValueError: no such folder, a model of another kind, or one that lacks
      something.
  """
  return _load(str(name_or_dir), fingerprint(find_model(name_or_dir)))


@functools.lru_cache(maxsize=2)
def _load(name_or_dir: str, files: str) -> Judge:
  """The judge of a folder, of which `files` is the fingerprint."""
  encoder, read_pixels = open_encoder(
    "judge", name_or_dir, expected=(_DICTIONARY, *IDENTITY)
  )
  folder = find_model(name_or_dir)
  heads, choices = _open_heads(folder / HEADS)
  if heads is None and encoder.kind == _DICTIONARY:
    raise ValueError(
      f"config.judge: {folder} has no {HEADS}/, without which a dictionary of "
      "patches tells nobody apart: make it again with suti.pretrain.judge."
    )

  @jax.jit
  def encode(params, heads_params, x_BHWC):
    x_BF = features(encoder, params, x_BHWC)
    if heads is None:
      return x_BF, unit(x_BF[:, : x_BF.shape[1] // 2]), {}
    out = heads.apply(heads_params, x_BF)
    chosen = {question: out[question].argmax(-1) for question in choices}
    return out.get(_FEATURES, x_BF), unit(out[_IDENTITY]), chosen

  def look(images: Sequence[np.ndarray]) -> Judged:
    images = list(images)
    blocks = []
    for start in range(0, len(images), ROWS):
      rows = images[start : start + ROWS]
      # One compiled program for any number: the last block is filled up, and
      # cut to what was asked for below.
      padded = rows + [rows[-1]] * (ROWS - len(rows))
      out = encode(
        encoder.params, heads.params if heads else {}, read_pixels(padded)
      )
      blocks.append(jax.tree.map(np.asarray, out))
    features_NF, identity_ND, chosen = jax.tree.map(
      lambda *parts: np.concatenate(parts)[: len(images)], *blocks
    )
    return Judged(
      features_NF=features_NF,
      identity_ND=identity_ND,
      answers={q: np.array(choices[q])[chosen[q]] for q in choices},
    )

  return look


def features(encoder: Model, params: dict, x_BHWC: jax.Array) -> jax.Array:
  """What the heads read, (B, F): of a ViT, class token and mean of patches.

  Registers are left out.
  """
  if encoder.kind == _DICTIONARY:
    return encoder.apply(params, x_BHWC)
  tokens_BSD = encoder.apply(params, x_BHWC)
  first = 1 + encoder.config.get("num_register_tokens", 0)
  return jnp.concatenate(
    [tokens_BSD[:, 0], tokens_BSD[:, first:].mean(axis=1)], axis=-1
  )


def _open_heads(
  folder: Path,
) -> tuple[Model | None, Mapping[str, Sequence[str]]]:
  """The heads of a folder and the choices of their questions, if it is there.

  Raises:
    ValueError: a question without as many answers as its head has outputs.
  """
  if not folder.is_dir():
    return None, {}
  heads = open_model(folder, expected=("Heads",))
  sizes = heads.config["heads"]
  choices = heads.config.get("choices", {})
  counts = {question: len(answers) for question, answers in choices.items()}
  asked = {name: size for name, size in sizes.items() if name != _FEATURES}
  if counts | {_IDENTITY: sizes.get(_IDENTITY)} != asked:
    raise ValueError(
      f"{folder / 'config.json'}: heads={dict(sizes)} with choices of {counts}:"
      f" expected {_IDENTITY!r} and as many answers to each question as its "
      "head has outputs; make it again with suti.pretrain.judge."
    )
  # Of which its pool showed one answer alone: it is not asked.
  unlearned = heads.config.get("unlearned", ())
  return heads, {q: a for q, a in choices.items() if q not in unlearned}
