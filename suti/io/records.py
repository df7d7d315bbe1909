# SPDX-License-Identifier: Apache-2.0
"""Reads and writes files of `suti.schema` records, atomically.

Three formats, all readable without this code and none with pickle:

* `write_records`: one ArrayRecord file for clusters and candidates, with random
  access. Its first entry has kind and schema; each other is one record, as a
  line of JSON followed by its pictures as PNG.
* `write_examples`: a folder that TensorFlow Datasets reads by itself
  (`tfds.builder_from_directory(folder).as_data_source("train")`) for what the
  apprentice learns from. TensorFlow is neither needed nor imported.
* `write_lines`: lines of JSON for records without pictures.

Readers are sequences that keep few files open, however many readers there are,
and are pickled to other processes as a path.
"""

import functools
import importlib
import json
import operator
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic

from suti.io import files
from suti.io.example_layout import (
  Summary,
  decoders,
  features,
  from_tfds,
  summary,
  to_tfds,
)
from suti.io.paths import in_bucket, local, path_of
from suti.io.record_bytes import (
  Record,
  decode,
  encode,
  fields_of,
  from_json,
  to_json,
)
from suti.schema import SCHEMA_VERSION, Example

# One record a chunk: reading one must not decompress its neighbours.
_WRITE_OPTIONS = "group_size:1"
# No read-ahead, which fetches 16 MB for one record; no threads of its own.
_READ_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_OPEN = 64  # files at once: a process may have a thousand, and waves are more
_DATASET = "examples"
_SPLIT = "train"
_INDEX = "dataset_info.json"


class DamagedError(ValueError):
  """A damaged record of a file whose other records may be readable."""


# --- One ArrayRecord file ----------------------------------------------------


def _array_record() -> Any:
  """The compiled module, which type checkers cannot analyse."""
  return importlib.import_module("array_record.python.array_record_module")


def write_records(
  path: str | Path, records: Iterable[Any], *, kind: type
) -> int:
  """Writes records of one kind to one ArrayRecord file.

  Args:
    path: the file; it appears when all records are in it.
    records: any number, none included; may be a generator.
    kind: their class, one of `suti.schema`.

  Returns:
    How many were written.

  Raises:
    ValueError: the disk is full.
  """
  count = 0
  with files.replacing(path) as part:
    writer = _array_record().ArrayRecordWriter(str(part), _WRITE_OPTIONS)
    try:
      head = {"kind": kind.__name__, "schema": SCHEMA_VERSION}
      writer.write(json.dumps(head).encode())
      for record in records:
        assert type(record) is kind, (type(record), kind)
        writer.write(encode(record))
        count += 1
    finally:
      writer.close()
  return count


def read_records(path: str | Path, kind: type[Record]) -> "Records[Record]":
  """Opens a file of `write_records` as a sequence, read one by one.

  Args:
    path: the file.
    kind: the class its records must be of.

  Returns:
    A sequence of records.

  Raises:
    ValueError: the file is absent, damaged, of another kind or schema.
  """
  return Records(path_of(path), kind)


class Records(Sequence, Generic[Record]):
  """Random access to a file of `write_records`; see `read_records`."""

  def __init__(self, path: Path, kind: type[Record]) -> None:
    self._path, self._kind = path, kind
    self._count = self._check()

  def _reader(self) -> Any:
    # The copy of an object in a bucket may have been removed to free space.
    if in_bucket(self._path) and not self._file.exists():
      self._find()
    return _open_reader(self._file, self._version)

  def _find(self) -> None:
    """Finds the file, on this machine, and its version."""
    try:
      self._file = local(self._path)
      status = self._file.stat()
    except FileNotFoundError as error:
      raise ValueError(
        f"{self._path} does not exist: run the stage that writes it first."
      ) from error
    self._version = (status.st_ino, status.st_mtime_ns)

  def _check(self) -> int:
    """Reads the head; returns how many records there are."""
    self._find()
    reader = self._reader()
    try:
      # A damaged file has no records and raises nothing.
      head = json.loads(reader.read([0])[0]) if reader.num_records() else None
    except (ValueError, RuntimeError, IndexError):
      head = None
    if not isinstance(head, dict) or "schema" not in head:
      raise ValueError(
        f"{self._path} is damaged or no record file: delete it and run the"
        " stage that writes it again."
      )
    _check_schema(head["schema"], self._path)
    if head["kind"] != self._kind.__name__:
      raise ValueError(
        f"{self._path} holds records of kind {head['kind']}, and"
        f" {self._kind.__name__} is expected: give the file of another stage."
      )
    return reader.num_records() - 1

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    index = _in_range(index, len(self))
    try:
      return self._read(index)
    except DamagedError:
      # On a shared disk a handle may be stale: an error counts the second time.
      _open_reader.cache_clear()
      return self._read(index)

  def _read(self, index: int) -> Any:
    try:
      return decode(self._reader().read([index + 1])[0], self._kind)
    except MemoryError:
      raise
    except Exception as error:  # of ArrayRecord, JSON, PNG or the record
      raise DamagedError(
        f"Record {index} of {self._path} is damaged"
        f" ({' '.join(str(error).split())[:120]}): delete {self._path.parent}"
        " and run the stage that writes it again."
      ) from error

  def __iter__(self) -> Iterator[Record]:
    return (self[index] for index in range(len(self)))

  def __getstate__(self) -> dict[str, Any]:
    return {"path": self._path, "kind": self._kind}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(state["path"], state["kind"])


@functools.lru_cache(maxsize=_OPEN)
def _open_reader(path: Path, version: tuple[int, int]) -> Any:
  """Opens a file, or reuses an open one of the same version."""
  del version
  # ArrayRecord treats a file that cannot be opened as an empty one.
  with path.open("rb"):
    pass
  return _array_record().ArrayRecordReader(str(path), _READ_OPTIONS)


def _in_range(index: Any, count: int) -> int:
  """A whole number in [0, count), from one that may count from the end."""
  number = operator.index(index)
  if not -count <= number < count:
    raise IndexError(f"record {number} of {count}")
  return number % count


def _check_schema(found: Any, path: Path) -> None:
  """Refuses files of another schema version."""
  if found != SCHEMA_VERSION:
    stage = ".".join(path.parts[-3:-1]) or "the stage"
    if path.name == _INDEX:
      stage = "experts.pack"
    raise ValueError(
      f"Shards were written with schema {found}, this code reads"
      f" {SCHEMA_VERSION}: rerun {stage}. ({path})"
    )


# --- Lines of JSON -----------------------------------------------------------


def write_lines(path: str | Path, records: Iterable[Any]) -> int:
  """Writes any number of records without pictures, one line of JSON each.

  Returns:
    How many were written.

  Raises:
    ValueError: the disk is full.
  """
  lines = []
  for record in records:
    blobs: list[bytes] = []
    fields = {
      field.name: to_json(getattr(record, field.name), blobs)
      for field in fields_of(type(record))
    }
    assert not blobs, f"{type(record).__name__} has pictures"
    fields["schema"] = SCHEMA_VERSION
    lines.append(json.dumps(fields, ensure_ascii=False, allow_nan=False))
  files.write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
  return len(lines)


def read_lines(path: str | Path, kind: type[Record]) -> list[Record]:
  """Reads a file of `write_lines`, of records of one class.

  Raises:
    ValueError: the file is absent, damaged, of another kind or schema.
  """
  path = path_of(path)
  if not path.is_file():
    raise ValueError(
      f"{path} does not exist: run the stage that writes it first."
    )
  records = []
  # Not splitlines(), which would cut texts at characters JSON leaves as they
  # are, such as U+2028.
  lines = path.read_bytes().rstrip(b"\n").split(b"\n")
  for number, line in enumerate(filter(None, lines), start=1):
    try:
      fields = json.loads(line)
      found = fields.pop("schema")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
      raise ValueError(
        f"{path}, line {number}, is no record: delete the file and run the"
        " stage that writes it again."
      ) from error
    _check_schema(found, path)
    try:
      records.append(from_json(fields, kind))
    except (ValueError, TypeError, KeyError, IndexError) as error:
      raise ValueError(
        f"{path}, line {number}, is no {kind.__name__}: {error}. Delete the "
        "file and run the stage that writes it again."
      ) from error
  return records


# --- A folder for TensorFlow Datasets ----------------------------------------


def write_examples(
  folder: str | Path, examples: Iterable[Example], *, shard_size: int
) -> int:
  """Writes examples as a folder of TensorFlow Datasets.

  Args:
    folder: where; it appears when all examples are in it, and replaces an
      older one.
    examples: one or more, in order.
    shard_size: examples a file.

  Returns:
    How many were written.

  Raises:
    ValueError: there are none, or the disk is full.
  """
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import dataset_info

  from suti.io.tfds_bytes import FixedOrder

  count = 0
  with files.replacing_folder(folder, last=_INDEX) as part:
    info = tfds.core.DatasetInfo(
      builder=dataset_info.DatasetIdentity(
        name=_DATASET,
        version=tfds.core.Version(f"{SCHEMA_VERSION}.0.0"),
        data_dir=str(part),
        module_name=__name__,
      ),
      features=features(),
      description="Targets, prompts and demonstrations, as SuTI learns from.",
    )
    writer = tfds.core.SequentialWriter(
      info, max_examples_per_shard=shard_size, file_format="array_record"
    )
    writer._serializer = FixedOrder(writer._serializer.example_specs)
    writer.initialize_splits([_SPLIT])
    batch = []
    for example in examples:
      batch.append(to_tfds(example))
      count += 1
      # It writes its index at every call: not once an example.
      if len(batch) == 64:
        writer.add_examples({_SPLIT: batch})
        batch = []
    writer.add_examples({_SPLIT: batch})
    writer.close_all()
    if not count:
      raise ValueError(
        f"No example to write to {folder}: loosen config.filter.rule or"
        " make more candidates."
      )
  return count


def open_examples(folder: str | Path) -> "Examples":
  """Opens a folder of `write_examples` as a sequence for Grain.

  Args:
    folder: the folder.

  Returns:
    A sequence of `Example`, with random access.

  Raises:
    ValueError: the folder is absent, no such dataset, or of another schema.
  """
  return Examples(path_of(folder))


class Examples(Sequence):
  """Random access to a folder of examples; see `open_examples`."""

  def __init__(self, folder: Path) -> None:
    self._folder = folder
    self._source = self._open()

  def _open(self) -> Any:
    index = self._folder / _INDEX
    if not index.is_file():
      raise ValueError(
        f"{self._folder} has no dataset_info.json: give the folder that"
        " experts.pack wrote, or run experts.pack first."
      )
    stated = files.read_json(index)
    if stated.get("name") != _DATASET:
      raise ValueError(
        f"{self._folder} holds the dataset {stated.get('name')!r}: give a"
        " folder that experts.pack wrote."
      )
    version = str(stated.get("version", "")).partition(".")[0]
    _check_schema(int(version) if version.isdigit() else version, index)
    import tensorflow_datasets as tfds

    # Its annotations lack `split`.
    builder: Any = tfds.builder_from_directory(str(local(self._folder)))
    return builder.as_data_source(split=_SPLIT, decoders=decoders())

  @property
  def folder(self) -> Path:
    """Where they lie."""
    return self._folder

  def summaries(self) -> Iterator[Summary]:
    """Cluster and measures of each example; no picture is decoded."""
    return (summary(self._source[i]) for i in range(len(self)))

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    number = _in_range(index, len(self))
    try:
      return from_tfds(self._source[number])
    except ValueError as error:
      raise ValueError(
        f"Example {number} of {self._folder} is damaged: {error}. Delete the "
        "folder and run experts.pack again."
      ) from error

  def __iter__(self) -> Iterator[Example]:
    return (self[index] for index in range(len(self)))

  def __repr__(self) -> str:
    return f"Examples({len(self)})"

  def __getstate__(self) -> dict[str, Any]:
    return {"folder": self._folder}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(state["folder"])
