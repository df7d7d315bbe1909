# SPDX-License-Identifier: Apache-2.0
"""Monitoring of the farm while it runs: progress table, logs and profiles.

Every worker of `experts.finetune` has a folder of its own in the stage's,

  workers/NAME/log.jsonl     a line at each sync: wave, step, loss and speed
  workers/NAME/tensorboard   the same for TensorBoard, and its profiles

and displays the state of all workers, read from these files: on a terminal as a
table below the bar, elsewhere as one line every ten seconds. `suti status
WORKDIR` shows it from anywhere. `config.finetune.profile_steps` profiles the
first N steps after compilation; to profile N steps while the farm runs:

  echo 20 > WORKDIR/experts/finetune/profile

The first worker that sees the file takes the request. Monitoring only observes:
without it the farm makes the same experts.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experts.farm.wave_files import count_experts
from experts.farm.waves import Wave
from experts.farm.work_queue import Work, finished
from suti.io.files import read_end
from suti.io.mirror import Mirror
from suti.io.paths import in_bucket
from suti.runtime.log import Log, parse_line
from suti.runtime.progress import say

_REFRESH_S = 5.0  # seconds between reads of the other workers' logs
_PROFILED_STEPS = 20  # if a request gives no number
_GIB = 2**30


class Monitor:
  """One worker's log, and its view of all workers."""

  def __init__(
    self, folder: Path, farm: Work, *, waves: Sequence[Wave], config
  ) -> None:
    """Opens the worker's log, and adds the farm to its bar.

    Args:
      folder: of the stage.
      farm: this worker, whose bar counts steps of all waves.
      waves: all of them.
      config: `config.finetune`.
    """
    self._folder, self._farm, self._bar = folder, farm, farm.bar
    self._num_waves, self._num_steps = len(waves), config.num_steps
    self._profile = Profile(folder, farm.worker, num_steps=config.profile_steps)
    self._log = Log(folder / "workers" / farm.worker)
    self._line: dict[str, float] = {"waves": self._num_waves}
    self._counts: dict[str, tuple[int, int]] = {}
    self._recent: deque[float] = deque(maxlen=20)
    self._wave: Wave | None = None
    self._step = self._steps = 0  # of the wave; taken by this worker
    self._unread: set[str] = set()  # workers whose logs end in broken lines
    self._read()

  def __enter__(self) -> "Monitor":
    self._bar.below = self._rows
    return self

  def __exit__(self, *_: object) -> None:
    if done := self._profile.stop():
      self._bar.say(done)
    self._log.close()

  def begin(self, wave: Wave, step: int) -> None:
    """Records that a wave starts, or resumes at an earlier worker's step."""
    self._wave, self._step = wave, step
    self._line |= {"wave": wave.index, "wave_step": step}
    self._read()
    self._bar.skip(max(0, self._count() - self._bar.count))
    self._bar.update(0, note=wave.name)

  def record(
    self, step: int, *, loss: float, seconds: float | None = None
  ) -> None:
    """Logs a line after a sync with the devices.

    Args:
      step: steps that the wave has taken.
      loss: mean over its experts; left out where it is not finite.
      seconds: of a step, divided by the experts; None if it was compiling.
    """
    assert self._wave is not None, "record before begin"
    self._steps += step - self._step
    self._step = step
    self._line["wave_step"] = step
    self._line.pop("loss", None)
    if math.isfinite(loss):
      self._line["loss"] = loss
    if seconds is not None:
      self._recent.append(seconds)
      each_s = statistics.median(self._recent)
      self._line["step_ms_each"] = each_s * 1e3
      self._line["experts_an_hour"] = 3600 / (each_s * self._num_steps)
    self._line |= device_memory()
    self._log.write(self._steps, self._line)
    if done := self._profile.record(self._steps, ready=bool(self._recent)):
      self._bar.say(done)
    self._read_now_and_then()
    count = max(0, self._count() - self._bar.count)
    self._bar.update(count, note=f"{self._wave.name} loss {loss:.4f}")

  def end(self) -> None:
    """Records that the wave has been written."""
    self._wave, self._step = None, 0
    self._read()

  def _read_now_and_then(self) -> None:
    """Reads the logs if the last time was long ago: many workers take long."""
    if time.monotonic() >= self._read_again_s:
      self._read()

  def _read(self) -> None:
    """Reads the logs of the other workers."""
    began = time.monotonic()
    done = finished(self._folder)
    self._counts |= {
      wave: count_experts(self._folder, wave)
      for wave in done - self._counts.keys()
    }
    self._held = {
      wave: worker
      for wave, worker in self._farm.holders().items()
      if wave not in done
    }
    self._lines, unread = read_lines(self._folder)
    for worker in sorted(unread - self._unread):
      say(unread_log(self._folder, worker))
    self._unread |= unread
    now = time.monotonic()
    self._read_again_s = now + max(_REFRESH_S, 20 * (now - began))

  def _count(self) -> int:
    """Steps of all waves by all workers, each counted once."""
    steps = {
      wave: step_of(self._lines.get(worker, {}), wave)
      for wave, worker in self._held.items()
    }
    if self._wave is not None:
      # Another may have taken it over; it does not matter which is ahead.
      name = self._wave.name
      steps[name] = max(self._step, steps.get(name, 0))
    steps |= {wave: self._num_steps for wave in self._counts}
    return sum(steps.values())

  def _rows(self) -> list[str]:
    """The lines below the bar."""
    self._read_now_and_then()
    own = self._farm.worker
    lines = self._lines | {own: self._line}
    counts, num = self._counts.values(), self._num_waves
    return [
      total(lines, self._held.values(), counts=counts, num_waves=num),
      *table(lines, self._held, num_steps=self._num_steps, own=own),
    ]


class Profile:
  """Traces steps on request, for TensorBoard's profiler."""

  def __init__(self, folder: Path, worker: str, *, num_steps: int) -> None:
    self._request = folder / "profile"
    self._folder = folder / "workers" / worker / "tensorboard"
    self._mirror = Mirror(self._folder)
    self._wanted, self._end, self._num = num_steps, -1, 0
    self._ask_again_s = 0.0

  def record(self, step: int, *, ready: bool) -> str:
    """Starts a trace, or ends it after its last step.

    Args:
      step: steps that this worker has taken.
      ready: the program is compiled.

    Returns: a message for the user, or "".
    """
    if self._end >= 0:
      return self.stop() if step >= self._end else ""
    if ready and (num := self._wanted or self._take_request()):
      self._mirror.here.mkdir(parents=True, exist_ok=True)
      jax.profiler.start_trace(self._mirror.here)
      self._wanted, self._end = 0, step + num
    return ""

  def stop(self) -> str:
    """Ends a trace if there is one; returns a message for the user, or ""."""
    if self._end < 0:
      return ""
    self._end = -1
    jax.profiler.stop_trace()
    self._mirror.send()
    return f"profile: tensorboard --logdir {self._folder}"

  def _take_request(self) -> int:
    """Takes a request, if no other worker has: its number of steps, or 0."""
    if in_bucket(self._request):  # each request there is billed
      if time.monotonic() < self._ask_again_s:
        return 0
      self._ask_again_s = time.monotonic() + _REFRESH_S
    if not self._request.is_file():
      return 0
    try:
      # Anyone may write this file, and no worker ends by what is in it.
      text = self._request.read_bytes().decode(errors="replace").strip()
      self._request.unlink()
    except FileNotFoundError:
      return 0
    return int(text) if text.isdecimal() else _PROFILED_STEPS


# --- Reading -----------------------------------------------------------------


def read_lines(folder: Path) -> tuple[dict[str, dict[str, float]], set[str]]:
  """The logs of all workers, past and present.

  Returns: {worker: the last whole line of its log}, and the workers whose last
    lines are broken, which do not keep the others from being shown.
  """
  found, unread = {}, set()
  for path in sorted(folder.glob("workers/*/log.jsonl")):
    worker = path.parent.name
    try:
      whole = read_end(path, 4096).split(b"\n")[:-1]
    except OSError:
      unread.add(worker)
      continue
    lines = [parse_line(content) for content in whole]
    if whole and lines[-1] is None:
      unread.add(worker)
    if known := [line for line in lines if line is not None]:
      found[worker] = known[-1]
  return found, unread


def unread_log(folder: Path, worker: str) -> str:
  """The warning about a log whose last lines are broken."""
  return (
    f"{folder / 'workers' / worker / 'log.jsonl'} ends in a broken line: this"
    " worker is shown as of the line before it, or not at all."
  )


def step_of(line: Mapping[str, float], wave: str) -> int:
  """The step of a wave that a worker was at, by the last line of its log."""
  is_same = f"wave-{int(line.get('wave', -1)):05d}" == wave
  return int(line.get("wave_step", 0)) if is_same else 0


def device_memory() -> dict[str, float]:
  """Memory of the fullest device of this process; {} if none reports it."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  used = max(stats, key=lambda s: s.get("bytes_in_use", 0))
  if "bytes_in_use" not in used:
    return {}
  found = {"memory_gib": used["bytes_in_use"] / _GIB}
  if limit := used.get("bytes_limit"):
    found["memory_limit_gib"] = limit / _GIB
  return found


# --- Showing -----------------------------------------------------------------


def total(
  lines: Mapping[str, Mapping[str, float]],
  at_work: Iterable[str],
  *,
  counts: Collection[tuple[int, int]],
  num_waves: int,
) -> str:
  """The farm in one line.

  Args:
    lines: the last one of each worker, past and present.
    at_work: workers that hold a wave; the others have no speed.
    counts: ok and quarantined experts of each finished wave.
    num_waves: all waves.
  """
  working = [lines[worker] for worker in set(at_work) if worker in lines]
  rate = sum(line.get("experts_an_hour", 0) for line in working)
  steps = [x["step_ms_each"] for x in working if "step_ms_each" in x]
  fullest = max(working, key=lambda x: x.get("memory_gib", 0), default={})
  texts = [f"{len(counts)}/{num_waves} waves"]
  texts += [f"{sum(fine for fine, _ in counts)} experts"]
  if lost := sum(lost for _, lost in counts):
    texts += [f"{lost} quarantined"]
  if rate:
    texts += [f"{rate:.4g} experts an hour"]
  if steps:
    texts += [f"{statistics.median(steps):.3g} ms a step each"]
  if "memory_gib" in fullest:
    texts += [_memory(fullest)]
  return ", ".join(texts)


def table(
  lines: Mapping[str, Mapping[str, float]],
  held: Mapping[str, str],
  *,
  num_steps: int,
  own: str = "",
) -> list[str]:
  """A row for each wave in progress."""
  rows = []
  for wave, worker in sorted(held.items()):
    line: Mapping[str, Any] = lines.get(worker, {})
    at = f"{step_of(line, wave)}/{num_steps}"
    loss = f"loss {line['loss']:.4f}" if "loss" in line else ""
    rate = line.get("experts_an_hour")
    speed = f"{rate:.4g}/h" if rate else ""
    memory = _memory(line) if "memory_gib" in line else ""
    name = "this worker" if worker == own else worker
    rows.append(
      f"  {wave}  {at:>9}  {loss:11}  {speed:>8}  {memory:>14}  {name}"
    )
  return rows


def _memory(line: Mapping[str, float]) -> str:
  limit = line.get("memory_limit_gib")
  of = f" of {limit:.1f}" if limit else ""
  return f"{line['memory_gib']:.1f}{of} GiB"
