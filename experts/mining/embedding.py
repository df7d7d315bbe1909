# SPDX-License-Identifier: Apache-2.0
"""CLIP embeddings of a source's pictures as they were found, and of texts.

Pictures are not cut to a square first, and of large photographs few are held at
a time.
"""

from collections.abc import Sequence

import numpy as np

from experts.mining.captions import Match, words
from suti.evaluation.scores import ROWS, Scorer
from suti.images import shrink

# K pictures, D embedding width.

_CLIP_PX = 448  # shorter side of what is held: twice what ViT-L/14 sees


class Embedding:
  """Embeds pictures as they are opened, so that few large ones are held."""

  def __init__(self, scorer: Scorer):
    self._scorer = scorer
    self._waiting: list[np.ndarray] = []
    self._done: list[np.ndarray] = []

  def add(self, image_u8: np.ndarray) -> None:
    """Takes a picture as it was found."""
    self._waiting.append(shrink(image_u8, _CLIP_PX))
    if len(self._waiting) == ROWS:
      self._flush()

  def all(self) -> list[np.ndarray]:
    """Unit embeddings of all pictures, in order."""
    self._flush()
    return self._done

  def _flush(self) -> None:
    if self._waiting:
      self._done += list(self._scorer.clip_images(self._waiting))
      self._waiting = []


def like_text(
  texts: Sequence[str], embeddings_KD: np.ndarray, match: Match, *, low: float
) -> np.ndarray:
  """Whether pictures are as their texts say, (K,) bool; without one, they are.

  Args:
    texts: K, of which those without a word say nothing.
    embeddings_KD: unit CLIP embeddings.
    match: compares pictures and texts.
    low: the least cosine.
  """
  like = np.ones(len(texts), bool)
  for row, text in enumerate(texts):
    if words(text):
      like[row] = match(embeddings_KD[row : row + 1], [text])[0, 0] >= low
  return like
