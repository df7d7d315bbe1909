# SPDX-License-Identifier: Apache-2.0
"""Handling of SIGTERM, which processes receive before a machine is preempted.

A command that receives it ends immediately, as at Ctrl-C, with an exit code of
its own. A loop may use `deferred`: an event is set instead, and the loop ends
between two steps, where its state is consistent. If that takes too long, for
instance because it is compiling, the process is ended by a deadline. A second
SIGTERM ends it immediately.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

CODE = 143  # a shell's exit code of a process that SIGTERM ended
LINE = (
  "Stopped by SIGTERM. Start the same command again and it goes on from here."
)
GRACE_S = 25.0  # for a last checkpoint: a preemptible TPU has 30 s
# Seconds until the exception is raised again, in case it was lost: Python
# ignores exceptions raised in a `__del__` or a callback of its collector.
_AGAIN_S = 1.0
# The event of the loop in `deferred`; None outside of one.
_deferred: threading.Event | None = None
_heard = False  # whether its first SIGTERM has come


class TerminatedError(BaseException):
  """SIGTERM was received; a BaseException, so that no code catches it."""


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
  """Raises `TerminatedError` on SIGTERM inside, if this is the main thread."""
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
  """Yields an event that the first SIGTERM sets instead of raising.

  The body should end soon after; `TerminatedError` is then raised here, if it
  was not raised inside. It has no effect outside of `watched`.

  Args:
    grace_s: seconds that the body has; then the process is ended.
    at_last: called in another thread before that.
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
def between_steps(*, alone: bool) -> Iterator[threading.Event]:
  """`deferred` for a training loop, which then saves where it is, and ends.

  Args:
    alone: the loop is one process. Of several, each hears of it at another
      step, and would wait in its own checkpoint for the others: they end
      immediately, and go on from the last checkpoint of all.
  """
  if not alone:
    yield threading.Event()
    return
  with deferred(grace_s=GRACE_S, at_last=lambda: None) as stop:
    yield stop


@contextlib.contextmanager
def _deadline(
  event: threading.Event, *, grace_s: float, at_last: Callable[[], None]
) -> Iterator[None]:
  """Ends the process `grace_s` after SIGTERM, if it is still in the body.

  Python runs its handlers between two bytecodes, which may be minutes apart: a
  thread is woken by the file descriptor that signals are written to.
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
      if not number:  # not a signal: the body has ended
        return
    event.set()
    if not ended.wait(grace_s):
      try:
        at_last()
      finally:  # whatever error a disk raises that is being detached
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
