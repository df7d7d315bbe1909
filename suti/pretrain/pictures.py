# SPDX-License-Identifier: Apache-2.0
"""The training pool: pictures of SubjectWorld, rendered once and kept on disk.

A model that learns on two cores reads pictures faster than they can be
rendered, so a pool is rendered in chunks, each a file that appears whole; a
killed run renders only what is missing. An accelerator is used if there is one.
"""

import dataclasses
import hashlib
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
from suti.world.held_out import is_held_out, pair_held_out, template_rows
from suti.world.ranges import check_pool
from suti.world.subjects import prepare_phrases
from suti.world.templates import (
  LIVE,
  PARTS,
  STUDIO,
  compose,
  composition,
  template_of,
)

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
    bare_N: bool, whether it also shows the subject undressed; "a dog in a chef
      outfit" does not.
    mask_NHW: bool, where the subject is; None if it was not asked for.
    depth_NHW: float32, distance from the camera; None likewise.
  """

  image_u8_NHWC: np.ndarray
  shots: Sequence[Shot]
  subject_N: np.ndarray
  class_N: np.ndarray
  plain: Sequence[str]
  detailed: Sequence[str]
  identity_N: np.ndarray
  bare_N: np.ndarray
  mask_NHW: np.ndarray | None = None
  depth_NHW: np.ndarray | None = None


def choose_shots(
  *,
  split: str,
  start: int,
  num_subjects: int,
  shots_each: int,
  studio: float,
  templates: str,
  compositions: float,
  seed: int,
  styles: float = 0.0,
) -> list[Shot]:
  """Which pictures a pool holds.

  Args:
    split: of the subjects.
    start: number of the first subject in its split.
    num_subjects, shots_each: the pool has their product of pictures.
    studio: share of pictures on a plain backdrop, without a template.
    templates: "all" of a group's 25, the 20 "seen" or the 5 "held_out".
    compositions: share of pictures of two names together, such as an outfit and
      a place; pairs that are held out are shown with "held_out" alone.
    seed: of the choice of templates, cameras and lights.
    styles: share of pictures in a style; all others are the same without.

  Returns: shots, the pictures of one subject side by side.
  """
  rng = np.random.default_rng(seed)
  shots = []
  for subject in subject_seeds(split, start, num_subjects):
    allowed = np.array(template_rows(class_of(subject), templates))
    # Without replacement: a subject's pictures show different scenes.
    rows = allowed[rng.permutation(len(allowed))[:shots_each]]
    if shots_each > len(allowed):
      rows = allowed[rng.integers(0, len(allowed), shots_each)]
    rows = np.where(rng.random(shots_each) < studio, -1, rows)
    for i in np.flatnonzero(rng.random(shots_each) < compositions):
      rows[i] = _compose(rng, live=class_of(subject) in LIVE, which=templates)
    seeds = rng.integers(0, 2**31, shots_each)
    shots += [
      Shot(subject=int(subject), template=int(row), seed=int(s))
      for row, s in zip(rows, seeds, strict=True)
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


def _compose(rng: np.random.Generator, *, live: bool, which: str) -> int:
  """A random pair of a place, a look and an outfit; objects wear nothing."""
  while True:
    names = {
      part: str(rng.choice(PARTS[part][1:]))
      for part in ("place", "look", "wardrobe")
    }
    gone = "wardrobe"
    if live:
      gone = str(rng.choice(list(names), p=(0.2, 0.5, 0.3)))
    names[gone] = PARTS[gone][0]
    number = compose(**names)
    out = pair_held_out(*names.values())
    if which != "all":
      out = is_held_out(composition(number))
    if out == (which == "held_out"):
      return number


def render_pool(
  config: Any,
  folder: Path,
  *,
  size_px: int,
  masks: bool = False,
  depths: bool = False,
) -> Pool:
  """Renders the pool, or reads what is rendered already.

  Args:
    config: see configs/pretrain/pool.py.
    folder: where chunks are kept, by what they hold.
    size_px: side of the pictures.
    masks: whether the pool has `mask_NHW`.
    depths: whether it has `depth_NHW`, and masks.

  Returns: the pool, in memory.

  Raises:
    ValueError: its subjects are not its own, see `suti.world.ranges`.
  """
  check_pool(
    name=config.name,
    split=config.split,
    start=config.start,
    num_subjects=config.num_subjects,
  )
  shots = choose_shots(
    split=config.split,
    start=config.start,
    num_subjects=config.num_subjects,
    shots_each=config.shots_each,
    studio=config.studio,
    templates=config.templates,
    compositions=config.compositions,
    seed=config.seed,
    styles=config.styles,
  )
  # Without the number of subjects: a larger pool goes on from a smaller one,
  # but for one with styles, see `_forget_others`.
  folder = folder / (
    f"{config.split}-from{config.start}-{config.shots_each}each-"
    f"{config.studio}studio-{config.templates}-{config.compositions}composed-"
    f"{size_px}px-seed{config.seed}-world{VERSION}"
    + (f"-{config.styles}styles" if config.styles else "")
  )
  shown = [template_of(shot) for shot in shots]
  what = ("image",) + ("mask",) * (masks or depths) + ("depth",) * depths
  arrays = _render(shots, folder, size_px=size_px, what=what)
  prepare_phrases(shot.subject for shot in shots)
  return Pool(
    image_u8_NHWC=arrays["image"],
    mask_NHW=arrays.get("mask"),
    depth_NHW=arrays.get("depth"),
    shots=shots,
    subject_N=np.repeat(np.arange(config.num_subjects), config.shots_each),
    class_N=np.array([class_of(shot.subject) for shot in shots]),
    plain=[caption(shot) for shot in shots],
    detailed=[caption(shot, detailed=True) for shot in shots],
    identity_N=np.array([not (t.look or t.style) for t in shown]),
    bare_N=np.array([not (t.look or t.wardrobe or t.style) for t in shown]),
  )


def render_chunks(
  shots: Sequence[Shot], folder: Path, *, size_px: int
) -> np.ndarray:
  """Renders shots chunk by chunk, or reads the chunks that are there.

  Args:
    shots: what to render.
    folder: holds these shots alone, one file a chunk.
    size_px: side of the pictures.

  Returns: (N, H, W, C) uint8.
  """
  return _render(shots, folder, size_px=size_px, what=("image",))["image"]


def _render(
  shots: Sequence[Shot], folder: Path, *, size_px: int, what: Sequence[str]
) -> dict[str, np.ndarray]:
  """Arrays of a renderer, a file a chunk; others lie beside the pictures."""
  folder.mkdir(parents=True, exist_ok=True)
  shapes: dict[str, tuple[tuple[int, ...], Any]] = {
    "image": ((size_px, size_px, 3), np.uint8),
    "mask": ((size_px, size_px), np.bool_),
    "depth": ((size_px, size_px), np.float32),
  }
  arrays = {
    name: np.empty((len(shots), *shape), dtype)
    for name, (shape, dtype) in shapes.items()
    if name in what
  }
  for start in progress(range(0, len(shots), _CHUNK), "chunks of pictures"):
    chunk = shots[start : start + _CHUNK]
    name = f"{start // _CHUNK:05d}"
    # The last chunk may be cut short; it is another file when it is whole.
    stem = name if len(chunk) == _CHUNK else f"{name}-{len(chunk)}"
    paths = {
      each: folder / f"{stem}{'' if each == 'image' else f'.{each}'}.npy"
      for each in what
    }
    _forget_others(chunk, folder / stem)
    if not all(path.exists() for path in paths.values()):
      drawn = render_shots(chunk, size_px=size_px)
      for each, path in paths.items():
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(drawn[each]), allow_pickle=False)
        write_atomic(path, buffer.getvalue())
    for each, path in paths.items():
      rows = slice(start, start + len(chunk))
      arrays[each][rows] = np.load(path, allow_pickle=False)
  return arrays


def _forget_others(shots: Sequence[Shot], stem: Path) -> None:
  """Removes a chunk's files if they show other shots, and notes which it has.

  A folder's name does not say all that its pictures depend on: the styles of a
  pool depend on its number of subjects. Pools of before had no such note.
  """
  told = [(shot.subject, shot.template, shot.seed) for shot in shots]
  digest = hashlib.sha256(repr(told).encode()).hexdigest()
  note = stem.with_name(f"{stem.name}.sha256")
  if note.exists():
    if note.read_text() == digest:
      return
    for name in ("", ".mask", ".depth"):
      stem.with_name(f"{stem.name}{name}.npy").unlink(missing_ok=True)
  # After the removal and before the rendering: a run may be killed anywhere.
  write_atomic(note, digest.encode())
