# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all.

Whatever a run writes is written under a hidden name beside its place, flushed
to the disk, and renamed: a process killed at any moment leaves the old file or
the new one, never half of one. `create` and `create_json` do so only where
there is none, so that of many processes one wins. The one file that grows in
place is log.jsonl, which `suti.runtime.log` owns. Nothing here knows what is in
a file.

In a bucket an object appears whole by itself: what is written is written on
this machine, and then put there.
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
# What systems say that have no hard links, or no locks.
UNABLE = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_SAMPLE = 2**20  # bytes of each end of a file that fingerprints look at
_OPENED = 128  # files of a folder that they look into


def is_disk_full(error: BaseException) -> bool:
  """Says whether an error, or one that led to it, is a full disk.

  Libraries in C++ (Orbax, ArrayRecord) raise errors of their own, so their text
  counts beside the number.
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
  """Makes the one line that a user sees when a disk is full."""
  return ValueError(
    f"The disk of {path.parent} is full: free some space there and run the"
    " same command again, it goes on from what was written."
  )


def unable(folder: Path, what: str) -> ValueError:
  """Makes the one line about a file system that lacks what workers share by."""
  return ValueError(
    f"The file system of {folder} has no {what}, as mounted buckets have not:"
    " give a --workdir on a local disk, on NFS, or gs://BUCKET/FOLDER."
  )


def _sync_folder(folder: Path) -> None:
  """Makes a rename inside a folder survive a power cut."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
  """Lends a temporary path that becomes `path` if the body succeeds.

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
  """Lends a folder of this machine for what is put into a bucket."""
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
  """Lends a temporary folder that becomes `path` if the body succeeds.

  An older folder of that name is moved away first and then removed, as a folder
  cannot be renamed over another: for an instant there is none, never a mixture.
  It comes back if the new one cannot take its place, at once or, where this
  process was killed in that instant, with `clean_parts`.

  Args:
    path: the folder to write.
    last: the file in it by which readers know that it is there. A folder in a
      bucket appears file by file, and this one is the last; an older one goes
      first.

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
  """Puts the files of a folder of this machine into a bucket.

  Args:
    folder: theirs.
    path: where; what else is there stays.
    last: which of them comes last.
  """
  assert in_bucket(path), path
  names = [f.relative_to(folder) for f in folder.rglob("*") if f.is_file()]
  for name in sorted(names, key=lambda name: (name == Path(last), name)):
    (path / name).upload(folder / name)


def remove_folder(path: str | os.PathLike) -> None:
  """Removes a folder and all in it, if it is there."""
  path = path_of(path)
  if in_bucket(path):
    path.rmtree(missing_ok=True)
  else:
    shutil.rmtree(path, ignore_errors=True)


def names_in(folder: Path) -> list[str]:
  """What a folder holds; nothing if there is none, or no longer."""
  with contextlib.suppress(OSError):
    return [path.name for path in folder.iterdir()]
  return []


def check_new_folder(path: Path, *, outside: Path) -> None:
  """Sees that a folder can be written where there is nothing yet.

  What killed runs left half-written of it is removed, and what they had moved
  away is put back.

  Args:
    path: the folder to write.
    outside: a folder in which it may not lie.

  Raises:
    ValueError: something is there, or it cannot be made there.
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
  """Writes a whole file where there is none yet.

  Of many processes that try at once, on any machine, one succeeds. Needs hard
  links, which are the one way to give a whole file a name only if it is free;
  buckets can do it by themselves.

  Args:
    path: where; missing folders are made.
    content: all of its bytes.

  Returns:
    Whether this call made it; False leaves the file that is there.

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
    ValueError: there is a NaN or an infinity in it, which other readers of JSON
      do not know; or the disk is full.
  """
  write_atomic(path, _json(path, value))


def create_json(path: str | os.PathLike, value: Any) -> bool:
  """`create` with what `write_json` would write."""
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
      # Replaced while it was open, on NFS: its successor is there.
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
  """Names what a folder, or a file, holds: 16 hex digits.

  Of each file its path and its size, and of 128 of them, spread evenly, a MiB
  of the beginning and of the end. A model has fewer, so trained weights are
  distinguished at any size. Of a million pictures, one that is added, removed,
  renamed or saved anew at another size is noticed, one of the same size is not:
  reading them all would take minutes at each start. Cards (.md), hidden files
  and the folders of systems (`suti.io.folders`) do not count.

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
  """A file itself, or what is below a folder, links to folders followed."""
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
