# SPDX-License-Identifier: Apache-2.0
"""Buckets on this machine: Cloud Storage's JSON API, as far as it is used here.

Objects have generations and appear whole: an upload that is broken off leaves
nothing. Listings have prefixes and pages, reads have ranges, writes and
deletions have preconditions. All clients that this project meets (gcsfs,
TensorStore, google-cloud-storage) find it by `Buckets.environment`.

  python -m tests.io.bucket_server PORT    # until it is interrupted
"""

import base64
import collections
import contextlib
import dataclasses
import datetime
import hashlib
import http.server
import itertools
import json
import re
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

BUCKET = "bucket"
_PAGE = 1000  # names in a listing, as in the real one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
  """An object: what it holds, and which of its versions that is."""

  content: bytes
  generation: int
  metadata: dict[str, str]
  updated: str


class Buckets:
  """What a running server holds.

  Attributes:
    url: of the server.
    objects: {name: object} of the one bucket there is.
    requests: how many there were, by method and kind.
    refuse: is shown method and path of each request; may return the status to
      answer with instead.
    lose: is shown the same when all is done; may say that the answer is lost.
  """

  def __init__(self, url: str) -> None:
    self.url = url
    self.objects: dict[str, Stored] = {}
    self.requests: collections.Counter[str] = collections.Counter()
    self.let()
    self._uploads: dict[str, dict[str, Any]] = {}
    self._numbers = itertools.count(1)
    self._lock = threading.Lock()

  def let(self) -> None:
    """Answers all requests again."""
    self.refuse: Callable[[str, str], int | None] = lambda method, path: None
    self.lose: Callable[[str, str], bool] = lambda method, path: False

  @property
  def environment(self) -> dict[str, str]:
    """The variables with which a process's clients use this server."""
    return {
      "STORAGE_EMULATOR_HOST": self.url,
      "TENSORSTORE_GCS_HTTP_URL": self.url,
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
    }

  def put(
    self,
    name: str,
    content: bytes,
    *,
    metadata: dict[str, str] | None = None,
    if_generation: str | None = None,
  ) -> Stored | None:
    """Makes an object; None where a precondition does not hold."""
    with self._lock:
      if not self._matches(name, if_generation):
        return None
      now = datetime.datetime.now(datetime.UTC)
      self.objects[name] = Stored(
        content=content,
        generation=1_700_000_000_000_000 + next(self._numbers),
        metadata=metadata or {},
        updated=now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
      )
      return self.objects[name]

  def remove(self, name: str, *, if_generation: str | None = None) -> int:
    """Removes an object; the status to answer with."""
    with self._lock:
      if name not in self.objects:
        return 404
      if not self._matches(name, if_generation):
        return 412
      del self.objects[name]
      return 204

  def _matches(self, name: str, wanted: str | None) -> bool:
    found = self.objects.get(name)
    return wanted is None or int(wanted) == (found.generation if found else 0)

  def list(self, query: dict[str, str]) -> dict[str, Any]:
    """A page of a listing, in the order of names."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    with self._lock:
      objects = dict(self.objects)
    entries: dict[str, Stored | None] = {}
    for name in sorted(n for n in objects if n.startswith(prefix)):
      if not query.get("startOffset", "") <= name:
        continue
      if (end := query.get("endOffset")) and name >= end:
        continue
      head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
      if delimiter and found:
        entries[prefix + head + delimiter] = None
      else:
        entries[name] = objects[name]
    names = list(entries)
    start = int(query.get("pageToken", 0))
    end = start + min(int(query.get("maxResults", _PAGE)), _PAGE)
    page: dict[str, Any] = {"kind": "storage#objects"}
    if end < len(names):
      page["nextPageToken"] = str(end)
    names = names[start:end]
    page["prefixes"] = [name for name in names if entries[name] is None]
    page["items"] = [
      describe(name, found) for name in names if (found := entries[name])
    ]
    return page


def describe(name: str, stored: Stored) -> dict[str, Any]:
  """An object as the API describes it."""
  md5 = hashlib.md5(stored.content).digest()
  return {
    "kind": "storage#object",
    "bucket": BUCKET,
    "name": name,
    "size": str(len(stored.content)),
    "generation": str(stored.generation),
    "metageneration": "1",
    "md5Hash": base64.b64encode(md5).decode(),
    "updated": stored.updated,
    "timeCreated": stored.updated,
    # As the real one, which leaves it out where there is none.
  } | ({"metadata": stored.metadata} if stored.metadata else {})


@contextlib.contextmanager
def serve(port: int = 0) -> Iterator[Buckets]:
  """Serves one empty bucket until the context ends."""

  class Handler(_Handler):
    buckets: Buckets

  server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
  server.daemon_threads = True
  server.block_on_close = False
  Handler.buckets = Buckets(f"http://127.0.0.1:{server.server_port}")
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  try:
    yield Handler.buckets
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers the requests of one connection."""

  buckets: Buckets
  protocol_version = "HTTP/1.1"
  # A response is sent immediately: clients wait for it.
  disable_nagle_algorithm = True
  wbufsize = -1

  def handle(self) -> None:
    with contextlib.suppress(ConnectionError):  # Clients may be killed.
      super().handle()

  def log_message(self, *_: object) -> None:
    pass

  def _answer(self) -> None:
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
    try:
      body = self._body()
    except ConnectionError:
      self.close_connection = True  # broken off: nothing was sent
      return
    if status := self.buckets.refuse(self.command, self.path):
      return self._say(status)
    for pattern, answer in _ROUTES:
      if match := re.fullmatch(pattern, url.path):
        names = [urllib.parse.unquote(part) for part in match.groups()]
        self.buckets.requests[f"{self.command} {answer.__name__}"] += 1
        if names and names[0] != BUCKET:
          return self._say(404)
        return answer(self, query, body, *names[1:])
    return self._say(501)

  do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

  def _body(self) -> bytes:
    if self.headers.get("Transfer-Encoding") == "chunked":
      content = b""
      while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
        content += self.rfile.read(size)
        self.rfile.readline()
      self.rfile.readline()
      return content
    size = int(self.headers.get("Content-Length") or 0)
    content = self.rfile.read(size)
    if len(content) < size:
      raise ConnectionError
    return content

  def _say(
    self,
    status: int,
    content: bytes | dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
  ) -> None:
    if content is None and status >= 400:
      content = {"error": {"code": status, "message": f"status {status}"}}
    if isinstance(content, dict):
      content = json.dumps(content).encode()
    content = content or b""
    if self.buckets.lose(self.command, self.path):
      raise ConnectionError
    self.send_response(status)
    self.send_header("Content-Length", str(len(content)))
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(content)
    self.wfile.flush()

  # --- Answers ---------------------------------------------------------------

  def bucket(self, query, body) -> None:
    del query, body
    self._say(200, {"kind": "storage#bucket", "name": BUCKET})

  def listing(self, query, body) -> None:
    del body
    self._say(200, self.buckets.list(query))

  def object(self, query, body, name) -> None:
    del body
    if self.command == "DELETE":
      wanted = query.get("ifGenerationMatch")
      return self._say(self.buckets.remove(name, if_generation=wanted))
    stored = self.buckets.objects.get(name)
    if stored is None:
      return self._say(404)
    if query.get("alt") != "media":
      return self._say(200, describe(name, stored))
    headers = {"x-goog-generation": str(stored.generation)}
    if (match := query.get("ifGenerationNotMatch")) and (
      int(match) == stored.generation
    ):
      return self._say(304, b"", headers)
    content, status = stored.content, 200
    if match := re.fullmatch(
      r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")
    ):
      first, last = match.groups()
      size = len(content)
      start = int(first) if first else max(size - int(last), 0)
      end = min(int(last) + 1 if first and last else size, size)
      if start >= size:
        return self._say(416)
      headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
      content, status = content[start:end], 206
    return self._say(status, content, headers)

  def upload(self, query, body) -> None:
    kind, name = query["uploadType"], query.get("name")
    if kind == "resumable" and "upload_id" not in query:
      about = json.loads(body or b"{}")
      number = str(next(self.buckets._numbers))
      self.buckets._uploads[number] = {
        "name": name or about["name"],
        "metadata": about.get("metadata"),
        "if_generation": query.get("ifGenerationMatch"),
        "content": b"",
      }
      url = f"{self.buckets.url}/upload/storage/v1/b/{BUCKET}/o"
      url += f"?uploadType=resumable&upload_id={number}"
      return self._say(200, b"", {"Location": url})
    if kind == "resumable":
      return self._go_on(query["upload_id"], body)
    metadata = None
    if kind == "multipart":
      boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
      assert boundary
      _, about, rest = body.split(b"--" + boundary[1].encode(), 2)
      about = json.loads(re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1])
      name, metadata = about["name"], about.get("metadata")
      body = re.split(rb"\r?\n\r?\n", rest, maxsplit=1)[1]
      end = body.rindex(b"\n--" + boundary[1].encode() + b"--")
      body = body[:end].removesuffix(b"\r")
    return self._made(
      name,
      self.buckets.put(
        name,
        body,
        metadata=metadata,
        if_generation=query.get("ifGenerationMatch"),
      ),
    )

  def _go_on(self, number: str, body: bytes) -> None:
    """Takes a part of an upload; with the last the object is made."""
    upload = self.buckets._uploads.get(number)
    if self.command == "DELETE" or upload is None:
      self.buckets._uploads.pop(number, None)
      return self._say(499)
    upload["content"] += body
    size = len(upload["content"])
    total = self.headers.get("Content-Range", "").rpartition("/")[2]
    if total == "*" or (total.isdigit() and size < int(total)):
      return self._say(308, b"", {"Range": f"bytes=0-{size - 1}"})
    del self.buckets._uploads[number]
    name = upload.pop("name")
    return self._made(name, self.buckets.put(name, **upload))

  def _made(self, name: str, stored: Stored | None) -> None:
    if stored is None:
      return self._say(412)
    return self._say(200, describe(name, stored))

  def _copied(self, name: str, target: str) -> Stored | None:
    stored = self.buckets.objects.get(name)
    return None if stored is None else self.buckets.put(target, stored.content)

  def copy(self, query, body, name, target) -> None:
    del query, body
    made = self._copied(name, target)
    if made is None:
      return self._say(404)
    return self._say(
      200,
      {
        "kind": "storage#rewriteResponse",
        "done": True,
        "resource": describe(target, made),
      },
    )

  def move(self, query, body, name, target) -> None:
    del query, body
    made = self._copied(name, target)
    if made is None:
      return self._say(404)
    self.buckets.remove(name)
    return self._say(200, describe(target, made))


_OBJECT = r"/storage/v1/b/([^/]+)/o/([^/]+)"
_ROUTES: list[tuple[str, Callable[..., None]]] = [
  (r"/storage/v1/b/([^/]+)", _Handler.bucket),
  (r"/storage/v1/b/([^/]+)/o", _Handler.listing),
  (_OBJECT, _Handler.object),
  (rf"/download{_OBJECT}", _Handler.object),
  (r"/upload/storage/v1/b/([^/]+)/o", _Handler.upload),
  (rf"{_OBJECT}/rewriteTo/b/{BUCKET}/o/([^/]+)", _Handler.copy),
  (rf"{_OBJECT}/moveTo/o/([^/]+)", _Handler.move),
]


if __name__ == "__main__":
  with (
    serve(int(sys.argv[1])) as running,
    contextlib.suppress(KeyboardInterrupt),
  ):
    for variable, value in running.environment.items():
      print(f"export {variable}={value}", flush=True)
    threading.Event().wait()
