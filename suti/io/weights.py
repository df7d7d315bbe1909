# SPDX-License-Identifier: Apache-2.0
"""Published weights: safetensors files <-> flat `{published name: array}`.

The file keeps the publisher's names and PyTorch's layouts, so that other tools
read what we write; layouts change here and nowhere else. Pickles are refused:
opening one can run any code.
"""

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from suti.io.files import write_atomic


def load(
  spec: Mapping[str, Any],
  path: str | os.PathLike,
  *,
  dtype: Any = jnp.float32,
  renames: Mapping[str, str] | None = None,
) -> dict[str, jax.Array]:
  """Reads a model's parameters.

  Args:
    spec: `{name: Param}`, as `functional` describes a declared module.
    path: a .safetensors file, a folder of such, or a pattern with `*`.
    dtype: of the result.
    renames: `{regular expression: replacement}` for the names in the file, each
      applied in turn; what becomes the empty name is left out.

  Returns:
    `{name: array}` with exactly the names of `spec`.

  Raises:
    ValueError: the file cannot be read, or its names and shapes are not those
      of the model; all that differ are counted.
  """
  shapes, places = {}, {}
  problems = []
  for file in _files(path):
    for stored, shape in _contents(file).items():
      name = _rename(stored, renames or {})
      if name in places:
        problems.append((name, f"is also in {file.name}"))
      elif name:
        shapes[name], places[name] = shape, (file, stored)
  absent = [name for name in spec if name not in places]
  unknown = [name for name in places if name not in spec]
  problems += [
    (name, f"is {shapes[name]} in the file and {expected} in the model")
    for name, p in spec.items()
    if name in places and shapes[name] != (expected := _published_shape(p))
  ]
  if absent or unknown or problems:
    raise ValueError(
      f"{path} does not hold this model: "
      + _count(absent, f"of the model's {len(spec)} parameters are absent")
      + _count(unknown, f"of the file's {len(places)} are not of the model")
      + "".join(f"{name!r} {problem}; " for name, problem in problems[:3])
      + (f"{len(problems) - 3} more like this; " if problems[3:] else "")
      + "is it the config of these weights?"
    )

  params = {}
  for file in {file for file, _ in places.values()}:
    with safetensors.safe_open(file, framework="np") as tensors:
      for name, (where, stored) in places.items():
        if where == file:
          array = np.transpose(tensors.get_tensor(stored), _order(spec[name]))
          params[name] = jnp.asarray(array, dtype)
  return {name: params[name] for name in spec}


def save(
  params: Mapping[str, jax.Array],
  spec: Mapping[str, Any],
  path: str | os.PathLike,
  *,
  dtype: Any = None,
) -> None:
  """Writes parameters in the published layout, whole or not at all.

  Args:
    params: `{name: array}`; every one must be described by `spec`, which may
      describe more (a part of a model can be saved alone).
    spec: `{name: Param}`.
    path: the .safetensors file.
    dtype: to convert to; None keeps each array's own.
  """
  if unknown := [name for name in params if name not in spec]:
    raise ValueError(
      f"{len(unknown)} parameters are not of the model, e.g. {unknown[0]!r}."
    )
  tensors = {}
  for name, value in params.items():
    array = np.asarray(value if dtype is None else jnp.asarray(value, dtype))
    order = np.argsort(_order(spec[name]))
    # Not `ascontiguousarray`, which gives a scalar an axis.
    tensors[name] = np.asarray(np.transpose(array, order), order="C")
  # PyTorch's readers ask for this entry.
  content = safetensors.numpy.save(tensors, metadata={"format": "pt"})
  write_atomic(path, content)


def _files(path) -> list[Path]:
  """All files that a path stands for; only safetensors are let through."""
  path = Path(path)
  if path.is_dir():
    files = sorted(path.glob("*.safetensors"))
  elif path.is_file():
    files = [path]
  else:
    files = [Path(p) for p in sorted(glob.glob(str(path)))]
  if not files:
    raise ValueError(f"{path} has no .safetensors file: give one, or a folder.")
  for file in files:
    if file.suffix != ".safetensors":
      raise ValueError(
        f"{file} is not a .safetensors file. Pickles (.bin, .pt, .ckpt) can "
        "run code when opened and are refused: convert it to safetensors first."
      )
  return files


def _contents(file) -> dict[str, tuple[int, ...]]:
  try:
    with safetensors.safe_open(file, framework="np") as tensors:
      return {
        name: tuple(tensors.get_slice(name).get_shape())
        for name in tensors.keys()  # noqa: SIM118 (not a dict)
      }
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(
      f"{file} is not a whole safetensors file ({error}): fetch or make it "
      "again."
    ) from error


def _rename(name: str, renames: Mapping[str, str]) -> str:
  for pattern, replacement in renames.items():
    name = re.sub(pattern, replacement, name)
  return name


def _order(p) -> list[int]:
  """Which dim of the published tensor each of our dims is."""
  if p.torch is None:
    return list(range(len(p.shape)))
  theirs, ours = (side.split() for side in p.torch.split("->"))
  return [theirs.index(letter) for letter in ours]


def _published_shape(p) -> tuple[int, ...]:
  return tuple(p.shape[i] for i in np.argsort(_order(p)))


def _count(names: list[str], what: str) -> str:
  return f"{len(names)} {what}, e.g. {names[0]!r}; " if names else ""
