# SPDX-License-Identifier: Apache-2.0
"""Each picture's embedding, made once and kept.

  STORE/ENCODER_KEY/BLOCK.npz    embeddings of a block of pictures

A block's name follows from its pictures' paths, sizes and times of change, so
that a killed evaluation goes on at the block, a changed picture is embedded
anew, and another encoder never finds these. Pictures are read by threads while
the block before is encoded.

Shape suffixes: N pictures, D embedding width.
"""

import concurrent.futures
import dataclasses
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from suti.evaluation.benchmark.encoders import Encoder
from suti.evaluation.benchmark.subjects import mask_of
from suti.evaluation.scores import ROWS
from suti.io.files import write_atomic
from suti.io.image_files import load_image
from suti.runtime.progress import progress
from suti.schema import content_key

_THREADS = 2  # pictures are read faster than they are encoded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded:
  """Pictures that were read, and those that were not.

  Attributes:
    rows: path -> its row in each array of `vectors_ND`.
    vectors_ND: {name of the encoder: unit float32 rows}.
    unreadable: path -> one line on why.
  """

  rows: Mapping[Path, int]
  vectors_ND: Mapping[str, np.ndarray]
  unreadable: Mapping[Path, str]

  def of(self, name: str, paths: Sequence[Path]) -> np.ndarray:
    """The rows of some pictures, all of which were read."""
    return self.vectors_ND[name][[self.rows[path] for path in paths]]


def embed(
  paths: Sequence[Path],
  encoders: Mapping[str, Encoder],
  *,
  store: Path,
  masked: Sequence[str] = (),
  label: str = "embed",
) -> Embedded:
  """Embeds pictures by several encoders.

  Args:
    paths: of files; one that comes twice is read once.
    encoders: by name.
    store: where blocks are kept.
    masked: names of encoders that see the subject alone, by the mask beside a
      picture; a picture without one is unreadable.
    label: of the progress bar.

  Raises:
    ValueError: the disk is full.
  """
  paths = list(dict.fromkeys(paths))
  blocks = [paths[i : i + ROWS] for i in range(0, len(paths), ROWS)]
  rows: dict[Path, int] = {}
  parts: dict[str, list[np.ndarray]] = {name: [] for name in encoders}
  unreadable: dict[Path, str] = {}
  with progress(len(paths), label) as bar:
    for block, pictures in _ahead(blocks, encoders, store, masked):
      found = _block(
        block, pictures, encoders=encoders, store=store, masked=masked
      )
      kept = [p for p, why in zip(block, found.why, strict=True) if not why]
      rows |= {path: len(rows) + i for i, path in enumerate(kept)}
      unreadable |= {
        p: str(why) for p, why in zip(block, found.why, strict=True) if why
      }
      for name, vectors_ND in found.vectors_ND.items():
        parts[name].append(vectors_ND)
      if found.made:
        bar.update(len(block))
      else:
        bar.skip(len(block))
  return Embedded(
    rows=rows,
    vectors_ND={
      name: np.concatenate([p for p in found if len(p)])
      if any(map(len, found))
      else np.zeros((0, 1), np.float32)
      for name, found in parts.items()
    },
    unreadable=unreadable,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
  why: list[str]
  vectors_ND: Mapping[str, np.ndarray]
  made: bool


# A picture, its cut-out where one is asked for, and why there is none.
_Read = tuple[np.ndarray | None, np.ndarray | None, str]


def _ahead(
  blocks: Sequence[Sequence[Path]],
  encoders: Mapping[str, Encoder],
  store: Path,
  masked: Sequence[str],
) -> Iterator[tuple[Sequence[Path], list[_Read] | None]]:
  """Blocks with their pictures, the next being read meanwhile.

  Yields: a block, and its pictures or None where all of it is stored.
  """
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:

    def start(block):
      places = [
        _place(store, block, e, name in masked) for name, e in encoders.items()
      ]
      if all(_load(place, len(block)) is not None for place in places):
        return None
      return [pool.submit(_read, path, bool(masked)) for path in block]

    coming = start(blocks[0]) if blocks else None
    for number, block in enumerate(blocks):
      now, coming = coming, None
      if number + 1 < len(blocks):
        coming = start(blocks[number + 1])
      yield block, None if now is None else [future.result() for future in now]


def _read(path: Path, cut: bool) -> _Read:
  try:
    image_u8 = load_image(path)
    return image_u8, _cut_out(image_u8, path) if cut else None, ""
  except ValueError as error:
    return None, None, str(error)


def _cut_out(image_u8: np.ndarray, path: Path) -> np.ndarray:
  """The subject on white, cut to the box of its mask."""
  mask = mask_of(path)
  if not mask.is_file():
    raise ValueError(
      f"{path} has no mask: expected {mask.name} beside it, white where the "
      "subject is."
    )
  mask_HW = load_image(mask).mean(-1) > 127
  if mask_HW.shape != image_u8.shape[:2] or not mask_HW.any():
    raise ValueError(
      f"{mask} is empty or of another size than {path.name}: draw it again."
    )
  ys, xs = np.nonzero(mask_HW)
  box = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
  white = np.full_like(image_u8, 255)
  return np.where(mask_HW[..., None], image_u8, white)[box]


def _block(
  block: Sequence[Path],
  pictures: list[_Read] | None,
  *,
  encoders: Mapping[str, Encoder],
  store: Path,
  masked: Sequence[str],
) -> _Found:
  """The embeddings of a block: stored ones, or new ones, which are stored."""
  why, vectors_ND = [""] * len(block), {}
  for name, encoder in encoders.items():
    place = _place(store, block, encoder, name in masked)
    found = _load(place, len(block))
    if found is None:
      assert pictures is not None
      reasons = [reason for _, _, reason in pictures]
      images = [
        cut if name in masked else whole
        for whole, cut, reason in pictures
        if not reason
      ]
      made = (
        encoder.embed([x for x in images if x is not None])
        if images
        else np.zeros((0, 1), np.float32)
      )
      found = (np.asarray(made, np.float32), reasons)
      _save(place, *found)
    vectors_ND[name], why = found
  return _Found(why=why, vectors_ND=vectors_ND, made=pictures is not None)


def _place(
  store: Path, block: Sequence[Path], encoder: Encoder, masked: bool
) -> Path:
  """Where a block is kept, whether it is or not."""
  parts: list[str | int] = [int(masked)]
  for path in block:
    for file in (path, mask_of(path)) if masked else (path,):
      try:
        about = file.stat()
        parts += [str(file.resolve()), about.st_size, about.st_mtime_ns]
      except OSError:
        parts += [str(file), "absent"]
  return store / encoder.key / f"{content_key(*parts)}.npz"


def _save(place: Path, vectors_ND: np.ndarray, why: Sequence[str]) -> None:
  content = io.BytesIO()
  np.savez(content, vectors=vectors_ND, why=np.asarray(why, np.str_))
  write_atomic(place, content.getvalue())


def _load(place: Path, size: int) -> tuple[np.ndarray, list[str]] | None:
  """A stored block; None if there is none, or it is damaged."""
  try:
    with np.load(place, allow_pickle=False) as file:
      vectors_ND, why = file["vectors"], [str(x) for x in file["why"]]
  except (OSError, ValueError, KeyError, zipfile.BadZipFile):
    return None
  whole = len(why) == size and len(vectors_ND) == sum(not x for x in why)
  return (vectors_ND, why) if whole else None
