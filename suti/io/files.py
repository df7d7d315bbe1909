# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: files that appear whole or not at all.

A run writes every file under a hidden name in the same folder, flushes it to
the disk, and renames it: a process killed at any moment leaves the old file or
the new one, never a partial one. `create` and `create_json` only create a file
that does not exist, so that one of many processes succeeds. Only log.jsonl, of
`suti.runtime.log`, is appended to.

Objects in a bucket are written atomically by the server: files are written on
this machine and then uploaded.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from suti.io.folders import is_hidden, walk
from suti.io.parts import NEW, OLD, clean_parts_of, part_of, put_back, remove
from suti.io.paths import in_bucket, path_of, temporary

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Error numbers of file systems without hard links, or without locks.
UNABLE = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_SAMPLE = 2**20  # bytes of each end of a file that fingerprints read
_OPENED = 128  # files of a folder that they read


def is_disk_full(error: BaseException) -> bool:
  """Whether an error, or one of its causes, is a full disk.

  Libraries in C++ (Orbax, ArrayRecord) raise errors of their own, so the text
  is checked as well as the number.
  """
  chain: BaseException | None = error
  while chain is not None:
    if isinstance(chain, OSError) and chain.errno in _FULL:
      return True
    text = str(chain)
    if "No space left on device" in text or "Disk quota exceeded" in text:
      return True
    chain = chain.__cause__ or chain.__context__
  return False


def _disk_full(path: Path) -> ValueError:
  """The error with the message for a full disk."""
  return ValueError(
    f"The disk of {path.parent} is full: free some space there and run the"
    " same command again, it goes on from what was written."
  )


def unable(folder: Path, what: str) -> ValueError:
  """The error for a file system without hard links or locks."""
  return ValueError(
    f"The file system of {folder} has no {what}, as mounted buckets have not:"
    " give a --workdir on a local disk, on NFS, or gs://BUCKET/FOLDER."
  )


def _sync_folder(folder: Path) -> None:
  """Flushes a folder, so that a rename in it survives a power cut."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
  """Yields a temporary path that is renamed to `path` if the body succeeds.

  Args:
    path: the file to write; its folder is made if there is none.

  Yields:
    The temporary path, on this machine.

  Raises:
    ValueError: the disk is full.
  """
  path = path_of(path)
  if in_bucket(path):
    with _sent() as folder:
      yield folder / path.name
      path.upload(folder / path.name)
    return
  part = part_of(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield part
    handle = os.open(part, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)
    os.replace(part, path)
    _sync_folder(path.parent)
  except BaseException as error:
    part.unlink(missing_ok=True)
    if is_disk_full(error):
      raise _disk_full(path) from error
    raise


@contextlib.contextmanager
def _sent() -> Iterator[Path]:
  """Yields a local folder for files to upload to a bucket."""
  try:
    with temporary() as folder:
      yield folder
  except OSError as error:
    if is_disk_full(error):
      raise _disk_full(Path(tempfile.gettempdir()) / "suti") from error
    raise


@contextlib.contextmanager
def replacing_folder(
  path: str | os.PathLike, *, last: str = ""
) -> Iterator[Path]:
  """Yields a temporary folder that is renamed to `path` if the body succeeds.

  An older folder of that name is moved away first and then removed, as a folder
  cannot be renamed over another: for an instant there is none, never a mixture.
  It is restored if the new one cannot take its name: immediately or, if this
  process is killed in that instant, by `clean_parts`.

  Args:
    path: the folder to write.
    last: the file in it by which readers see that it is complete. A folder in a
      bucket appears file by file, and this file is the last; the old one is
      removed first.

  Yields:
    The temporary folder, empty, on this machine.

  Raises:
    ValueError: the disk is full.
  """
  path = path_of(path)
  if in_bucket(path):
    with _sent() as folder:
      yield folder
      (path / last).unlink(missing_ok=True)
      path.rmtree(missing_ok=True)
      send_folder(folder, path, last=last)
    return
  part, old = part_of(path), part_of(path, kind=OLD)
  try:
    # A process of this number may have been killed here before.
    put_back(path)
    for left in (part, old):
      remove(left)
    part.mkdir(parents=True)
    yield part
    for child in part.rglob("*"):
      if child.is_file():
        with child.open("rb") as file:
          os.fsync(file.fileno())
    if os.path.lexists(path):
      os.rename(path, old)
    os.rename(part, path)
    _sync_folder(path.parent)
    remove(old)
  except BaseException as error:
    with contextlib.suppress(OSError):
      put_back(path)
    remove(part)
    if is_disk_full(error):
      raise _disk_full(path) from error
    raise


def send_folder(folder: Path, path: Path, *, last: str = "") -> None:
  """Uploads the files of a local folder to a bucket.

  Args:
    folder: the local folder.
    path: in the bucket; other objects there are kept.
    last: the file to upload last.
  """
  assert in_bucket(path), path
  names = [f.relative_to(folder) for f in folder.rglob("*") if f.is_file()]
  for name in sorted(names, key=lambda name: (name == Path(last), name)):
    (path / name).upload(folder / name)


def remove_folder(path: str | os.PathLike) -> None:
  """Removes a folder and everything in it, if it exists."""
  path = path_of(path)
  if in_bucket(path):
    path.rmtree(missing_ok=True)
  else:
    shutil.rmtree(path, ignore_errors=True)


def names_in(folder: Path) -> list[str]:
  """The entries of a folder; none if it does not exist, or no longer."""
  with contextlib.suppress(OSError):
    return [path.name for path in folder.iterdir()]
  return []


def check_new_folder(path: Path, *, outside: Path) -> None:
  """Checks that a new folder can be written.

  Partial files of killed runs are removed, and a folder that they had moved
  away is restored.

  Args:
    path: the folder to write.
    outside: a folder in which it may not lie.

  Raises:
    ValueError: it exists, or cannot be made there.
  """
  clean_parts_of(path)
  if path.is_symlink() or (
    path.exists() and (not path.is_dir() or any(path.iterdir()))
  ):
    raise ValueError(f"{path} is already there: give the name of a new folder.")
  if path.resolve().is_relative_to(outside.resolve()):
    raise ValueError(
      f"{path} lies inside of {outside}, which is read: give another place."
    )
  above = next(p for p in path.absolute().parents if p.exists())
  if not above.is_dir() or not os.access(above, os.W_OK):
    raise ValueError(
      f"{path} cannot be made in {above}, which is no folder or not yours to "
      "write: give another place."
    )


def write_atomic(path: str | os.PathLike, content: bytes) -> None:
  """Writes a whole file, or nothing.

  Args:
    path: where; missing folders are made.
    content: all of its bytes.

  Raises:
    ValueError: the disk is full.
  """
  path = path_of(path)
  if in_bucket(path):
    path.write_bytes(content)
    return
  with replacing(path) as part:
    part.write_bytes(content)


def create(path: str | os.PathLike, content: bytes) -> bool:
  """Creates a whole file if there is none yet.

  Of many processes that try simultaneously, on any machine, one succeeds. It
  needs hard links, the only way to name a complete file only if the name is
  free; buckets support it directly.

  Args:
    path: where; missing folders are made.
    content: all of its bytes.

  Returns:
    Whether this call created it; False leaves the existing file.

  Raises:
    ValueError: the disk is full.
  """
  path = path_of(path)
  if in_bucket(path):
    return path.create(content)
  part = part_of(path, kind=NEW)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    try:
      os.link(part, path)
    except FileExistsError:
      return False
    except OSError as error:
      if error.errno in UNABLE:
        raise unable(path.parent, "hard links") from error
      raise
    _sync_folder(path.parent)
    return True
  except OSError as error:
    if is_disk_full(error):
      raise _disk_full(path) from error
    raise
  finally:
    part.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes a value as indented JSON, whole or not at all.

  Raises:
    ValueError: there is a NaN or an infinity in it, which is not valid JSON; or
      the disk is full.
  """
  write_atomic(path, _json(path, value))


def create_json(path: str | os.PathLike, value: Any) -> bool:
  """`create` for a value, as JSON."""
  return create(path, _json(path, value))


def _json(path: str | os.PathLike, value: Any) -> bytes:
  try:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
  except ValueError as error:
    raise ValueError(
      f"{path} would hold a NaN or an infinity, which is not JSON: {error}."
    ) from error
  return (text + "\n").encode()


def read_json(path: str | os.PathLike) -> Any:
  """Reads a JSON file.

  Raises:
    ValueError: the file is not JSON.
  """
  path = path_of(path)
  try:
    try:
      content = path.read_bytes()
    except OSError as error:
      # Replaced while it was open, on NFS: the new file can be read.
      if error.errno != errno.ESTALE:
        raise
      content = path.read_bytes()
    return json.loads(content)
  except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
    raise ValueError(
      f"{path} is not a JSON file ({error}): fetch it again, or delete it and"
      " run the command that writes it."
    ) from error


def read_end(path: Path, num_bytes: int) -> bytes:
  """The last bytes of a file, or all there are."""
  if in_bucket(path):
    return path.read_end(num_bytes)
  with path.open("rb") as file:
    file.seek(-min(os.fstat(file.fileno()).st_size, num_bytes), os.SEEK_END)
    return file.read()


def read_object(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a JSON file that holds an object, as all published configs do.

  Raises:
    ValueError: there is no such file, or it holds something else.
  """
  path = path_of(path)
  if not path.is_file():
    raise ValueError(f"{path} is not there: fetch or make it.")
  value = read_json(path)
  if not isinstance(value, dict):
    raise ValueError(
      f"{path} holds no JSON object, as a config does: fetch or make it again."
    )
  return value


def fingerprint(folder: str | os.PathLike) -> str:
  """A fingerprint of the content of a folder, or a file: 16 hex digits.

  It depends on the path and size of each file, and for 128 of them, spread
  evenly, on a MiB of the beginning and of the end. A model has fewer files, so
  trained weights are distinguished at any size. Of a million pictures, one that
  is added, removed, renamed or saved with another size is detected, one of the
  same size is not: reading them all would take minutes at each start. Cards
  (.md), hidden files and system folders (`suti.io.folders`) are ignored.

  Args:
    folder: a model's, or a dataset's, which may be a file.
  """
  folder = path_of(folder)
  found = []
  for path in _below(folder):
    inside = path.relative_to(folder)
    hidden = inside.name.startswith(".") or any(
      map(is_hidden, inside.parts[:-1])
    )
    if not hidden and path.suffix != ".md" and path.is_file():
      found.append((path, inside.as_posix()))
  digest = hashlib.blake2s(digest_size=8)
  opened = {i * len(found) // _OPENED for i in range(_OPENED)}
  for number, (path, inside) in enumerate(found):
    size = path.stat().st_size
    digest.update(os.fsencode(f"{inside}:{size}:"))  # any name a disk has
    if number in opened:
      with path.open("rb") as file:
        digest.update(file.read(_SAMPLE))
        file.seek(max(size - _SAMPLE, 0))
        digest.update(file.read())
  return digest.hexdigest()


def _below(folder: Path) -> list[Path]:
  """A file itself, or all files below a folder, following links to folders."""
  if folder.is_file():
    return [folder]
  if in_bucket(folder) or not folder.is_dir():
    return sorted(folder.rglob("*"))
  return sorted(
    path / name for path, names, _ in walk(folder) for name in names
  )


def first_difference(
  old: Any, new: Any, name: str = ""
) -> tuple[str, str, str] | None:
  """Finds where two trees of mappings differ, as JSON would store them.

  Args:
    old, new: mappings of mappings, or leaves; a tuple equals its list.
    name: of the trees; names of what is in them are joined to it by dots.

  Returns:
    Name, old and new value as text ("absent" where there is none), of the first
    difference in alphabetical order; None if there is none.
  """
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for key in sorted(old.keys() | new.keys()):
      longer = f"{name}.{key}" if name else str(key)
      if key not in old or key not in new:
        texts = [repr(t[key]) if key in t else "absent" for t in (old, new)]
        return longer, texts[0], texts[1]
      if found := first_difference(old[key], new[key], longer):
        return found
    return None
  if json.dumps(old) == json.dumps(new):
    return None
  return name, repr(old), repr(new)
