# SPDX-License-Identifier: Apache-2.0
"""SIGTERM: what a machine sends to its processes before it is taken away.

A command that receives it ends at once, as at Ctrl-C, with an exit code of its
own. A loop that can do better asks for it to be `deferred`: an event is set
instead, and the loop ends between two steps, where its state is whole. If that
takes too long, for instance because it is compiling, the process ends without
it. Whoever sends a second SIGTERM means it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

CODE = 143  # what a shell shows for a process that SIGTERM ended
LINE = (
  "Stopped by SIGTERM. Start the same command again and it goes on from here."
)
# Until the next try, where an exception was lost: Python ignores those that are
# raised while it calls a `__del__` or a callback of its collector.
_AGAIN_S = 1.0
# The event of the loop that asked for it; None while nobody did.
_deferred: threading.Event | None = None
_heard = False  # whether its first SIGTERM has come


class TerminatedError(BaseException):
  """SIGTERM was received; no Exception, so that nobody catches it."""


def _receive(*_: object) -> None:
  # Not whether the event is set: the thread of the deadline may be faster.
  global _heard
  if _deferred is None or _heard:
    _raise()
  else:
    _heard = True
    _deferred.set()


def _raise(*_: object) -> NoReturn:
  signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
  raise TerminatedError


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Turns SIGTERM into `TerminatedError` inside, if this is the main thread."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  handlers = {signal.SIGTERM: _receive, signal.SIGALRM: _raise}
  before = {n: signal.signal(n, handler) for n, handler in handlers.items()}
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
      signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def deferred(
  *, grace_s: float, at_last: Callable[[], None]
) -> Iterator[threading.Event]:
  """Lends the event that the first SIGTERM sets instead of raising.

  The body should end soon after; `TerminatedError` is then raised here, if it
  was not raised inside. It has no effect outside of `watched`.

  Args:
    grace_s: how long the body has; then the process ends where it stands.
    at_last: called in another thread before it does.
  """
  global _deferred, _heard
  event = threading.Event()
  _deferred, _heard = event, False
  with _deadline(event, grace_s=grace_s, at_last=at_last):
    try:
      yield event
    finally:
      _deferred = None
  if event.is_set():
    raise TerminatedError


@contextlib.contextmanager
def _deadline(
  event: threading.Event, *, grace_s: float, at_last: Callable[[], None]
) -> Iterator[None]:
  """Ends the process `grace_s` after SIGTERM, if it is still in the body.

  The handlers of Python run between two lines of Python, which may be minutes
  apart: a thread is woken by the descriptor that the system writes to.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  ended = threading.Event()
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

  def wait() -> None:
    while (number := os.read(reader, 1)[0]) != signal.SIGTERM:
      if not number:  # no signal's: the body has ended
        return
    event.set()
    if not ended.wait(grace_s):
      try:
        at_last()
      finally:  # whatever a disk that is going away says
        print(LINE, file=sys.stderr, flush=True)
        os._exit(CODE)

  thread = threading.Thread(target=wait, daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    ended.set()
    os.write(writer, b"\0")
    thread.join()
    os.close(reader)
    os.close(writer)
