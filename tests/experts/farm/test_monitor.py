# SPDX-License-Identifier: Apache-2.0
"""What people see of the farm: of one worker, of several, of the devices."""

import contextlib
import json
import sys
import time
import types

import jax
import jax.numpy as jnp
import pytest

from experts.farm.monitor import Monitor, device_memory, read_lines, step_of
from experts.farm.wave_files import count_experts, write_wave
from experts.farm.waves import make_waves
from suti.cli.status import status
from suti.io.files import write_atomic, write_json
from suti.runtime.log import read_log
from suti.runtime.progress import progress

WAVES = make_waves(
  [f"{i:016x}" for i in range(6)], experts_per_wave=2, num_devices=1
)
TUNE = {"num_steps": 100, "experts_per_slot": 1}  # of stage.json


@pytest.fixture
def clock(monkeypatch):
  class Clock:
    now = 1000.0

  monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
  return Clock


@contextlib.contextmanager
def watch(folder, worker="one", *, held=None, profile_steps=0):
  """Monitor as experts.finetune has it, with leases that the test decides."""
  config = types.SimpleNamespace(num_steps=100, profile_steps=profile_steps)
  held = {wave.name: worker for wave in WAVES} if held is None else held
  with progress(len(WAVES) * 100, "finetune") as bar:
    farm = types.SimpleNamespace(bar=bar, worker=worker, holders=lambda: held)
    with Monitor(folder, farm, waves=WAVES, config=config) as monitor:
      yield monitor


def tune(monitor, clock, folder, wave, *, seconds=0.1, quarantined=0):
  """What experts.finetune does with a wave, but for the experts."""
  monitor.begin(wave, 0)
  for step in range(10, 101, 10):
    clock.now += 10 * seconds * len(wave.keys)
    monitor.record(step, loss=1 / step, seconds=seconds)
  write(folder, wave, quarantined=quarantined)
  monitor.end()


def write(folder, wave, *, quarantined=0):
  """A wave as its worker leaves it, without weights."""
  fine = [{"status": "ok"}] * (len(wave.keys) - quarantined)
  lost = [{"status": "quarantined"}] * quarantined
  write_wave(folder, wave, {"experts": fine + lost}, params=[])


def test_one_line_has_waves_experts_speed_and_losses(tmp_path, clock, capsys):
  with watch(tmp_path) as monitor:
    tune(monitor, clock, tmp_path, WAVES[0], quarantined=1)
    monitor.begin(WAVES[1], 0)
    clock.now += 10
    monitor.record(50, loss=0.25, seconds=0.1)
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith("finetune  150/300")
  # 0.1 s a step and expert, 100 steps: 360 an hour.
  assert "wave-00001 loss 0.2500" in last
  assert "1/3 waves, 1 experts, 1 quarantined, 360 experts an hour" in last
  assert "100 ms a step each" in last


def test_a_resumed_worker_does_not_count_old_steps_as_speed(
  tmp_path, clock, capsys
):
  write(tmp_path, WAVES[0])
  with watch(tmp_path) as monitor:
    monitor.begin(WAVES[1], 90)
    clock.now += 10
    monitor.record(100, loss=0.5, seconds=0.5)
  assert "finetune  200/300  1.0/s  ETA 1 min 40 s" in capsys.readouterr().err


def test_the_log_has_a_line_at_each_sync_and_no_nan(tmp_path, clock):
  with watch(tmp_path) as monitor:
    monitor.begin(WAVES[2], 0)
    monitor.record(1, loss=0.5)  # compiled: it has no speed
    monitor.record(10, loss=float("nan"), seconds=0.1)
  first, second = read_log(tmp_path / "workers" / "one")
  assert first["step"] == 1 and "experts_an_hour" not in first
  assert second["wave"] == 2 and second["wave_step"] == 10
  assert "loss" in first and "loss" not in second
  assert second["step_ms_each"] == pytest.approx(100)


def test_the_table_is_read_from_the_logs_of_all_workers(
  tmp_path, clock, capsys, monkeypatch
):
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
  monkeypatch.setenv("COLUMNS", "120")
  held = {WAVES[0].name: "one", WAVES[1].name: "two"}
  with watch(tmp_path, "two", held=held) as other:
    other.begin(WAVES[1], 0)
    other.record(30, loss=0.125, seconds=0.2)
  capsys.readouterr()
  with watch(tmp_path, held=held) as monitor:
    monitor.begin(WAVES[0], 0)
    clock.now += 10
    monitor.record(20, loss=0.25, seconds=0.1)
  drawn = capsys.readouterr().err.split("\r\x1b[J")[-1]
  bar, total, own, theirs = drawn.rstrip("\n").split("\n")[:4]
  # Steps of both count.
  assert "50/300" in bar
  assert "540 experts an hour" in total  # 360 and 180
  assert own.split() == [
    "wave-00000",
    "20/100",
    "loss",
    "0.2500",
    "360/h",
    "this",
    "worker",
  ]
  assert theirs.split()[:6] == [
    "wave-00001",
    "30/100",
    "loss",
    "0.1250",
    "180/h",
    "two",
  ]


def test_a_dead_workers_speed_does_not_count_but_its_experts_do(
  tmp_path, clock, capsys
):
  with watch(tmp_path, "dead") as monitor:
    tune(monitor, clock, tmp_path, WAVES[0])
  with watch(tmp_path) as monitor:
    monitor.begin(WAVES[1], 0)
    monitor.record(10, loss=0.5, seconds=0.1)
  last = capsys.readouterr().err.splitlines()[-1]
  assert "1/3 waves, 2 experts, 360 experts an hour" in last


def test_a_wave_that_two_workers_finish_counts_once(tmp_path, clock, capsys):
  # The one had lost its lease to the other and came back; both write in time.
  held = {WAVES[0].name: "two"}
  with watch(tmp_path, "two", held=held) as two:
    two.begin(WAVES[0], 80)
    two.record(85, loss=0.5, seconds=0.1)
  with watch(tmp_path, "one", held=held) as one:
    one.begin(WAVES[0], 0)
    clock.now += 10
    one.record(90, loss=0.5, seconds=0.1)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("finetune  90/300")  # not 175
    for monitor in (one, two):
      write(tmp_path, WAVES[0], quarantined=1)
      monitor.end()
    del held[WAVES[0].name]
    held[WAVES[1].name] = "one"
    one.begin(WAVES[1], 0)
    clock.now += 10
    one.record(10, loss=0.5, seconds=0.1)
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith("finetune  110/300")
  assert "1/3 waves, 1 experts, 1 quarantined, 360 experts an hour" in last


def test_a_wave_that_another_finishes_meanwhile_counts_once(
  tmp_path, clock, capsys
):
  with watch(tmp_path, held={}) as one:
    one.begin(WAVES[0], 0)
    one.record(90, loss=0.5, seconds=0.1)
    write(tmp_path, WAVES[0])
    clock.now += 10
    one.record(95, loss=0.5, seconds=0.1)
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith("finetune  100/300")  # not 195


def test_a_worker_that_dies_after_its_wave_has_its_experts_counted(
  tmp_path, clock, capsys
):
  with watch(tmp_path, "dead") as monitor:
    monitor.begin(WAVES[0], 0)
    monitor.record(100, loss=0.5, seconds=0.1)
    write(tmp_path, WAVES[0])
  with watch(tmp_path) as monitor:
    monitor.begin(WAVES[1], 0)
    monitor.record(10, loss=0.5, seconds=0.1)
  last = capsys.readouterr().err.splitlines()[-1]
  assert "1/3 waves, 2 experts, 360 experts an hour" in last
  # As a run that an older version began: its records say it, too.
  (tmp_path / "counts" / f"{WAVES[0].name}.json").unlink()
  assert count_experts(tmp_path, WAVES[0].name) == (2, 0)


def test_a_worker_that_has_just_begun_is_at_no_step_of_its_new_wave():
  line = {"wave": 3, "wave_step": 100}
  assert step_of(line, "wave-00003") == 100
  assert step_of(line, "wave-00004") == 0
  assert step_of({}, "wave-00000") == 0


def test_a_line_that_is_being_written_is_not_read(tmp_path):
  folder = tmp_path / "workers" / "one"
  folder.mkdir(parents=True)
  (folder / "log.jsonl").write_text(json.dumps({"step": 1}) + '\n{"step": 2')
  assert read_lines(tmp_path) == ({"one": {"step": 1}}, set())
  (folder / "log.jsonl").write_text('{"st')
  assert read_lines(tmp_path) == ({}, set())


@pytest.mark.parametrize("content", [b"\0\0", b"[]", b"{}", b'{"step": "1"}'])
def test_a_broken_log_of_one_worker_stops_no_other(
  place, clock, capsys, content
):
  folder = place / "experts" / "finetune"
  write_json(folder / "stage.json", {"config": {"finetune": TUNE}})
  with watch(folder, "two") as two:
    two.begin(WAVES[1], 0)
    two.record(30, loss=0.5, seconds=0.1)
  for worker in ("two", "three"):
    file = folder / "workers" / worker / "log.jsonl"
    before = file.read_bytes() if file.is_file() else b""
    write_atomic(file, before + content + b"\n")
  capsys.readouterr()
  held = {WAVES[0].name: "one", WAVES[1].name: "two", WAVES[2].name: "three"}
  with watch(folder, "one", held=held) as one:
    one.begin(WAVES[0], 0)
    for step in (10, 20):
      clock.now += 10
      one.record(step, loss=0.5, seconds=0.1)
  lines = capsys.readouterr().err.splitlines()
  named = [line for line in lines if "ends in a broken line" in line]
  assert [line.split("/")[-2] for line in named] == ["three", "two"], "once"
  # The last whole line of two is shown.
  assert lines[-1].startswith("finetune  50/300")

  for wave, worker in held.items():
    lease = {"worker": f"{worker}-7-a", "expires": time.time() + 60}
    write_json(folder / "leases" / f"{wave}.1", lease)
  status([str(place)])
  out, err = capsys.readouterr()
  assert out.startswith("0/3 waves, 0 experts") and len(out.splitlines()) == 4
  assert len(err.splitlines()) == 2


def test_a_profile_is_requested_while_the_farm_runs(tmp_path, clock, capsys):
  traces = lambda: list(tmp_path.glob("workers/one/**/*.xplane.pb"))  # noqa: E731
  with watch(tmp_path) as monitor:
    monitor.begin(WAVES[0], 0)
    monitor.record(1, loss=0.5)
    monitor.record(10, loss=0.5, seconds=0.1)
    (tmp_path / "profile").write_text("5\n")
    monitor.record(20, loss=0.5, seconds=0.1)
    assert not (tmp_path / "profile").exists()  # taken
    jnp.arange(8).sum().block_until_ready()
    assert not traces()
    monitor.record(30, loss=0.5, seconds=0.1)
    assert len(traces()) == 1
    monitor.record(40, loss=0.5, seconds=0.1)
  assert len(traces()) == 1
  assert "profile: tensorboard --logdir" in capsys.readouterr().err


def test_a_request_that_is_no_text_is_one_of_the_usual_steps(
  tmp_path, clock, monkeypatch
):
  calls = []
  monkeypatch.setattr(jax.profiler, "start_trace", lambda _: calls.append("on"))
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("off"))
  with watch(tmp_path) as monitor:
    monitor.begin(WAVES[0], 0)
    monitor.record(10, loss=0.5, seconds=0.1)
    (tmp_path / "profile").write_bytes(b"\xff\xfe5")
    monitor.record(20, loss=0.5, seconds=0.1)
    assert calls == ["on"]
    assert not (tmp_path / "profile").exists()


def test_a_profile_of_the_first_steps_leaves_out_the_compiler(
  tmp_path, clock, monkeypatch
):
  calls = []
  monkeypatch.setattr(jax.profiler, "start_trace", lambda _: calls.append("on"))
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("off"))
  with watch(tmp_path, profile_steps=20) as monitor:
    monitor.begin(WAVES[0], 0)
    monitor.record(1, loss=0.5)
    assert not calls
    monitor.record(10, loss=0.5, seconds=0.1)
    monitor.record(20, loss=0.5, seconds=0.1)
    assert calls == ["on"]
    monitor.record(30, loss=0.5, seconds=0.1)
    assert calls == ["on", "off"]
  assert calls == ["on", "off"]


def test_the_fullest_device_is_shown(monkeypatch):
  class Device:
    def __init__(self, used):
      self.used = used

    def memory_stats(self):
      return {"bytes_in_use": self.used << 30, "bytes_limit": 16 << 30}

  monkeypatch.setattr(jax, "local_devices", lambda: [Device(2), Device(3)])
  assert device_memory() == {"memory_gib": 3.0, "memory_limit_gib": 16.0}
  monkeypatch.undo()
  assert device_memory() == {}  # a CPU does not say


def test_status_prints_the_farm_from_its_files(place, clock, capsys):
  folder = place / "experts" / "finetune"
  write_json(folder / "stage.json", {"config": {"finetune": TUNE}})
  with watch(folder, "elsewhere-7-a") as monitor:
    tune(monitor, clock, folder, WAVES[0], quarantined=1)
    monitor.begin(WAVES[1], 0)
    monitor.record(50, loss=0.25, seconds=0.1)
  lease = {"worker": "elsewhere-7-a", "expires": time.time() + 60}
  write_json(folder / "leases" / "wave-00001.1", lease)
  capsys.readouterr()
  status([str(place)])
  first, second = capsys.readouterr().out.splitlines()
  assert first == (
    "1/3 waves, 1 experts, 1 quarantined, 360 experts an hour, 100 ms a step"
    " each"
  )
  assert second.split() == [
    *("wave-00001", "50/100", "loss", "0.2500", "360/h", "elsewhere-7-a")
  ]
  with pytest.raises(ValueError, match="has no experts/finetune: give the"):
    status([str(place / "experts")])
