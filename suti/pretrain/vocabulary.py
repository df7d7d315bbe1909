# SPDX-License-Identifier: Apache-2.0
"""The words that the embedded models read.

A byte-level vocabulary learned from SubjectWorld's captions: whole words for
what the world can show, bytes for anything else a person may type.
"""

from pathlib import Path
from typing import Any

import numpy as np

from suti.evaluation.styles import STYLE_TEXTS
from suti.hf.tokenizer import train_tokenizer
from suti.world.dataset import Shot, caption, describe, subject_seeds
from suti.world.other_words import in_other_words
from suti.world.templates import NUM_TEMPLATES, compose

# Words people use around a subject which the captions above never contain.
_EVERYDAY = (
  "a photo of a my the this that one two three on in at under over with and of "
  "near beside behind front top bottom left right side view close up picture "
  "image painting drawing sketch cartoon style of van gogh picasso rembrandt "
  "monet magritte watercolor oil pencil small big tiny large old new young "
  "happy sad sleepy screaming depressed joyous sitting standing running "
  "sleeping flying floating wearing holding playing eating white black grey "
  "brown blue green yellow orange pink gold silver dark light sunset sunrise "
  "night day moon space desert river lake sea garden kitchen bedroom table "
  "chair sofa bed room street road car bus train plane house castle"
)


def write_tokenizer(folder: Path, text_config: Any) -> None:
  """Learns the vocabulary, always the same, and writes the tokenizer folder.

  Args:
    folder: where it goes.
    text_config: `vocab_size` and `max_position_embeddings` of the encoder.
  """
  if (folder / "tokenizer.json").exists():
    return
  texts = [_EVERYDAY]
  rng = np.random.default_rng(0)
  for subject in subject_seeds("train", 0, 400):
    texts.append(f"a photo of {describe(subject)}")
    styles = [compose(style=style) for style in STYLE_TEXTS]
    for template in [*range(NUM_TEMPLATES), *styles]:
      shot = Shot(subject=int(subject), template=template, seed=0)
      texts += [caption(shot), caption(shot, detailed=True)]
      texts += [in_other_words(shot, rng) for _ in range(3)]
  train_tokenizer(
    texts,
    folder,
    vocab_size=text_config.vocab_size,
    max_length=text_config.max_position_embeddings,
  )
