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
_MAX_ANSWER = 10_000_000  # bytes
_TRIES, _WAIT_S = 3, 1.0
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
  """

  text: str = ""
  failure: str = ""
  model: str = ""
  revision: str = ""
  tokens_in: int = 0
  tokens_out: int = 0


class RefusedError(ValueError):
  """The server will answer no question: a wrong address, key or model."""


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
  failure = ""
  for attempt in range(_TRIES):
    if attempt:
      time.sleep(_WAIT_S * 2 ** (attempt - 1))
    try:
      opener = urllib.request.build_opener(_Stay)
      with opener.open(request, timeout=address.timeout_s) as reply:
        return _read(reply.read(_MAX_ANSWER))
    except urllib.error.HTTPError as error:
      with error:
        failure = f"HTTP {error.code}"
        if error.code in _AGAIN:
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
  return Answer(failure=failure)


def _reason(error: urllib.error.HTTPError) -> str:
  """What a server says of an error, in short; "" if it says nothing."""
  try:
    said = json.loads(error.read(_MAX_ANSWER))["error"]
    text = said["message"] if isinstance(said, dict) else said
  except (ValueError, KeyError, TypeError, OSError):
    return ""
  return f": {' '.join(str(text).split())[:200]}"


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
  except (ValueError, KeyError, IndexError, TypeError, AttributeError):
    return Answer(failure="an answer of another form than a chat's")
  answer = Answer(
    model=str(reply.get("model") or ""),
    revision=str(reply.get("system_fingerprint") or ""),
    tokens_in=counts[0],
    tokens_out=counts[1],
  )
  if not isinstance(text, str) or not text.strip():
    why = "the model refused" if refusal else "an empty answer"
    return dataclasses.replace(answer, failure=why)
  return dataclasses.replace(answer, text=text)
