# SPDX-License-Identifier: Apache-2.0
"""The log: lines, rates, going on after a kill, and stopping at NaN."""

import json
import time

import jax.numpy as jnp
import pytest

from suti.runtime.log import Log, read_log, write_overview


def write(folder, steps):
  log = Log(folder)
  for step in steps:
    log.write(step, {"loss": jnp.asarray(1.0 / step)})
  log.close()


def test_lines_are_json_and_come_back(tmp_path):
  log = Log(tmp_path / "run")
  values = log.write(10, {"loss": jnp.float32(0.5), "grad_norm": 2})
  assert values == {"loss": 0.5, "grad_norm": 2.0}
  text = (tmp_path / "run" / "log.jsonl").read_text()
  assert json.loads(text) == {"step": 10, "loss": 0.5, "grad_norm": 2.0}
  log.close()
  assert [line["step"] for line in read_log(tmp_path / "run")] == [10]
  assert read_log(tmp_path / "nothing") == []


def test_rates_are_of_the_time_between_lines(tmp_path, monkeypatch):
  now = [100.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  log = Log(tmp_path, batch_size=8)
  for step, seconds in ((10, 60.0), (20, 5.0), (40, 40.0)):
    now[0] += seconds
    log.write(step, {"loss": 1.0})
  log.close()
  lines = read_log(tmp_path)
  assert "steps_per_second" not in lines[0]  # It holds the compilation.
  assert [line["steps_per_second"] for line in lines[1:]] == [2.0, 0.5]
  assert [line["examples_per_second"] for line in lines[1:]] == [16.0, 4.0]


def test_a_broken_run_logs_what_an_unbroken_one_does(tmp_path):
  write(tmp_path / "unbroken", range(10, 70, 10))
  write(tmp_path / "broken", range(10, 50, 10))
  # Killed while writing a line, after a checkpoint at step 20.
  with (tmp_path / "broken" / "log.jsonl").open("a") as file:
    file.write('{"step": 50, "lo')
  write(tmp_path / "broken", range(30, 70, 10))

  def losses(name):
    return [(x["step"], x["loss"]) for x in read_log(tmp_path / name)]

  assert losses("broken") == losses("unbroken")


def test_a_line_cut_by_a_kill_is_left_out(tmp_path):
  write(tmp_path, [1, 2])
  with (tmp_path / "log.jsonl").open("a") as file:
    file.write('{"step": 3, "lo')
  assert [line["step"] for line in read_log(tmp_path)] == [1, 2]


BROKEN = (
  b'{"step": 30, "lo',
  b"\0\0\0\0",
  b'{"step": 30, "loss": "\xff\xfe"}',
  b"[1, 2]",
  b'{"loss": 0.5}',
  b'{"step": 30, "loss": NaN}',
  b'{"step": 1' + b"0" * 5000 + b"}",
  b"[" * 100_000,
)


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_line_costs_that_line_alone(tmp_path, capsys, content):
  write(tmp_path, range(10, 70, 10))
  file = tmp_path / "log.jsonl"
  lines = file.read_bytes().splitlines()
  lines[2] = content
  file.write_bytes(b"\n".join(lines) + b"\n")
  assert [line["step"] for line in read_log(tmp_path)] == [10, 20, 40, 50, 60]
  said = capsys.readouterr().err
  assert said == f"{file}: line 3 is broken, left out.\n"
  assert file.read_bytes().splitlines() == lines, "reading changes nothing"

  write(tmp_path, [60, 70])  # a run that goes on after step 50
  said = capsys.readouterr().err
  assert said == f"{file}: line 3 is broken, moved to log.broken beside it.\n"
  assert [x["step"] for x in read_log(tmp_path)] == [10, 20, 40, 50, 60, 70]
  assert (tmp_path / "log.broken").read_bytes() == content + b"\n"
  assert capsys.readouterr().err == ""


def test_many_broken_lines_are_counted_and_none_is_lost(tmp_path, capsys):
  file = tmp_path / "log.jsonl"
  for number in range(2):
    file.write_bytes(b"".join(b"%d %d\n" % (number, i) for i in range(12)))
    assert read_log(tmp_path) == []
    assert capsys.readouterr().err == (
      f"{file}: lines 1, 2, 3, 4, 5, 6, 7, 8 and 4 more are broken, left out.\n"
    )
    write(tmp_path, [1])
    capsys.readouterr()
  kept = (tmp_path / "log.broken").read_text().splitlines()
  assert kept == [f"{number} {i}" for number in range(2) for i in range(12)]
  assert [line["step"] for line in read_log(tmp_path)] == [1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_training_stops_at_what_is_no_number(tmp_path, value):
  log = Log(tmp_path)
  log.write(10, {"loss": 1.0})
  with pytest.raises(ValueError) as caught:
    log.write(20, {"grad_norm": 1.0, "loss": jnp.asarray(value)})
  text = str(caught.value)
  assert text.startswith(f"loss became {value} between steps 11 and 20: ")
  assert "learning_rate" in text and "\n" not in text
  log.close()
  assert [line["step"] for line in read_log(tmp_path)] == [10]


def test_nothing_is_touched_before_the_first_line(tmp_path):
  Log(tmp_path / "run").close()
  assert not (tmp_path / "run").exists()
  write(tmp_path / "run", [5])
  Log(tmp_path / "run").close()
  assert len(read_log(tmp_path / "run")) == 1


def test_the_overview_names_every_array(tmp_path):
  write_overview(tmp_path, {"conv.weight": jnp.zeros((3, 4)), "b": jnp.ones(5)})
  text = (tmp_path / "parameters.txt").read_text()
  assert "conv.weight" in text and "(3, 4)" in text
  assert "Total: 17" in text
