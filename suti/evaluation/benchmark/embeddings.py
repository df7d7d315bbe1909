# SPDX-License-Identifier: Apache-2.0
"""Each picture's embedding, made once and kept.

  STORE/ENCODER_KEY/BLOCK.npz    embeddings of a block of pictures

A block's name follows from its pictures' paths, sizes and times of change, so
that a killed evaluation goes on at the block, a changed picture is embedded
anew, and another encoder never finds these. Pictures are read by threads while
the block before is encoded, each cut to what the encoders take at once: a block
of photographs would fill the memory.

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
from suti.io.paths import in_bucket
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
    for block, found in _blocks(blocks, encoders, store, masked):
      kept = [p for p, why in zip(block, found.why, strict=True) if not why]
      rows |= {path: len(rows) + i for i, path in enumerate(kept)}
      unreadable |= {
        p: why for p, why in zip(block, found.why, strict=True) if why
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
  """A block: why pictures could not be read, "" else, and the embeddings."""

  why: list[str]
  vectors_ND: Mapping[str, np.ndarray]
  made: bool


# {encoder: what it is shown of a picture}, and why there is nothing.
_Read = tuple[Mapping[str, np.ndarray], str]


def _blocks(
  blocks: Sequence[Sequence[Path]],
  encoders: Mapping[str, Encoder],
  store: Path,
  masked: Sequence[str],
) -> Iterator[tuple[Sequence[Path], _Found]]:
  """Blocks with their embeddings, the next being read meanwhile."""
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:

    def start(block):
      places = _places(store, block, encoders, masked)
      found = _stored(places, len(block))
      # What could not be read may be by now: another package, another mask.
      if found is not None and all(
        _read(path, encoders, masked)[1]
        for path, why in zip(block, found.why, strict=True)
        if why
      ):
        return found
      return places, [
        pool.submit(_read, path, encoders, masked) for path in block
      ]

    coming = start(blocks[0]) if blocks else None
    for number, block in enumerate(blocks):
      now, coming = coming, None
      if number + 1 < len(blocks):
        coming = start(blocks[number + 1])
      if not isinstance(now, _Found):
        assert now is not None
        places, pictures = now
        now = _make([p.result() for p in pictures], encoders, places)
      yield block, now


def _read(
  path: Path, encoders: Mapping[str, Encoder], masked: Sequence[str]
) -> _Read:
  try:
    image_u8 = load_image(path)
    cut_u8 = _cut_out(image_u8, path) if masked else image_u8
  except ValueError as error:
    return {}, str(error)
  shown = {
    name: encoder.prepare(cut_u8 if name in masked else image_u8)
    for name, encoder in encoders.items()
  }
  return shown, ""


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


def _make(
  pictures: Sequence[_Read],
  encoders: Mapping[str, Encoder],
  places: Mapping[str, Path],
) -> _Found:
  """Encodes a block and stores it."""
  why = [reason for _, reason in pictures]
  vectors_ND = {}
  for name, encoder in encoders.items():
    shown = [x[name] for x, reason in pictures if not reason]
    vectors_ND[name] = np.zeros((0, 1), np.float32)
    if shown:
      vectors_ND[name] = np.asarray(encoder.encode(shown), np.float32)
    _save(places[name], vectors_ND[name], why)
  return _Found(why=why, vectors_ND=vectors_ND, made=True)


def _stored(places: Mapping[str, Path], size: int) -> _Found | None:
  """A block, if the embeddings of all encoders are stored."""
  why, vectors_ND = None, {}
  for name, place in places.items():
    if (found := _load(place, size)) is None:
      return None
    # They differ where one is of a run that could read other pictures, as one
    # with masks: their rows would not be of the same pictures.
    if why not in (None, found[1]):
      return None
    vectors_ND[name], why = found
  return _Found(why=why or [""] * size, vectors_ND=vectors_ND, made=False)


def _places(
  store: Path,
  block: Sequence[Path],
  encoders: Mapping[str, Encoder],
  masked: Sequence[str],
) -> dict[str, Path]:
  """Where a block's embeddings are kept, whether they are or not."""
  whole = [_mark(path) for path in block]
  masks = [_mark(mask_of(path)) for path in block] if masked else whole
  places = {}
  for name, encoder in encoders.items():
    cut = name in masked
    marks = zip(whole, masks, strict=True)
    parts = [x for one, two in marks for x in (*one, *(two if cut else ()))]
    key = content_key(int(cut), *parts)
    places[name] = store / encoder.key / f"{key}.npz"
  return places


def _mark(path: Path) -> tuple[str | int, ...]:
  """What changes with a file's content."""
  try:
    if in_bucket(path):
      return str(path), str((path.about() or {}).get("generation", "absent"))
    about = path.stat()
    return str(path.resolve()), about.st_size, about.st_mtime_ns
  except (OSError, RuntimeError):  # RuntimeError: links in a circle
    return str(path), "absent"


def _save(place: Path, vectors_ND: np.ndarray, why: Sequence[str]) -> None:
  content = io.BytesIO()
  np.savez(content, vectors=vectors_ND, why=np.asarray(why, np.str_))
  write_atomic(place, content.getvalue())


def _load(place: Path, size: int) -> tuple[np.ndarray, list[str]] | None:
  """A stored block; None if there is none, or it is damaged."""
  try:
    content = io.BytesIO(place.read_bytes())
    with np.load(content, allow_pickle=False) as file:
      vectors_ND, why = file["vectors"], [str(x) for x in file["why"]]
  except (OSError, ValueError, KeyError, zipfile.BadZipFile):
    return None
  whole = len(why) == size and len(vectors_ND) == sum(not x for x in why)
  return (vectors_ND, why) if whole else None
