# SPDX-License-Identifier: Apache-2.0
"""Training logs: JSON lines, and TensorBoard events if it is installed.

`log.jsonl` has one object a line: step, scalars, and the rate since the line
before. A killed run that resumes replaces the lines after its last checkpoint,
so that its file has the same losses as that of an unbroken run. A line that
cannot be read, as after a disk error, is named and left out, and moved to
`log.broken` by the run that resumes. Training stops at the first number that is
not finite. `parameters.txt` lists the trained parameters. TensorFlow is not
used. In a bucket, all files are uploaded every half minute and at each
checkpoint.
"""

import importlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import jax

from suti.io import files
from suti.io.mirror import Mirror
from suti.io.paths import path_of
from suti.runtime.progress import say

_NAME = "log.jsonl"
_BROKEN = "log.broken"
_EVERY_S = 30.0  # seconds between uploads to a bucket


class Log:
  """Writes `log.jsonl` in a folder, and TensorBoard events beside it."""

  def __init__(
    self, folder: str | Path, *, batch_size: int | None = None
  ) -> None:
    """Opens the log; nothing is written before the first line.

    Args:
      folder: of the run.
      batch_size: examples a step, to log examples a second.
    """
    self._folder = path_of(folder)
    self._mirror = Mirror(folder)
    self._path = self._mirror.here / _NAME
    self._batch_size = batch_size
    self._file: TextIO | None = None
    self._events: Any = None
    self._last: tuple[int, float] | None = None  # Step and time of last line.

  def write(
    self, step: int, scalars: Mapping[str, Any], *, timed: bool = True
  ) -> dict[str, float]:
    """Appends a line.

    Args:
      step: steps done.
      scalars: numbers or arrays of one number, by name.
      timed: whether the time since the line before went into steps. Without,
        the line has no rate, and the next one's begins here.

    Returns:
      The scalars as floats.

    Raises:
      ValueError: one of them is not finite.
    """
    values = self.check(step, scalars)
    now = time.monotonic()
    line: dict[str, Any] = {"step": step, **values}
    # The first line has no rate: its time is mostly the compiler's.
    if timed and self._last is not None and step > self._last[0]:
      rate = (step - self._last[0]) / max(now - self._last[1], 1e-9)
      line["steps_per_second"] = round(rate, 4)
      if self._batch_size is not None:
        line["examples_per_second"] = round(rate * self._batch_size, 3)
    if jax.process_index() == 0:
      self._append(step, line)
    if timed or self._last is not None:
      self._last = (step, now)
    return values

  def check(self, step: int, scalars: Mapping[str, Any]) -> dict[str, float]:
    """Returns the scalars as `write` does, and writes nothing.

    For a checkpoint between two lines: what it holds must be finite.

    Raises:
      ValueError: one of them is not finite.
    """
    # One transfer for all; the loop syncs with the device here.
    values = {
      name: float(value)
      for name, value in jax.device_get(dict(scalars)).items()
    }
    for name, value in values.items():
      if not math.isfinite(value):
        raise ValueError(self._not_finite(name, value, step))
    return values

  def sync(self) -> None:
    """Uploads all lines, if the log is in a bucket."""
    if self._events is not None:
      self._events.flush()
    self._mirror.send()

  def close(self) -> None:
    """Closes the files; lines are written immediately."""
    if self._file is not None:
      self._file.close()
      self._file = None
    if self._events is not None:
      self._events.close()
      self._events = None
    self._mirror.send()

  def _not_finite(self, name: str, value: float, step: int) -> str:
    first = 1 if self._last is None else self._last[0] + 1
    steps = f"at step {step}"
    if first < step:
      steps = f"between steps {first} and {step}"
    return (
      f"{name} became {value} {steps}: lower learning_rate, lengthen the"
      " warm-up or lower grad_clip, and run again from the last checkpoint or"
      " with another --workdir."
    )

  def _append(self, step: int, line: Mapping[str, Any]) -> None:
    if self._file is None:
      self._drop_from(step)
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._file = self._path.open("a", encoding="utf-8")
      self._events = _open_events(self._path.parent)
    try:
      self._file.write(json.dumps(line) + "\n")
      self._file.flush()
    except OSError as error:
      if files.is_disk_full(error):
        raise ValueError(
          f"The disk of {self._path.parent} is full: free some space there and"
          " run the same command again, it goes on from the last checkpoint."
        ) from error
      raise
    if self._events is not None:
      _add_events(self._events, step, line)
    self._mirror.send(every_s=_EVERY_S)

  def _drop_from(self, step: int) -> None:
    """Removes partial lines, and those that this run will write again."""
    lines, broken = _read(self._folder / _NAME)
    if broken:
      aside = self._folder / _BROKEN
      before = aside.read_bytes() if aside.is_file() else b""
      after = b"".join(line + b"\n" for line in broken.values())
      files.write_atomic(self._path.parent / _BROKEN, before + after)
      say(f"{_name(self._folder, broken)}, moved to {_BROKEN} beside it.")
    if not lines and not broken and not self._path.exists():
      return
    kept = [line for line in lines if line["step"] < step]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    files.write_atomic(self._path, text.encode())


def write_overview(folder: str | Path, params: Mapping[str, Any]) -> None:
  """Writes `parameters.txt`: name, shape, dtype and size of every array.

  Args:
    folder: of the run.
    params: arrays by published name.
  """
  # Imported here, as it imports flax.linen, which nothing else needs.
  from clu import parameter_overview

  if jax.process_index() == 0:
    table = parameter_overview.get_parameter_overview(
      dict(params), include_stats=False
    )
    files.write_atomic(path_of(folder) / "parameters.txt", table.encode())


def read_log(folder: str | Path) -> list[dict[str, Any]]:
  """Reads the lines of a run's log.

  Args:
    folder: of the run.

  Returns:
    One dict a line, in order; none if there is no log. A last line that was
    truncated by a kill is left out, and so are broken ones, which are named on
    stderr.
  """
  lines, broken = _read(path_of(folder) / _NAME)
  if broken:
    say(f"{_name(path_of(folder), broken)}, left out.")
  return lines


def parse_line(content: bytes) -> dict[str, Any] | None:
  """Parses a line of a log, without its newline; None if it is malformed."""
  try:
    line = json.loads(content)
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
      return None
    finite = all(map(math.isfinite, line.values()))
  except (ValueError, TypeError, OverflowError, RecursionError):
    return None
  return line if finite else None


def _read(path: Path) -> tuple[list[dict[str, Any]], dict[int, bytes]]:
  """The lines of a log, and {number: content} of those that are broken."""
  if not path.is_file():
    return [], {}
  lines, broken = [], {}
  # The last is empty, or was truncated by a kill.
  *whole, rest = path.read_bytes().split(b"\n")
  for number, content in enumerate(whole, start=1):
    if (line := parse_line(content)) is not None:
      lines.append(line)
    else:
      broken[number] = content
  if (line := parse_line(rest)) is not None:
    lines.append(line)
  return lines, broken


def _name(folder: Path, broken: Mapping[int, bytes]) -> str:
  """'DIR/log.jsonl: lines 3, 4 and 5 are broken'."""
  *others, last = map(str, broken)
  if len(others) > 8:
    others, last = others[:8], f"{len(broken) - 8} more"
  if not others:
    return f"{folder / _NAME}: line {last} is broken"
  return f"{folder / _NAME}: lines {', '.join(others)} and {last} are broken"


def _open_events(folder: Path) -> Any:
  """TensorBoard's event writer, if the package is installed; else None."""
  try:
    writer = importlib.import_module(
      "tensorboard.summary.writer.event_file_writer"
    )
  except ImportError:
    return None
  return writer.EventFileWriter(str(folder / "tensorboard"))


def _add_events(events: Any, step: int, line: Mapping[str, Any]) -> None:
  """Writes a line as TensorBoard events."""
  event_pb2 = importlib.import_module("tensorboard.compat.proto.event_pb2")
  summary_pb2 = importlib.import_module("tensorboard.compat.proto.summary_pb2")
  values = [
    summary_pb2.Summary.Value(tag=name, simple_value=value)
    for name, value in line.items()
    if name != "step"
  ]
  summary = summary_pb2.Summary(value=values)
  events.add_event(
    event_pb2.Event(wall_time=time.time(), step=step, summary=summary)
  )
