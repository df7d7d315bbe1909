# SPDX-License-Identifier: Apache-2.0
"""The training pool: pictures of SubjectWorld, rendered once and kept on disk.

A model that learns on two cores reads pictures faster than they can be
rendered, so a pool is rendered in chunks, each a file that appears whole; a
killed run renders only what is missing. An accelerator is used if there is one.
"""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suti.io.files import write_atomic
from suti.runtime.stage import progress
from suti.world.dataset import (
  VERSION,
  Shot,
  caption,
  class_of,
  render_shots,
  subject_seeds,
)
from suti.world.templates import PARTS, STUDIO, compose, template_of

# N pictures, H W image, L text tokens.

_CHUNK = 2048
_STYLE_STREAM = 8  # of random numbers, apart from those that choose all else


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
  """Pictures with what they show.

  Attributes:
    image_u8_NHWC: uint8.
    shots: what each picture was rendered from.
    subject_N: int, index of the picture's subject among the pool's subjects.
    class_N: the class noun of each picture.
    plain, detailed: captions of each picture, "a dog in the snow" and "a brown
      dog with white ears in the snow".
    identity_N: bool, whether the picture shows the subject's own colours and
      shape; "a red dog", "a cube shaped dog" and "a mosaic of a dog" do not.
  """

  image_u8_NHWC: np.ndarray
  shots: Sequence[Shot]
  subject_N: np.ndarray
  class_N: np.ndarray
  plain: Sequence[str]
  detailed: Sequence[str]
  identity_N: np.ndarray


def choose_shots(
  *,
  split: str,
  num_subjects: int,
  shots_each: int,
  studio: float,
  seed: int,
  styles: float = 0.0,
) -> list[Shot]:
  """Which pictures a pool holds.

  Args:
    split: of the subjects.
    num_subjects, shots_each: the pool has their product of pictures.
    studio: share of pictures on a plain backdrop, without a template.
    seed: of the choice of templates, cameras and lights.
    styles: share of pictures in a style; all others are the same without.

  Returns: shots, the pictures of one subject side by side.
  """
  rng = np.random.default_rng(seed)
  shots = []
  for subject in subject_seeds(split, 0, num_subjects):
    # Without replacement: a subject's pictures show different scenes.
    templates = rng.permutation(25)[:shots_each]
    if shots_each > 25:
      templates = rng.integers(0, 25, shots_each)
    templates = np.where(rng.random(shots_each) < studio, -1, templates)
    seeds = rng.integers(0, 2**31, shots_each)
    shots += [
      Shot(subject=int(subject), template=int(t), seed=int(s))
      for t, s in zip(templates, seeds, strict=True)
    ]
  return _with_styles(shots, share=styles, seed=seed)


def _with_styles(
  shots: Sequence[Shot], *, share: float, seed: int
) -> list[Shot]:
  """Asks for a style in some of the pictures, and leaves all others alone.

  Half of those keep their scene, "a mosaic of a dog in the snow"; the others
  are what a prompt of a style alone asks for, "a mosaic of a dog".
  """
  rng = np.random.default_rng([seed, _STYLE_STREAM])
  names = PARTS["style"][1:]
  chosen = []
  for shot, u, v in zip(shots, *rng.random((2, len(shots))), strict=True):
    if u < share:
      scene = template_of(shot) if v < 0.5 else STUDIO
      number = compose(
        place=scene.place,
        look=scene.look,
        wardrobe=scene.wardrobe,
        style=names[int(rng.integers(len(names)))],
      )
      shot = dataclasses.replace(shot, template=number)
    chosen.append(shot)
  return chosen


def render_pool(config: Any, folder: Path, *, size_px: int) -> Pool:
  """Renders the pool, or reads what is rendered already.

  Args:
    config: `split`, `num_subjects`, `shots_each`, `studio`, `styles`, `seed`.
    folder: where chunks are kept, by what they hold.
    size_px: side of the pictures.

  Returns: the pool, in memory.
  """
  shots = choose_shots(
    split=config.split,
    num_subjects=config.num_subjects,
    shots_each=config.shots_each,
    studio=config.studio,
    seed=config.seed,
    styles=config.styles,
  )
  # Without the number of subjects: a larger pool goes on from a smaller one.
  folder = folder / (
    f"{config.split}-{config.shots_each}each-{config.studio}studio-{size_px}px-"
    f"seed{config.seed}-world{VERSION}"
    + (f"-{config.styles}styles" if config.styles else "")
  )
  folder.mkdir(parents=True, exist_ok=True)
  starts = range(0, len(shots), _CHUNK)
  images = np.empty((len(shots), size_px, size_px, 3), np.uint8)
  for start in progress(starts, "chunks of pictures"):
    chunk = shots[start : start + _CHUNK]
    name = f"{start // _CHUNK:05d}"
    # The last chunk may be cut short; it is another file when it is whole.
    whole = len(chunk) == _CHUNK
    path = folder / (f"{name}.npy" if whole else f"{name}-{len(chunk)}.npy")
    if not path.exists():
      drawn = render_shots(chunk, size_px=size_px)["image"]
      buffer = io.BytesIO()
      np.save(buffer, np.asarray(drawn), allow_pickle=False)
      write_atomic(path, buffer.getvalue())
    images[start : start + len(chunk)] = np.load(path, allow_pickle=False)
  return Pool(
    image_u8_NHWC=images,
    shots=shots,
    subject_N=np.repeat(np.arange(config.num_subjects), config.shots_each),
    class_N=np.array([class_of(shot.subject) for shot in shots]),
    plain=[caption(shot) for shot in shots],
    detailed=[caption(shot, detailed=True) for shot in shots],
    identity_N=np.array([_keeps_identity(shot) for shot in shots]),
  )


def _keeps_identity(shot: Shot) -> bool:
  """False where the scene changes the subject's own colour or shape."""
  template = template_of(shot)
  return not (template.look or template.style)
