# SPDX-License-Identifier: Apache-2.0
"""Which files hold a published model, and which tensors they list.

A folder of the hub's holds a model once or several times over:

  model.safetensors                      in one file
  model-00001-of-00003.safetensors       in several, and their index,
  model.safetensors.index.json           which says where each tensor is
  model.fp16.safetensors                 the same model as its variant "fp16"

Here headers and indexes are read and checked; tensors are read elsewhere. What
a file claims is not trusted: nothing outside of the model's folder is opened,
and no pickle.
"""

import contextlib
import dataclasses
import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

# Floats of these widths can be parameters; other dtypes are kept by name.
FLOATS = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F16": np.dtype(np.float16),
}
# Names that the hub's libraries give to the weights of a folder.
_USUAL = ("diffusion_pytorch_model", "model")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
WHY_NOT_PICKLES = (
  "Pickles (.bin, .pt, .ckpt) can run code when opened and are refused: fetch "
  "a revision of the model that has .safetensors files, or convert them with "
  "the publisher's own tools if you trust where they come from."
)
# Variants stand before or after the number of a shard, as libraries changed.
_FILE = re.compile(
  r"(?P<name>[^.]+?)(\.(?P<early>[^.]+?))?"
  r"(-(?P<number>\d{5})-of-(?P<count>\d{5})(\.(?P<late>[^.]+))?)?"
  r"\.safetensors"
)
_INDEX = re.compile(
  r"(?P<name>[^.]+)(\.(?P<early>[^.]+))?"
  r"\.safetensors\.index(\.(?P<late>[^.]+))?\.json"
)
# What often stands where weights should, by its first bytes.
_IMPOSTORS = {
  b"version https://git-lfs": "a git-lfs pointer: run `git lfs pull`",
  b"PK\x03\x04": "a zip archive, as PyTorch's pickles are",
  b"<!": "a web page: the download has failed",
  b"<h": "a web page: the download has failed",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
  """Where a tensor lies.

  Attributes:
    file: the .safetensors file.
    name: in it.
    dtype: as the file writes it, such as "F16".
    shape: in the published layout.
    start: its first byte in the file.
    num_bytes: how long it is.
  """

  file: Path
  name: str
  dtype: str
  shape: tuple[int, ...]
  start: int
  num_bytes: int

  def cut(self, num: int) -> list["Stored"]:
    """Parts it along its first dim, which `num` divides."""
    rows, *rest = self.shape
    size = self.num_bytes // num
    return [
      dataclasses.replace(
        self,
        shape=(rows // num, *rest),
        start=self.start + i * size,
        num_bytes=size,
      )
      for i in range(num)
    ]


def read_headers(path: str | os.PathLike) -> dict[str, Stored]:
  """Finds all tensors of a published model.

  Args:
    path: a .safetensors file, an index, a folder, or a pattern with `*`, whose
      files are taken together. Of a folder with several variants of a model
      the one without a name is read, or the only one.

  Returns:
    `{published name: where it lies}`, in the files' order.

  Raises:
    ValueError: there is no such model, or not all of it; a file is damaged; an
      index names a file that is not its own.
  """
  files = _find(Path(path))
  if files[0].suffix == ".json":
    return _read_index(files[0])
  tensors: dict[str, Stored] = {}
  for file in files:
    for name, stored in _read_header(file).items():
      if name in tensors:
        raise ValueError(
          f"{name!r} is in {tensors[name].file} and also in {file.name}: give "
          "the file or the folder of one model."
        )
      tensors[name] = stored
  return tensors


def _find(path: Path) -> list[Path]:
  """The model's .safetensors files, or its index alone."""
  if path.is_dir():
    return _choose(path)
  files = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path))))
  if not files:
    raise ValueError(f"{path} has no .safetensors file: give one, or a folder.")
  if len(files) == 1 and files[0].name.endswith(".index.json"):
    return files
  for file in files:
    if file.suffix != ".safetensors":
      raise ValueError(f"{file} is not a .safetensors file. {WHY_NOT_PICKLES}")
  return files


def files_of(path: Path) -> list[Path]:
  """Lists what holds the model that `path` names: one file, or many.

  Args:
    path: NAME.safetensors or NAME.VARIANT.safetensors; it need not exist.

  Returns:
    That file, its shards and their index, as far as they exist; nothing if it
    is a shard, whose model its name does not stand for.
  """
  assert path.suffix == ".safetensors", path
  if (match := _FILE.fullmatch(path.name)) and match["count"]:
    return []
  found = [*path.parent.glob("*.safetensors"), *path.parent.glob("*.json")]
  return [file for file in found if _model_of(file) == _model_of(path)]


def _model_of(file: Path) -> tuple[str, str] | None:
  """(name, variant) that a file's name tells; the variant may be empty."""
  for pattern in (_FILE, _INDEX):
    if match := pattern.fullmatch(file.name):
      return match["name"], match["early"] or match["late"] or ""
  # More dots than the hub's names have: the name of one file.
  return (file.name, "") if file.suffix == ".safetensors" else None


def _choose(folder: Path) -> list[Path]:
  """The files of a folder's one model, or of its plain variant."""
  models: dict[tuple[str, str], list[Path]] = {}
  for file in sorted(folder.iterdir()):
    if not file.name.startswith(".") and (model := _model_of(file)):
      models.setdefault(model, []).append(file)
  if not models:
    raise ValueError(_no_weights(folder))
  variants = sorted({kind for _, kind in models})
  variant = variants[0] if len(variants) == 1 else ""
  if variant not in variants:
    raise ValueError(
      f"{folder} has its weights as {' and '.join(variants)}, and no plain "
      "ones: give a folder that holds one of them."
    )
  names = [name for name, kind in models if kind == variant]
  names = [name for name in names if name in _USUAL] or names
  if len(names) > 1:
    raise ValueError(
      f"{folder} holds several models ({', '.join(sorted(names))}): give the "
      "path of one of their files."
    )
  return _complete(models[names[0], variant])


def _complete(files: list[Path]) -> list[Path]:
  """Of one model: its one file, else its index, else all of its shards."""
  shards: dict[int, dict[int, Path]] = {}
  for file in files:
    match = _FILE.fullmatch(file.name)
    if file.suffix == ".safetensors" and not (match and match["count"]):
      return [file]
    if match:
      shards.setdefault(int(match["count"]), {})[int(match["number"])] = file
  if indexes := [file for file in files if file.suffix == ".json"]:
    return indexes[:1]
  (count, found), *others = shards.items()
  if absent := [i for i in range(1, count + 1) if i not in found]:
    raise ValueError(
      f"{files[0].parent} has {len(found)} of {count} files of its model: "
      f"number {', '.join(map(str, absent[:5]))} is not there; fetch the rest."
    )
  if others:
    raise ValueError(
      f"{files[0].parent} holds its model in {count} files and also in "
      f"{others[0][0]}: remove those that are not wanted."
    )
  return [found[i] for i in sorted(found)]


def _no_weights(folder: Path) -> str:
  pickles = sorted(f.name for f in folder.iterdir() if f.suffix in _PICKLES)
  if pickles:
    return (
      f"{folder} has no .safetensors file, only {pickles[0]}. {WHY_NOT_PICKLES}"
    )
  below = sorted({f.parent.name for f in folder.glob("*/*.safetensors")})
  hint = f"there are in its {', '.join(below)}; " if below else ""
  return f"{folder} has no .safetensors file: {hint}give one, or a folder."


def _read_index(index: Path) -> dict[str, Stored]:
  """The tensors that an index names; all of them must be where it says."""
  try:
    places = json.loads(index.read_bytes())["weight_map"]
    wanted: dict[str, list[str]] = {}
    for name, file in places.items():
      wanted.setdefault(str(PurePosixPath(file)), []).append(name)
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(
      f"{index} is not an index of weights, whose `weight_map` gives the file "
      f"of each tensor ({error!r}): fetch it again."
    ) from error
  files = {file: _inside(index, file) for file in wanted}
  absent = [file for file, path in files.items() if not path.is_file()]
  if absent:
    num = sum(len(wanted[file]) for file in absent)
    raise ValueError(
      f"{index} names {_some(absent)}, which should hold {num} of its "
      f"{len(places)} tensors and is not there: fetch it."
    )
  tensors: dict[str, Stored] = {}
  lacking = []
  for file, path in files.items():
    header = _read_header(path)
    lacking += [f"{n} of {file}" for n in wanted[file] if n not in header]
    tensors |= {n: header[n] for n in wanted[file] if n in header}
  if lacking:
    raise ValueError(
      f"{index} names {len(lacking)} tensors that its files lack, e.g. "
      f"{min(lacking)}: index and files are not of one model, fetch it again."
    )
  return tensors


def _inside(index: Path, name: str) -> Path:
  """The path of a file that an index names, if it is its own to name."""
  path = index.parent / name
  if path.suffix != ".safetensors":
    raise ValueError(f"{index} names {name!r}. {WHY_NOT_PICKLES}")
  if (
    ".." in PurePosixPath(name).parts
    or PurePosixPath(name).is_absolute()
    or leads_out(path, home=index.parent)
  ):
    raise ValueError(
      f"{index} names {name!r}, which leads out of its folder, and is refused: "
      "fetch the model from a source that you trust."
    )
  return path


def leads_out(path: Path, *, home: Path) -> bool:
  """Whether a path, links followed, lies outside of a model's folder."""
  home = home.resolve()
  # The hub's cache keeps files in blobs/ and links to them from snapshots/.
  homes = [home] + [
    p.parent / "blobs" for p in home.parents if p.name == "snapshots"
  ]
  return not any(path.resolve().is_relative_to(place) for place in homes)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Any]:
  """A file as the safetensors library opens it, for NumPy.

  Raises:
    ValueError: it is cut short, or no such file.
  """
  try:
    with safetensors.safe_open(file, framework="np") as tensors:
      yield tensors
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(
      f"{file} is not a whole safetensors file ({_what_is(file) or error}): "
      "fetch or make it again."
    ) from error


def _read_header(file: Path) -> dict[str, Stored]:
  """What is in a file, in the order of its bytes."""
  # Their reader refuses what is cut short, overlaps, or is no header.
  with opened(file), file.open("rb") as stream:
    size = int.from_bytes(stream.read(8), "little")
    header = json.loads(stream.read(size))
  header.pop("__metadata__", None)
  tensors = [
    Stored(
      file=file,
      name=name,
      dtype=entry["dtype"],
      shape=tuple(entry["shape"]),
      start=8 + size + entry["data_offsets"][0],
      num_bytes=entry["data_offsets"][1] - entry["data_offsets"][0],
    )
    for name, entry in header.items()
  ]
  return {t.name: t for t in sorted(tensors, key=lambda t: t.start)}


def _what_is(file: Path) -> str | None:
  try:
    with file.open("rb") as stream:
      start = stream.read(32)
  except OSError:
    return None
  if not start:
    return "it is empty"
  known = [what for sign, what in _IMPOSTORS.items() if start.startswith(sign)]
  return f"it is {known[0]}" if known else None


def _some(names: Iterable[str]) -> str:
  """The first of some names, and how many more there are."""
  first, *others = names
  return f"{first} and {len(others)} more" if others else first
