# SPDX-License-Identifier: Apache-2.0
"""Progress bars: label, count, rate and remaining time.

A bar if stderr is a terminal, plain lines elsewhere.

tqdm is not used: the rate of the last steps only, plain lines in a log, lines
below the bar and silent nested bars would all have to be written around it, in
as many lines.
"""

import collections
import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized


class Progress:
  """A bar with count, rate and ETA; see `progress`."""

  _drawn: "Progress | None" = None  # One bar at a time; nested bars are silent.
  _unseen = False

  def __init__(
    self, items: Iterable | None, total: int | None, label: str, done: int
  ) -> None:
    self.total, self.label, self.count, self.note = total, label, done, ""
    # Makes more lines: a terminal has them under the bar, a log has the first
    # behind the note.
    self.below: Callable[[], Sequence[str]] = tuple
    self._items = items
    self._start = (time.monotonic(), done)
    # Recent (time, count): the rate of the last steps, not of the compilation.
    self._recent = collections.deque(maxlen=200)
    self._tty = sys.stderr.isatty()
    self._wait_s = 0.1 if self._tty else 10.0
    self._last_draw = self._start[0] if not self._tty else 0.0
    self._silent = Progress._unseen or Progress._drawn is not None
    if not self._silent:
      Progress._drawn = self

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def __iter__(self) -> Iterator:
    assert self._items is not None, "progress(number) is not an iterable"
    with self:
      for item in self._items:
        yield item
        self.update()

  def update(self, count: int = 1, *, note: str = "") -> None:
    """Adds to the count; `note` is shown after the ETA, "loss 0.12"."""
    now = time.monotonic()
    self.count += count
    self.note = note or self.note
    if not self._recent or now - self._recent[-1][0] > 0.05:
      self._recent.append((now, self.count))
    if now - self._last_draw >= self._wait_s:
      self._draw(now)

  def skip(self, count: int) -> None:
    """Adds the count of an earlier run, which the rate must not include."""
    self.count += count
    self._start = (time.monotonic(), self.count)
    self._recent.clear()

  def say(self, line: str) -> None:
    """Prints a permanent line, above the bar."""
    clear = "\r\x1b[J" if self._tty and not self._silent else ""
    print(f"{clear}{line}", file=sys.stderr, flush=True)

  def close(self) -> None:
    """Draws the last line and allows another bar."""
    if self._silent:
      return
    self._draw(time.monotonic())
    if self._tty:
      print("\n" * len(self.below()), file=sys.stderr, flush=True)
    self._silent = True
    Progress._drawn = None

  def _rate(self, now: float) -> float:
    """Items a second, of the last steps if there are enough."""
    time_0, count_0 = self._start
    if len(self._recent) > 1:
      time_0, count_0 = self._recent[0]
    return (self.count - count_0) / max(now - time_0, 1e-6)

  def _draw(self, now: float) -> None:
    self._last_draw = now
    if self._silent:
      return
    rate = self._rate(now)
    left = None if self.total is None else max(self.total - self.count, 0)
    of = "" if self.total is None else f"/{self.total}"
    eta = "?" if left is None or not rate else span(left / rate)
    speed = (
      f"{rate:.1f}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s each"
    )
    if left and rate and len(self._recent) < 2:
      # The first may have been compiled: it says nothing of the others.
      speed, eta = f"{span(now - self._start[0])} for the first", "?"
    text = f"{self.count}{of}  {speed}  ETA {eta}"
    if self.note:
      text += f"  {self.note}"
    below = self.below()
    if not self._tty:
      text = "  ".join([text, *below[:1]])
      print(f"{self.label}  {text}", file=sys.stderr, flush=True)
      return
    width = shutil.get_terminal_size().columns - 1
    bar = ""
    if self.total:
      cells = max(min(30, width - len(self.label) - len(text) - 4), 0)
      full = cells * min(self.count, self.total) // self.total
      bar = "█" * full + "░" * (cells - full) + "  "
    lines = [f"{self.label}  {bar}{text}", *below]
    drawn = "\n".join(line[:width] for line in lines)
    back = f"\r\x1b[{len(below)}A" if below else ""
    # All lines below are cleared: there may have been more of them.
    print(f"\r\x1b[J{drawn}{back}", end="", file=sys.stderr, flush=True)


def progress(
  items: Iterable | int, label: str, *, total: int | None = None, done: int = 0
) -> Progress:
  """Shows label, count, rate and ETA on stderr during an iteration.

  A bar on a terminal; elsewhere a plain line, at most one in ten seconds and
  one at the end. A nested bar is silent. Two ways to use it:

    for page in progress(pages, "mine"): ...

    with progress(num_steps, "train", done=first_step) as bar:
      bar.update(1, note=f"loss {loss:.3f}")

  Args:
    items: an iterable, or a number of items.
    label: of the bar.
    total: the number of items, if they have no length.
    done: how many were finished by an earlier run; not counted in the rate.

  Returns:
    An iterable, and a context manager with `update`.
  """
  if isinstance(items, int):
    return Progress(None, items, label, done)
  if total is None and isinstance(items, Sized):
    total = len(items)
  return Progress(items, total, label, done)


def say(line: str) -> None:
  """Prints a permanent line on stderr, above a bar if one is being drawn."""
  if Progress._unseen:
    return
  if (bar := Progress._drawn) is not None:
    bar.say(line)
  else:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def unseen() -> Iterator[None]:
  """Silences bars that are begun inside: another process shows them."""
  before, Progress._unseen = Progress._unseen, True
  try:
    yield
  finally:
    Progress._unseen = before


def span(seconds: float) -> str:
  """12.3 -> "12 s", 151 -> "2 min 31 s", 7300 -> "2 h 1 min"."""
  if seconds < 9.95:
    return f"{seconds:.1f} s"
  whole = round(seconds)
  if whole < 60:
    return f"{whole} s"
  if whole < 3600:
    return f"{whole // 60} min {whole % 60} s"
  return f"{whole // 3600} h {whole % 3600 // 60} min"
