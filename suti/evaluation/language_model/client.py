# SPDX-License-Identifier: Apache-2.0
"""One question with pictures to any address that speaks OpenAI's chat.

Standard library: one request, whose answer is kept whole. The key is read from
the environment and is never written, printed, or sent to another address: no
redirection is followed.
"""

import base64
import dataclasses
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

KEY = "OPENAI_API_KEY"
_MAX_ANSWER = 1_000_000  # bytes; what is asked for takes some hundred
_TRIES, _WAIT_S = 3, 1.0
_MAX_WAIT_S = 60.0  # what a server may ask for
# What may be better the next time: too many requests, a server's trouble.
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
  """Where a model answers.

  Attributes:
    url: "http://localhost:8000/v1".
    model: its name there.
    timeout_s: of one answer.
  """

  url: str
  model: str
  timeout_s: float = 120.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """What came back.

  Attributes:
    text: of the answer, "" if there is none.
    failure: one line on why there is none, "" if there is.
    model: as the server calls what answered.
    revision: its `system_fingerprint`, "" where the server has none.
    tokens_in, tokens_out: as the server counted, 0 where it did not.
    trouble: whether it was the server that failed, and not this question.
  """

  text: str = ""
  failure: str = ""
  model: str = ""
  revision: str = ""
  tokens_in: int = 0
  tokens_out: int = 0
  trouble: bool = False


class RefusedError(ValueError):
  """The server will answer no question: a wrong address, key or model."""


class _TooLongError(Exception):
  """An answer that is none of a judge's."""


class _Stay(urllib.request.HTTPRedirectHandler):
  def redirect_request(self, *args: Any, **kwargs: Any) -> None:
    """Follows none: the key would go along."""


def check_url(url: str) -> str:
  """The address, without a slash at its end.

  Raises:
    ValueError: it is none, or would send a key unencrypted to elsewhere.
  """
  parts = urllib.parse.urlsplit(url)
  if parts.scheme not in ("http", "https") or not parts.hostname:
    raise ValueError(
      f"--address={url}: expected the address of an API such as "
      "http://localhost:8000/v1."
    )
  if parts.username or parts.password:
    raise ValueError(
      f"--address names a user or a password: put the key into {KEY}."
    )
  local = parts.hostname in ("localhost", "127.0.0.1", "::1")
  if parts.scheme == "http" and not local and os.environ.get(KEY):
    raise ValueError(
      f"--address={url} would send {KEY} unencrypted: give https, or unset it."
    )
  return url.rstrip("/")


def ask(
  address: Address, text: str, pictures: Sequence[bytes], *, seed: int
) -> Answer:
  """Asks one question.

  Args:
    address: where.
    text: the question.
    pictures: PNGs, shown before it.
    seed: is passed on; servers may ignore it.

  Returns: the answer, or why there is none: it timed out, was refused by the
    model, or is of another form.

  Raises:
    RefusedError: every other question would be refused as well.
  """
  content = [
    {
      "type": "image_url",
      "image_url": {
        "url": f"data:image/png;base64,{base64.b64encode(png).decode()}"
      },
    }
    for png in pictures
  ]
  body = {
    "model": address.model,
    "messages": [
      {"role": "user", "content": [*content, {"type": "text", "text": text}]}
    ],
    "seed": seed,
  }
  headers = {"Content-Type": "application/json"}
  if key := os.environ.get(KEY):
    headers["Authorization"] = f"Bearer {key}"
  request = urllib.request.Request(
    f"{address.url}/chat/completions",
    data=json.dumps(body).encode(),
    headers=headers,
  )
  failure, wait_s = "", _WAIT_S
  for attempt in range(_TRIES):
    if attempt:
      time.sleep(wait_s)
      wait_s = _WAIT_S * 2**attempt
    try:
      opener = urllib.request.build_opener(_Stay)
      with opener.open(request, timeout=address.timeout_s) as reply:
        return _read(_content(reply, seconds=address.timeout_s))
    except _TooLongError:
      return Answer(failure=f"an answer of more than {_MAX_ANSWER:,} bytes")
    except urllib.error.HTTPError as error:
      with error:
        failure = f"HTTP {error.code}"
        if error.code in _AGAIN:
          wait_s = max(wait_s, _asked_wait(error))
          continue
        if error.code in (400, 413, 422):  # of this picture or text
          return Answer(failure=f"{failure}{_reason(error)}")
      raise RefusedError(
        f"{address.url} answers {failure} to model {address.model}: correct "
        f"--address and --model, or the key in {KEY}."
      ) from error
    except TimeoutError:
      failure = f"no answer within {address.timeout_s:g} s"
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
      reason = getattr(error, "reason", error)
      if isinstance(reason, TimeoutError):
        failure = f"no answer within {address.timeout_s:g} s"
        continue
      if isinstance(reason, ConnectionRefusedError):
        raise RefusedError(
          f"{address.url} cannot be reached: start the server, or correct "
          "--address."
        ) from error
      failure = " ".join(str(reason).split()) or type(reason).__name__
  return Answer(failure=failure, trouble=True)


def _content(reply: Any, *, seconds: float) -> bytes:
  """A reply's whole content; a trickle of bytes is not waited for."""
  end, parts, size = time.monotonic() + seconds, [], 0
  while part := reply.read1(2**16):
    parts.append(part)
    size += len(part)
    if size > _MAX_ANSWER:
      raise _TooLongError
    if time.monotonic() > end:
      raise TimeoutError
  if reply.length:  # the connection was closed before its end
    raise http.client.IncompleteRead(b"", reply.length)
  return b"".join(parts)


def _asked_wait(error: urllib.error.HTTPError) -> float:
  """The seconds that a server asks to wait, within reason."""
  said = (error.headers.get("Retry-After") or "").strip()
  return min(float(said), _MAX_WAIT_S) if said.isdecimal() else 0.0


def _reason(error: urllib.error.HTTPError) -> str:
  """What a server says of an error, in short; "" if it says nothing."""
  try:
    said = json.loads(error.read(_MAX_ANSWER))["error"]
    text = said["message"] if isinstance(said, dict) else said
  except (*_MALFORMED, OSError, http.client.HTTPException):
    return ""
  return f": {' '.join(_text(text).split())[:200]}"


# What reading a reply of any form may raise: numbers may be infinite, lists
# nested without end.
_MALFORMED = (
  ValueError,
  LookupError,
  TypeError,
  AttributeError,
  OverflowError,
  RecursionError,
)


def _text(value: Any) -> str:
  """A server's word as text that can be written: no halves of characters."""
  return str(value or "").encode(errors="replace").decode()


def _read(content: bytes) -> Answer:
  """The text of a reply; anything else is a failure with its reason."""
  try:
    reply = json.loads(content)
    message = reply["choices"][0]["message"]
    text, refusal = message.get("content"), message.get("refusal")
    usage = reply.get("usage") or {}
    counts = [
      int(usage.get(name) or 0)
      for name in ("prompt_tokens", "completion_tokens")
    ]
  except _MALFORMED:
    return Answer(failure="an answer of another form than a chat's")
  answer = Answer(
    model=_text(reply.get("model")),
    revision=_text(reply.get("system_fingerprint")),
    tokens_in=counts[0],
    tokens_out=counts[1],
  )
  if not isinstance(text, str) or not text.strip():
    why = "the model refused" if refusal else "an empty answer"
    return dataclasses.replace(answer, failure=why)
  return dataclasses.replace(answer, text=_text(text))
