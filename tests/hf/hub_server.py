# SPDX-License-Identifier: Apache-2.0
"""A hub on this machine: what the Hugging Face client asks, of one repository.

It answers as the real one does, as far as `snapshot_download` goes: which files
a revision has, and each of them.
"""

import contextlib
import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
from collections.abc import Iterator

from tests.local_server import serving

REPO = "org/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1.0", COMMIT)


@dataclasses.dataclass
class Hub:
  """A running server.

  Attributes:
    url: to be the client's HF_ENDPOINT.
    fetched: paths of the files that were sent.
    gated: whether files are only for those who accepted the terms.
  """

  url: str
  fetched: list[str] = dataclasses.field(default_factory=list)
  gated: bool = False


@contextlib.contextmanager
def serve(folder: pathlib.Path) -> Iterator[Hub]:
  """Serves a folder as `REPO` until the context ends."""
  hub = Hub(url="")

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      _answer(self, hub, folder)

    do_HEAD = do_GET

    def log_message(self, *_):
      pass

  with serving(Handler) as url:
    hub.url = url
    yield hub


def _answer(handler, hub, folder) -> None:
  path = handler.path.partition("?")[0]
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  names = [file.relative_to(folder).as_posix() for file in files]
  if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
    repo, (kind, revision) = match[1], _split(match[2] or "/revision/main")
    if repo != REPO:
      return _refuse(handler, 401, "RepoNotFound")
    if revision not in REVISIONS:
      return _refuse(handler, 404, "RevisionNotFound")
    if kind == "tree":
      return _send(
        handler,
        json.dumps([_entry(*x) for x in zip(names, files, strict=True)]),
      )
    siblings = [{"rfilename": name} for name in names]
    info = {"id": REPO, "sha": COMMIT, "siblings": siblings}
    return _send(handler, json.dumps(info))
  name = path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
  if name not in names:
    return _refuse(handler, 404, "EntryNotFound")
  if hub.gated:
    return _refuse(handler, 403, "GatedRepo")
  if handler.command == "GET":
    hub.fetched.append(name)
  return _send(handler, (folder / name).read_bytes())


def _split(rest: str) -> tuple[str, str]:
  _, kind, revision = rest.split("/", 2)
  return kind, revision


def _entry(name: str, file: pathlib.Path) -> dict:
  return {
    "type": "file",
    "path": name,
    "oid": _digest(file.read_bytes()),
    "size": file.stat().st_size,
  }


def _digest(content: bytes) -> str:
  return hashlib.sha1(content).hexdigest()


def _send(handler, content: str | bytes) -> None:
  body = content.encode() if isinstance(content, str) else content
  handler.send_response(200)
  handler.send_header("Content-Length", str(len(body)))
  handler.send_header("ETag", f'"{_digest(body)}"')
  handler.send_header("X-Repo-Commit", COMMIT)
  handler.end_headers()
  if handler.command == "GET":
    handler.wfile.write(body)


def _refuse(handler, status: int, code: str) -> None:
  handler.send_response(status)
  handler.send_header("X-Error-Code", code)
  handler.send_header("Content-Length", "0")
  handler.end_headers()
