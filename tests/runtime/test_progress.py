# SPDX-License-Identifier: Apache-2.0
"""Progress bars: what is shown, when, and the rate."""

import sys
import time

import pytest

from suti.runtime.progress import progress, span


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0.04, "0.0 s"),
    (9.9, "9.9 s"),
    (9.97, "10 s"),
    (59.4, "59 s"),
    (59.6, "1 min 0 s"),
    (151, "2 min 31 s"),
    (3599.6, "1 h 0 min"),
    (7300, "2 h 1 min"),
  ],
)
def test_spans_read_as_people_say_them(seconds, text):
  assert span(seconds) == text


class Clock:
  """A clock that the test moves."""

  def __init__(self, monkeypatch):
    self.now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_plain_lines_at_most_every_ten_seconds(monkeypatch, capsys):
  clock = Clock(monkeypatch)
  with progress(100, "train") as bar:
    for _ in range(100):
      clock.now += 0.5
      bar.update(note="loss 0.25")
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == "train  20/100  2.0/s  ETA 40 s  loss 0.25"
  assert lines[-1] == "train  100/100  2.0/s  ETA 0.0 s  loss 0.25"
  assert len(lines) == 6  # At 10, 20, 30, 40, 50 s, and at the end.


def test_the_rate_forgets_the_compilation(monkeypatch, capsys):
  clock = Clock(monkeypatch)
  with progress(50, "tune") as bar:
    clock.now += 120.0  # The first step compiles.
    bar.update()
    for _ in range(10):
      clock.now += 2.0
      bar.update()
  lines = capsys.readouterr().err.splitlines()
  assert lines[-1] == "tune  11/50  2.0 s each  ETA 1 min 18 s"


def test_the_first_item_promises_nothing_of_the_others(monkeypatch, capsys):
  clock = Clock(monkeypatch)
  with progress(16, "sample") as bar:
    for took in (228.0, 10.0):
      clock.now += took
      bar.update()
  first, second, *_ = capsys.readouterr().err.splitlines()
  assert first == "sample  1/16  3 min 48 s for the first  ETA ?"
  assert second == "sample  2/16  10.0 s each  ETA 2 min 20 s"


def test_what_was_done_before_does_not_count_as_speed(monkeypatch, capsys):
  clock = Clock(monkeypatch)
  with progress(100, "tune", done=40) as bar:
    bar.skip(20)
    for _ in range(10):
      clock.now += 1.0
      bar.update()
  assert (
    capsys.readouterr()
    .err.splitlines()[-1]
    .startswith("tune  70/100  1.0/s  ETA 30 s")
  )


def test_an_iterable_gives_its_items_and_bars_inside_are_silent(capsys):
  seen = []
  for outer in progress(["a", "b"], "outer"):
    for inner in progress(range(2), "inner"):
      seen.append((outer, inner))
  assert seen == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and lines[0].startswith("outer  2/2")
  generator = (x for x in range(3))
  assert list(progress(generator, "some", total=3)) == [0, 1, 2]
  assert capsys.readouterr().err.startswith("some  3/3")
  assert list(progress(iter([1]), "open")) == [1]
  assert capsys.readouterr().err.startswith("open  1  ")


def test_a_bar_ends_when_its_loop_fails(capsys):
  with pytest.raises(RuntimeError):
    for _ in progress(range(9), "one"):
      raise RuntimeError
  with progress(1, "two") as bar:
    bar.update()
  assert capsys.readouterr().err.splitlines()[-1].startswith("two  1/1")


def test_a_terminal_gets_a_bar_on_one_line(monkeypatch, capsys):
  clock = Clock(monkeypatch)
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
  monkeypatch.setenv("COLUMNS", "60")
  with progress(4, "mine") as bar:
    for _ in range(4):
      clock.now += 1.0
      bar.update()
  err = capsys.readouterr().err
  assert err.count("\n") == 1 and err.endswith("\n")
  drawn = err.rstrip("\n").split("\r\x1b[J")[1:]
  assert len(drawn) >= 4
  assert all(len(line) < 60 for line in drawn)
  assert "2/4" in drawn[-4] and "ETA 2.0 s" in drawn[-4]
  filled = [line.count("█") / max(1, line.count("░")) for line in drawn[-5:-1]]
  assert filled == sorted(filled) and filled[0] < filled[-1]
