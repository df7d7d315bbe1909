# SPDX-License-Identifier: Apache-2.0
"""Paths in Cloud Storage buckets, with pathlib's methods.

A bucket has objects and no folders: a folder exists if an object's name begins
with its own. Objects are written atomically, and can be created only if they do
not exist; workers that share a workdir rely on these two properties alone.
Nothing that other processes may change is cached: each call is a request.

Once this module is imported, `etils.epath` uses this class for all gs:// paths,
so that Orbax uses it too, without TensorFlow, whether that is installed or not.
Requests are sent by gcsfs, with its retries and its search for credentials
(those of gcloud, or of the machine).

epath's own fsspec backend is not used: it prefers TensorFlow if installed,
caches listings, leaves out names that end in "~", requires the folder an object
is moved to, and does not translate errors, so that every method would be
overridden here.
"""

import asyncio
import concurrent.futures
import fnmatch
import functools
import io
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from etils import epath
from etils.epath import stat_utils

if TYPE_CHECKING:  # Type checkers may take it for one of pathlib's.
  _Base = Path
else:
  _Base = epath.Path

_Result = TypeVar("_Result")
_PAGE = 1000
_THREADS = 8
_MAGIC = re.compile(r"[*?\[]")


class Status(stat_utils.StatResult):
  """The result of `stat`, with the names of both epath and os."""

  @property
  def st_size(self) -> int:
    """Bytes."""
    return self.length


@epath.register_path_cls("gs://")
class BucketPath(_Base):
  """A path in a bucket; see the module.

  Requests that are refused or fail raise a ValueError of one line.
  """

  def __str__(self) -> str:
    # pathlib collapses the two slashes.
    whole = self.parts[:1] == ("gs:",)
    return "gs://" + "/".join(self.parts[1:]) if whole else super().__str__()

  __fspath__ = __str__

  @property
  def bucket(self) -> str:
    """Its name."""
    return self.parts[1] if len(self.parts) > 1 else ""

  @property
  def key(self) -> str:
    """The object's name in the bucket."""
    return "/".join(self.parts[2:])

  def _at(self, key: str) -> "BucketPath":
    return type(self)(f"gs://{self.bucket}/{key}")

  def expanduser(self) -> "BucketPath":
    """The path itself."""
    return self

  def resolve(self, strict: bool = False) -> "BucketPath":
    """The path itself."""
    del strict
    return self

  # --- Metadata --------------------------------------------------------------

  def about(self) -> dict[str, Any] | None:
    """The object's metadata; None if there is none."""
    try:
      return self._call("GET", "b/{}/o/{}", self.bucket, self.key)
    except FileNotFoundError:
      return None

  def is_file(self) -> bool:
    """Whether there is an object of this name."""
    return bool(self.key) and self.about() is not None

  def is_dir(self) -> bool:
    """Whether there are objects below this path."""
    try:
      return any(True for _ in self._pages(f"{self.key}/", limit=1))
    except FileNotFoundError:  # there is no such bucket
      return False

  def exists(self) -> bool:
    """Whether it is a file or a folder."""
    return self.is_file() or self.is_dir()

  def stat(self) -> Status:
    """Size and time of an object; a folder has none."""
    about = self.about()
    if about is None:
      if not self.is_dir():
        raise FileNotFoundError(f"{self} is not there")
      return Status(is_directory=True, length=0, mtime=0)
    changed = datetime.fromisoformat(about["updated"]).timestamp()
    return Status(
      is_directory=False, length=int(about["size"]), mtime=int(changed)
    )

  def iterdir(self) -> Iterator["BucketPath"]:
    """The entries of a folder; none if it does not exist."""
    return self.glob("*")

  def glob(self, pattern: str) -> Iterator["BucketPath"]:
    """The matching paths, part by part; for `**` use `rglob`."""
    assert "**" not in pattern, pattern
    part, _, rest = pattern.partition("/")
    magic = _MAGIC.search(part)
    if not magic:
      path = self / part
      if rest:
        yield from path.glob(rest)
      elif path.exists():
        yield path
      return
    folder = f"{self.key}/" if self.key else ""
    prefix = folder + part[: magic.start()]
    found: dict[str, None] = {}  # a name may be an object's and a folder's
    for page in self._pages(prefix, delimiter="/"):
      names = [*page.get("prefixes", []), *_names(page)]
      found |= dict.fromkeys(n.removeprefix(folder).rstrip("/") for n in names)
    for name in sorted(found):
      if name and fnmatch.fnmatchcase(name, part):
        path = self / name
        if rest:
          yield from path.glob(rest)
        else:
          yield path

  def rglob(self, pattern: str) -> Iterator["BucketPath"]:
    """All objects below whose last part matches."""
    for path, _ in self.below():
      if fnmatch.fnmatchcase(path.name, pattern):
        yield path

  def below(self) -> list[tuple["BucketPath", dict[str, Any]]]:
    """All objects below, in order, with their metadata."""
    return [
      (self._at(item["name"]), item)
      for page in self._pages(f"{self.key}/")
      for item in page.get("items", [])
      if not item["name"].endswith("/")  # stands for an empty folder
    ]

  def _pages(
    self, prefix: str, *, delimiter: str | None = None, limit: int = 0
  ) -> Iterator[dict[str, Any]]:
    """Pages of names that begin with a prefix; at most `limit` per page."""
    token = None
    while True:
      page = self._call(
        "GET",
        "b/{}/o",
        self.bucket,
        prefix=prefix.removeprefix("/") or None,
        delimiter=delimiter,
        maxResults=limit or _PAGE,
        pageToken=token,
      )
      if page.get("items") or page.get("prefixes"):
        yield page
      token = page.get("nextPageToken")
      if token is None or limit:
        return

  # --- Reading ---------------------------------------------------------------

  def read_bytes(self) -> bytes:
    """The whole object."""
    return self._ask(lambda fs: fs.cat_file(str(self)))

  def read_text(self, encoding: str | None = None) -> str:
    """The whole object, as UTF-8."""
    return self.read_bytes().decode(encoding or "utf-8")

  def read_end(self, num_bytes: int) -> bytes:
    """The last bytes of the object, or all there are."""
    size = self.stat().st_size
    if not size:
      return b""
    start = max(0, size - num_bytes)
    return self._ask(lambda fs: fs.cat_file(str(self), start=start))

  def open(self, mode: str = "r", **kw: Any) -> Any:
    """Opens it for reading; use the `write_` methods for writing."""
    if mode not in ("r", "rb"):
      raise io.UnsupportedOperation(f"{self} cannot be opened with {mode!r}")
    file = self._ask(lambda fs: fs.open(str(self), "rb"))
    if mode == "rb":
      return file
    return io.TextIOWrapper(file, encoding=kw.get("encoding") or "utf-8")

  def download(self, target: Path, *, generation: str) -> None:
    """Copies a version of the object to a file of this machine.

    Raises:
      FileNotFoundError: it is not there, or was replaced.
      ValueError: the disk is full.
    """
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    self._ask(
      lambda fs: fs.get_file(str(self), str(part), generation=generation)
    )
    part.replace(target)

  # --- Writing ---------------------------------------------------------------

  def write_bytes(self, data: bytes) -> int:
    """Makes or replaces the object."""
    self._ask(lambda fs: fs.pipe_file(str(self), data))
    return len(data)

  def write_text(self, data: str, *args: Any, **kw: Any) -> int:
    """Makes or replaces the object, in UTF-8."""
    del args, kw
    return self.write_bytes(data.encode())

  def create(self, data: bytes) -> bool:
    """Creates the object if there is none; returns whether this call did."""
    mark = uuid.uuid4().hex
    try:
      self._ask(
        lambda fs: fs.pipe_file(
          str(self), data, mode="create", metadata={"made-by": mark}
        )
      )
    except FileExistsError:
      # Perhaps by this call: if a response is lost, the request is repeated.
      about = self.about()
      # An object that was replaced or copied since has no metadata at all.
      made_by = ((about or {}).get("metadata") or {}).get("made-by")
      return mark == made_by
    return True

  def upload(self, source: Path) -> None:
    """Makes or replaces the object with a file of this machine."""
    self._ask(lambda fs: fs.put_file(str(source), str(self)))

  def mkdir(self, *args: Any, **kw: Any) -> None:
    """Does nothing: there are no folders."""

  def rmdir(self) -> None:
    """Does nothing: there are no folders."""

  def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
    """Makes an empty object."""
    del mode
    if not self.create(b"") and not exist_ok:
      raise FileExistsError(f"{self} is already there")

  def replace(self, target: str | os.PathLike) -> "BucketPath":
    """Moves the object, over another if there is one."""
    moved = type(self)(target)
    self._ask(lambda fs: fs.mv_file(str(self), str(moved)))
    return moved

  def rename(self, target: str | os.PathLike) -> "BucketPath":
    """Moves the object."""
    return self.replace(target)

  def unlink(self, missing_ok: bool = False) -> None:
    """Removes the object."""
    try:
      self._ask(lambda fs: fs.rm_file(str(self)))
    except FileNotFoundError:
      if not missing_ok:
        raise

  def rmtree(self, missing_ok: bool = False) -> None:
    """Removes all objects below."""
    inside = [path for path, _ in self.below()]
    if not inside and not missing_ok:
      raise FileNotFoundError(f"{self} is not there")
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      for _ in pool.map(lambda path: path.unlink(missing_ok=True), inside):
        pass

  # --- Requests --------------------------------------------------------------

  def check(self) -> None:
    """Checks that the bucket exists and can be read, before all else.

    Raises:
      ValueError: it cannot, with the reason.
    """
    if not self.key:
      raise ValueError(
        f"--workdir={self} is a whole bucket: give a folder in one, such as"
        f" gs://{self.bucket or 'BUCKET'}/run."
      )
    try:
      next(self._pages(f"{self.key}/", limit=1), None)
    except FileNotFoundError as error:
      raise ValueError(
        f"--workdir={self}: there is no bucket {self.bucket}: make it (gcloud"
        f" storage buckets create gs://{self.bucket}), or give another."
      ) from error

  def _call(self, method: str, path: str, *names: str, **query: Any) -> Any:
    """Sends a request with a JSON response."""
    return self._ask(
      lambda fs: fs.call(method, path, *names, json_out=True, **query)
    )

  def _ask(self, ask: Callable[[Any], _Result]) -> _Result:
    """Sends a request; an error is raised with a one-line message."""
    try:
      return ask(_file_system(os.getpid()))
    except (FileNotFoundError, FileExistsError):
      raise
    except Exception as error:
      if line := _explain(error):
        raise ValueError(f"{self} {line}") from error
      raise


@functools.cache
def _file_system(process: int) -> Any:
  """The client that sends the requests of this process."""
  del process  # Connections do not survive a fork.
  try:
    from gcsfs.core import GCSFileSystem
  except ImportError as error:
    raise ValueError(
      "To work in a bucket gcsfs is needed: pip install 'suti-jax[gcs]' (from a"
      " checkout: pip install -e '.[gcs]')."
    ) from error
  # gcsfs logs every error that it raises, with a traceback.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  return GCSFileSystem(
    # An emulator of the server needs no credentials.
    token="anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None,
    # Cached listings would hide the files of other workers.
    use_listings_cache=False,
    skip_instance_cache=True,
  )


def _names(page: dict[str, Any]) -> list[str]:
  return [item["name"] for item in page.get("items", [])]


def _explain(error: Exception) -> str:
  """The remedy for an error of the server or of the network."""
  import aiohttp
  import requests
  from gcsfs.retry import HttpError
  from google.auth.exceptions import GoogleAuthError

  reason = " ".join(str(error).split())[:200] or type(error).__name__
  refused = isinstance(error, OSError) and reason.startswith("Forbidden")
  if refused or (isinstance(error, HttpError) and error.code in (401, 403)):
    return (
      f"is refused ({reason}): log in with `gcloud auth application-default"
      " login`, or give the account of this machine what it needs there"
      " (roles/storage.objectUser and roles/storage.legacyBucketReader)."
    )
  lost = (
    aiohttp.ClientError,
    requests.exceptions.RequestException,
    asyncio.TimeoutError,
    GoogleAuthError,
    HttpError,
  )
  if isinstance(error, lost):
    return (
      f"cannot be reached ({reason}): see that this machine reaches"
      " storage.googleapis.com, and start the same command again, it goes on"
      " from what was written."
    )
  return ""
