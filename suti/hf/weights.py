# SPDX-License-Identifier: Apache-2.0
"""Published weights: safetensors files <-> flat `{published name: array}`.

The file keeps the publisher's names and PyTorch's layouts, so that other tools
read what we write. Tensors go one by one from the file's memory map to their
devices, and from there to a file: the host holds a few of them at a time,
whatever the size of the model.

Which files make up a model stands in `weight_files`, which tensor is which
parameter in `matching`, and how its layout changes in `layout`.
"""

import collections
import contextlib
import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from suti.hf.layout import inverse, order, published_shape, transpose
from suti.hf.matching import Renames, match, misfit
from suti.hf.weight_files import FLOATS, Stored, files_of, read_headers
from suti.io.files import replacing, write_json
from suti.nn.param import Param

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Bounds = tuple[tuple[int, int], ...]  # start and stop of each dim

# What more threads would do is held up by Python's lock.
_THREADS = min(8, os.cpu_count() or 1)
_CODES = {dtype: code for code, dtype in FLOATS.items()}


def load(
  spec: Mapping[str, Param],
  path: str | os.PathLike,
  *,
  dtype: Any = jnp.float32,
  renames: Renames | None = None,
  shardings: Mapping[str, Sharding] | Sharding | None = None,
) -> dict[str, jax.Array]:
  """Reads a model's parameters.

  Args:
    spec: `{name: Param}`, as `functional` describes a declared module.
    path: a .safetensors file, an index, a folder of the hub's, or a pattern
      with `*`; see `weight_files`.
    dtype: of the result; None keeps each tensor's own.
    renames: from the names in the file to the model's; see `matching`.
    shardings: where each array goes, by name, or one for all; None is JAX's
      default device. Each device's piece is read from the file by itself.

  Returns:
    `{name: array}` with exactly the names of `spec`. Published shapes may have
    more or fewer ones at their end: a matrix serves as a 1x1 convolution.

  Raises:
    ValueError: the files cannot be read; their names, shapes and dtypes are not
      those of the model; or a value is NaN or infinite. All that is wrong is
      counted.
  """
  sources, maps = _open(spec, path, renames=renames)

  def sharding_of(name: str) -> Sharding | None:
    return shardings[name] if isinstance(shardings, Mapping) else shardings

  def read(name: str) -> tuple[dict[_Bounds, np.ndarray], list[str]]:
    places = _places(spec[name].shape, sharding_of(name))
    return _read(spec[name], sources[name], maps, places.values(), dtype=dtype)

  arrays, problems = {}, []
  # As they lie in the files, so that these are read from end to end.
  names = sorted(spec, key=lambda n: (sources[n][0].file, sources[n][0].start))
  for name, (pieces, found) in _ahead(read, names):
    problems += found
    arrays[name] = _put(pieces, spec[name].shape, sharding_of(name))
  if problems:
    raise ValueError(
      f"{path} has {len(problems)} damaged tensors: {problems[0]}"
      f"{', and so on' if problems[1:] else ''}; fetch or make it again."
    )
  return {name: arrays[name] for name in spec}


def save(
  params: Mapping[str, jax.Array],
  spec: Mapping[str, Param],
  path: str | os.PathLike,
  *,
  dtype: Any = None,
  max_shard_bytes: int | None = None,
) -> None:
  """Writes parameters in the published layout, whole or not at all.

  A model of that name that is there is replaced, in however many files it is.
  The bytes are those that the publishers' own writer makes of the same tensors.

  Args:
    params: `{name: array}`; every one must be described by `spec`, which may
      describe more (a part of a model can be saved alone).
    spec: `{name: Param}`.
    path: the .safetensors file.
    dtype: to convert to; None keeps each array's own.
    max_shard_bytes: a model that is larger is cut into files of at most this
      size, but for tensors that are larger alone: NAME-00001-of-00003 and so
      on, and an index.

  Raises:
    ValueError: a parameter is unknown, or has values that are NaN or infinite
      in `dtype`; the disk is full.
  """
  if unknown := [name for name in params if name not in spec]:
    raise ValueError(
      f"{len(unknown)} parameters are not of the model, e.g. {unknown[0]!r}."
    )
  dtypes = {name: np.dtype(dtype or v.dtype) for name, v in params.items()}

  def read(name: str) -> np.ndarray:
    axes, value = inverse(order(spec[name])), _on_host(params[name])
    values, num_bad = transpose(value, axes, dtype=dtypes[name])
    if num_bad:
      raise ValueError(
        f"{num_bad} values of {name!r} are NaN, infinite or too large for "
        f"{dtypes[name]}: nothing is written; choose a wider dtype, or "
        "weights from before the training failed."
      )
    return values

  _save(path, spec, dtypes, read, max_shard_bytes=max_shard_bytes)


def rewrite(
  spec: Mapping[str, Param],
  source: str | os.PathLike,
  path: str | os.PathLike,
  *,
  dtype: Any = None,
  renames: Renames | None = None,
  max_shard_bytes: int | None = None,
  notify: Callable[[str], None] = lambda name: None,
) -> None:
  """Checks a published model as `load` does, and writes it as `save` does.

  Tensors go one by one from file to file, through the host alone.

  Args:
    spec: `{name: Param}`, as `functional` describes a declared module.
    source: as `path` of `load`.
    path: the .safetensors file to write; not one of the source's.
    dtype: to convert to; None keeps each tensor's own.
    renames: from the names in the source to the model's; see `matching`.
    max_shard_bytes: as in `save`.
    notify: called with each name once it is written.

  Raises:
    ValueError: as `load` and `save` do; nothing is written then.
  """
  sources, maps = _open(spec, source, renames=renames)
  dtypes = {
    name: np.dtype(dtype or FLOATS[sources[name][0].dtype]) for name in spec
  }

  def read(name: str) -> np.ndarray:
    first, problems = sources[name][0], _unlike(sources[name], maps)
    tensor = _view(first, maps).reshape(published_shape(spec[name]))
    axes = range(tensor.ndim)
    values, num_bad = transpose(tensor, axes, dtype=dtypes[name])
    if num_bad:
      problems.append(
        f"{num_bad} values of {first.name!r} are NaN, infinite or too large "
        f"for {dtypes[name]}"
      )
    if problems:
      raise ValueError(
        f"{first.file} cannot be taken over: {problems[0]}; fetch or make it "
        "again, or choose a wider dtype."
      )
    for stored in sources[name]:
      _forget(stored, maps)
    return values

  _save(
    path, spec, dtypes, read, max_shard_bytes=max_shard_bytes, notify=notify
  )


def _open(
  spec: Mapping[str, Param],
  path: str | os.PathLike,
  *,
  renames: Renames | None,
) -> tuple[dict[str, list[Stored]], dict[Path, mmap.mmap]]:
  """What each parameter is read from, and the maps of all files.

  Raises:
    ValueError: the files cannot be read, or do not hold the model.
  """
  stored = read_headers(path)
  sources = match(stored, renames or {})
  if problem := misfit(spec, sources, stored):
    raise ValueError(f"{path} does not hold this model: {problem}")
  return sources, {f: _map(f) for f in {s.file for s in stored.values()}}


def _save(
  path: str | os.PathLike,
  spec: Mapping[str, Param],
  dtypes: Mapping[str, np.dtype],
  read: Callable[[str], np.ndarray],
  *,
  max_shard_bytes: int | None,
  notify: Callable[[str], None] = lambda name: None,
) -> None:
  """Writes the parameters that have a dtype, as `read` returns them.

  Args:
    read: name -> the values in the published layout and of this dtype, or an
      error.
    path, spec, max_shard_bytes, notify: as of `save` and `rewrite`.
    dtypes: of each parameter that is written.
  """
  path = Path(path)
  if path.suffix != ".safetensors":
    raise ValueError(f"{path} is not named as a .safetensors file: rename it.")
  num_bytes = {n: spec[n].size * dtypes[n].itemsize for n in dtypes}
  shards = _shards(num_bytes, max_shard_bytes or math.inf)
  files = [path]
  if len(shards) > 1:
    files = [
      path.with_name(f"{path.stem}-{i:05d}-of-{len(shards):05d}.safetensors")
      for i in range(1, len(shards) + 1)
    ]
  old = {*files_of(path)}
  with contextlib.ExitStack() as stack:
    parts = [stack.enter_context(replacing(file)) for file in files]
    for part, names in zip(parts, shards, strict=True):
      _write(part, names, spec, dtypes, read, notify)
  if len(shards) > 1:
    index = path.with_name(f"{path.name}.index.json")
    weight_map = {
      name: file.name
      for file, names in zip(files, shards, strict=True)
      for name in names
    }
    total = {"total_size": sum(num_bytes.values())}
    write_json(index, {"metadata": total, "weight_map": weight_map})
    files.append(index)
  for file in old.difference(files):
    file.unlink()


def _map(file: Path) -> mmap.mmap:
  with file.open("rb") as stream:
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _read(
  p: Param,
  sources: Sequence[Stored],
  maps: Mapping[Path, mmap.mmap],
  wanted: Iterable[_Bounds],
  *,
  dtype: Any,
) -> tuple[dict[_Bounds, np.ndarray], list[str]]:
  """Reads the wanted pieces of a parameter, and says what is wrong with it."""
  first, problems = sources[0], _unlike(sources, maps)
  tensor = _view(first, maps).reshape(published_shape(p))
  if dtype is None:
    dtype = jax.dtypes.canonicalize_dtype(tensor.dtype)
  axes, num_bad, pieces = order(p), 0, {}
  for bounds in set(wanted):
    window = tuple(slice(*bounds[axis]) for axis in inverse(axes))
    pieces[bounds], bad = transpose(tensor[window], axes, dtype=dtype)
    num_bad += bad
  if num_bad:
    problems.append(f"{num_bad} values of {first.name!r} are NaN or infinite")
  for source in sources:
    _forget(source, maps)
  return pieces, problems


def _unlike(
  sources: Sequence[Stored], maps: Mapping[Path, mmap.mmap]
) -> list[str]:
  """What is wrong where several tensors are one parameter."""
  first, *others = sources
  return [
    f"{first.name!r} and {other.name!r} are one parameter, but differ"
    for other in others
    if not _equal(_view(first, maps), _view(other, maps))
  ]


def _view(source: Stored, maps: Mapping[Path, mmap.mmap]) -> np.ndarray:
  """The tensor where it lies; nothing is read yet."""
  return np.ndarray(
    source.shape,
    FLOATS[source.dtype],
    buffer=maps[source.file],
    offset=source.start,
  )


def _forget(source: Stored, maps: Mapping[Path, mmap.mmap]) -> None:
  """Unmaps what has been read; the system's cache of the file stays.

  Otherwise the process would seem to hold the whole file.
  """
  start = source.start - source.start % mmap.PAGESIZE
  if length := source.start + source.num_bytes - start:
    maps[source.file].madvise(mmap.MADV_DONTNEED, start, length)


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
  if one.dtype != other.dtype or one.size != other.size:
    return False
  one, other, step = one.reshape(-1), other.reshape(-1), 2**20
  return all(
    np.array_equal(one[i : i + step], other[i : i + step])
    for i in range(0, one.size, step)
  )


def _places(
  shape: tuple[int, ...], sharding: Sharding | None
) -> dict[Any, _Bounds]:
  """Which piece each device of this process needs; None is the default one."""
  if sharding is None:
    return {None: tuple((0, size) for size in shape)}
  return {
    device: tuple(
      part.indices(size)[:2]
      for part, size in zip(index or (), shape, strict=True)
    )
    for device, index in sharding.addressable_devices_indices_map(shape).items()
  }


def _put(
  pieces: Mapping[_Bounds, np.ndarray],
  shape: tuple[int, ...],
  sharding: Sharding | None,
) -> jax.Array:
  """Puts pieces on their devices, and waits: then the host can forget them."""
  # The pieces are aligned, so that on CPU JAX takes their memory over.
  arrays = [
    jax.device_put(pieces[bounds], device)
    for device, bounds in _places(shape, sharding).items()
  ]
  array = arrays[0]
  if sharding is not None:
    array = jax.make_array_from_single_device_arrays(shape, sharding, arrays)
  return array.block_until_ready()


def _shards(num_bytes: Mapping[str, int], limit: float) -> list[list[str]]:
  """Parts names, in their order, so that what they stand for keeps a limit."""
  shards: list[list[str]] = [[]]
  filled = 0
  for name, size in num_bytes.items():
    if shards[-1] and filled + size > limit:
      shards.append([])
      filled = 0
    shards[-1].append(name)
    filled += size
  return shards


def _write(file, names, spec, dtypes, read, notify) -> None:
  """Writes one file, as the safetensors library lays it out."""
  codes = list(FLOATS)  # wider dtypes first, so that all lie aligned
  names = sorted(names, key=lambda n: (codes.index(_CODES[dtypes[n]]), n))
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for name in names:
    start, end = end, end + spec[name].size * dtypes[name].itemsize
    header[name] = {
      "dtype": _CODES[dtypes[name]],
      "shape": published_shape(spec[name]),
      "data_offsets": [start, end],
    }
  text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
  text += b" " * (-len(text) % 8)

  with file.open("wb") as stream:
    stream.write(len(text).to_bytes(8, "little") + text)
    for name, values in _ahead(read, names):
      stream.write(values.reshape(-1).view(np.uint8).data)
      notify(name)


def _on_host(value: jax.Array | np.ndarray) -> np.ndarray:
  """Fetches an array, without leaving a copy of it on the host."""
  if isinstance(value, np.ndarray):
    return value
  # JAX caches what it fetches in the array that it is fetched from: in this
  # one, which has the same memory and is soon forgotten.
  pieces = [shard.data for shard in value.addressable_shards]
  return np.asarray(
    jax.make_array_from_single_device_arrays(
      value.shape, value.sharding, pieces
    )
  )


def _ahead(
  function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[tuple[_Item, _Result]]:
  """Yields each item and its result, in order; threads work a few ahead."""
  with ThreadPoolExecutor(_THREADS) as pool:
    pending = collections.deque()
    for item in items:
      pending.append((item, pool.submit(function, item)))
      if len(pending) > _THREADS:
        item, future = pending.popleft()
        yield item, future.result()
    for item, future in pending:
      yield item, future.result()
