# SPDX-License-Identifier: Apache-2.0
"""The page on which people rate, served to this machine alone.

Standard library: five addresses, one process, nobody else's requests. It takes
requests to 127.0.0.1 and localhost only, by their Host, so that no page of
elsewhere can ask through a browser; answers are JSON, which a form of elsewhere
cannot send. Pictures are known by names that say nothing, and are read anew, so
that no file's name, size or tags reach the rater.
"""

import contextlib
import http.server
import io
import json
import re
import secrets
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from suti.evaluation.rating.tasks import (
  QUESTIONS,
  Task,
  answer_of,
  append,
  is_swapped,
  make_rating,
  order_of,
  read_ratings,
)
from suti.io.image_files import load_image
from suti.schema import content_key

_PAGE = Path(__file__).with_name("rate.html")
_SIDE_PX = 768  # pictures are reduced to it
_KEPT = 100  # pictures held ready
_MAX_BODY = 10_000
_RATER = re.compile(r"[\w .@'’-]{1,40}")


class Room:
  """What raters are shown, and what they have said.

  Attributes:
    tasks: all of them.
    path: of the answers.
    seed: of order and sides.
  """

  def __init__(self, tasks: Sequence[Task], path: Path, *, seed: int) -> None:
    self.tasks, self.path, self.seed = list(tasks), path, seed
    self._lock = threading.Lock()
    self._by_key = {task.key: task for task in tasks}
    paths = {p for t in tasks for p in (*t.pictures, *t.references)}
    self._paths = {self._token(path): path for path in paths}
    self._shown: dict[str, bytes] = {}
    # {rater: {task's key: rating}}, as they came; and each rater's spelling.
    self._said: dict[str, dict[str, dict[str, Any]]] = {}
    self._spelled: dict[str, str] = {}
    self._strange = 0
    if path.is_file():
      for rating in read_ratings(path):
        if rating["task"] in self._by_key:
          self._keep(rating)
        else:
          self._strange += 1

  def _keep(self, rating: dict[str, Any]) -> None:
    rater = rating["rater"]
    self._spelled.setdefault(rater.casefold(), rater)
    self._said.setdefault(rater, {})[rating["task"]] = rating

  def describe(self) -> str:
    """What the file has so far, in a line; "" if nothing."""
    parts = [f"{rater} {len(said)}" for rater, said in self._said.items()]
    lines = [f"Rated so far: {', '.join(parts)}."] if parts else []
    if self._strange:
      lines.append(
        f"Of other pictures, or of another kind of question, {self.path} has "
        f"{self._strange} more; they stay."
      )
    return " ".join(lines)

  def _token(self, path: str) -> str:
    return content_key(self.seed, path)

  def next(self, rater: str) -> dict[str, Any]:
    """The rater's next task as the page gets it.

    With it come `rater`, a name spelled as in earlier answers ("ann" goes on as
    "Ann"), and `before`, the tasks that this rater has answered.
    """
    rater = self._spelled.get(rater.casefold(), rater)
    order = order_of(self.tasks, rater, seed=self.seed)
    said = self._said.get(rater, {})
    left = [task for task in order if task.key not in said]
    about = {
      "rater": rater,
      "done": len(order) - len(left),
      "all": len(order),
      "before": list(said),
    }
    return about | (self.show(left[0].key, rater) if left else {"task": None})

  def show(self, key: str, rater: str) -> dict[str, Any]:
    """One task as the page gets it, and the rater's answer: no system, no path.

    Raises:
      KeyError: there is no such task.
    """
    task = self._by_key[key]
    said = self._said.get(rater, {}).get(key)
    pictures = [self._token(path) for path in task.pictures]
    if len(pictures) == 2 and is_swapped(task, rater, seed=self.seed):
      pictures.reverse()
    return {
      "task": key,
      "prompt": task.prompt,
      "pictures": pictures,
      "references": [self._token(path) for path in task.references],
      "questions": {} if len(pictures) == 2 else QUESTIONS,
      "said": said and answer_of(said, seed=self.seed, task=task),
    }

  def rate(self, answer: dict[str, Any]) -> None:
    """Writes an answer.

    Raises:
      ValueError: it is not of a task, or incomplete.
    """
    rater, key = answer.get("rater"), answer.get("task")
    if not isinstance(rater, str) or not _RATER.fullmatch(rater):
      raise ValueError(
        "rater: expected a name of 1 to 40 letters, digits, spaces or . _ - @ '"
      )
    if not isinstance(key, str) or key not in self._by_key:
      raise ValueError("task: expected one that was shown.")
    rating = make_rating(self._by_key[key], answer, rater=rater, seed=self.seed)
    with self._lock:
      append(self.path, rating)
      self._keep(rating)

  def picture(self, token: str) -> bytes | None:
    """A picture as PNG; None if there is none of this name."""
    if token not in self._paths:
      return None
    # In one step: another thread may clear them.
    if (shown := self._shown.get(token)) is not None:
      return shown
    image = Image.fromarray(load_image(self._paths[token]))
    image.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "PNG")
    if len(self._shown) >= _KEPT:
      self._shown.clear()
    self._shown[token] = content.getvalue()
    return content.getvalue()


@contextlib.contextmanager
def serve(room: Room, *, port: int) -> Iterator[str]:
  """Serves a room until the context ends.

  Args:
    room: what is rated.
    port: 0 for any that is free.

  Yields: the address of the page.

  Raises:
    ValueError: the port is taken.
  """

  class Handler(_Handler):
    pass

  Handler.room = room
  try:
    server = _Server(("127.0.0.1", port), Handler)
  except OSError as error:
    raise ValueError(
      f"--port={port} cannot be opened ({error.strerror}): give another, or 0 "
      "for any that is free."
    ) from error
  thread = threading.Thread(target=server.serve_forever, args=(0.05,))
  thread.start()
  try:
    yield f"http://127.0.0.1:{server.server_port}/"
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Says nothing of a browser that has gone on before a picture came."""
    if not isinstance(sys.exc_info()[1], ConnectionError):
      super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
  room: Room
  timeout = 30

  def do_GET(self) -> None:
    if not self._is_local():
      return
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    rater = query.get("rater", "")
    if url.path == "/":
      nonce = secrets.token_urlsafe(12)
      source = _PAGE.read_text(encoding="utf-8").replace("{{nonce}}", nonce)
      policy = (
        "default-src 'none'; img-src 'self'; connect-src 'self'; "
        f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
      )
      self._send(source.encode(), "text/html; charset=utf-8", policy=policy)
    elif url.path == "/favicon.ico":  # Browsers ask, and complain of a 404.
      self._send(b"", "image/x-icon")
    elif url.path == "/next" and _RATER.fullmatch(rater):
      self._send_json(self.room.next(rater))
    elif url.path == "/task" and _RATER.fullmatch(rater):
      try:
        self._send_json(self.room.show(query.get("task", ""), rater))
      except KeyError:
        self._refuse(404, "no such task")
    elif url.path.startswith("/picture/"):
      self._send_picture(url.path.removeprefix("/picture/"))
    else:
      self._refuse(404, "nothing is here")

  def do_POST(self) -> None:
    if not self._is_local():
      return
    kind = self.headers.get("Content-Type", "").partition(";")[0]
    length = self.headers.get("Content-Length", "")
    if self.path != "/rating" or kind != "application/json":
      return self._refuse(415, "expected JSON")
    if not length.isdecimal() or int(length) > _MAX_BODY:
      return self._refuse(413, "too long")
    try:
      answer = json.loads(self.rfile.read(int(length)))
      if not isinstance(answer, dict):
        raise ValueError("expected an object.")
      self.room.rate(answer)
    except RecursionError:
      return self._refuse(400, "nested without end")
    except ValueError as error:  # no JSON is one, too
      return self._refuse(400, str(error))
    self._send_json({"saved": True})

  def _is_local(self) -> bool:
    host = self.headers.get("Host", "").partition(":")[0]
    if host in ("127.0.0.1", "localhost"):
      return True
    self._refuse(403, "this page is for this machine")
    return False

  def _send_picture(self, token: str) -> None:
    try:
      content = self.room.picture(token)
    except ValueError as error:
      return self._refuse(404, str(error))
    if content is None:
      return self._refuse(404, "no such picture")
    self._send(content, "image/png")

  def _send_json(self, value: Any) -> None:
    self._send(json.dumps(value).encode(), "application/json")

  def _refuse(self, code: int, why: str) -> None:
    self._send(why.encode(), "text/plain; charset=utf-8", code=code)

  def _send(
    self, content: bytes, kind: str, *, code: int = 200, policy: str = ""
  ) -> None:
    self.send_response(code)
    self.send_header("Content-Type", kind)
    self.send_header("Content-Length", str(len(content)))
    self.send_header("X-Content-Type-Options", "nosniff")
    self.send_header("Cache-Control", "no-store")
    if policy:
      self.send_header("Content-Security-Policy", policy)
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, format: str, *args: Any) -> None:
    """Prints nothing: the terminal is the user's."""
