# SPDX-License-Identifier: Apache-2.0
"""The `Measure` record: a number of a generated image, by the encoders.

A file of `suti/evaluation/measures` defines `MEASURE`; the file's name is what
rules call it (`suti.config.rules`). The filter writes all of them of every
candidate, so that another rule needs no new embeddings. Judges of a benchmark
are in `suti.evaluation.scores`.
"""

import dataclasses
import importlib
from collections.abc import Callable

import numpy as np

from suti.config.names import names_in
from suti.evaluation import measures
from suti.hf.linear_head import Head
from suti.schema import Label

# D embedding width, K demonstrations, G images of a group but for one.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
  """What the encoders see of one candidate, in unit embeddings, float32.

  Attributes:
    clip_D: of the image, by CLIP.
    text_D: of its prompt, by CLIP.
    clip_KD: of the demonstrations, by CLIP.
    identity_D: of the image, by the identity encoder.
    identity_KD: of the demonstrations, by the identity encoder.
    pair_D: the same of the image, to compare it with those of its group: of a
      square around its subject if the filter cuts it out.
    pair_GD: so of the images that were sampled in its sight; none if it was
      sampled alone.
    label: what is where in the image; None if it is not labelled.
    masked_D: of its subject, cut out, by the identity encoder; None if it was
      not found.
    masked_KD: the same of the demonstrations whose masks are known.
    head: of aesthetics, on `clip_D`; None if there is none.
  """

  clip_D: np.ndarray
  text_D: np.ndarray
  clip_KD: np.ndarray
  identity_D: np.ndarray
  identity_KD: np.ndarray
  pair_D: np.ndarray
  pair_GD: np.ndarray
  label: Label | None = None
  masked_D: np.ndarray | None = None
  head: Head | None = None
  masked_KD: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((0, 0), np.float32)
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
  """A number of a candidate.

  Attributes:
    paper: link to who uses it.
    of: "candidate"; "group" if it compares images that were sampled in each
      other's sight, "label" if it reads where the image's subject is, "masks"
      if it also reads where that of the demonstrations is: others do not have
      it; "head" if it needs one.
    measure: Evidence -> the number.
  """

  paper: str
  of: str
  measure: Callable[[Evidence], float]

  def __post_init__(self) -> None:
    """Checks what it is of."""
    kinds = ("candidate", "group", "label", "masks", "head")
    assert self.of in kinds, self.of


def all_measures() -> dict[str, Measure]:
  """Every measure, by name."""
  return {
    name: importlib.import_module(f"{measures.__name__}.{name}").MEASURE
    for name in names_in(measures)
  }
