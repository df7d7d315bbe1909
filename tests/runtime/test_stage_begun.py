# SPDX-License-Identifier: Apache-2.0
"""What a stage that failed before it wrote anything leaves behind: nothing."""

import functools

import pytest

from suti.config import options
from suti.io import files
from suti.io.paths import path_of
from suti.runtime import locks, stage

CONFIG = """
from ml_collections import ConfigDict
def get_config(): return ConfigDict({"mine": {"num_pages": 10}})
"""


@pytest.fixture
def start(monkeypatch, tmp_path, capsys):
  """Runs a stage's command: (run, *overrides) -> exit code, lines of stderr."""
  monkeypatch.setattr(options, "check", lambda config: None)
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
  (tmp_path / "config.py").write_text(CONFIG)
  (tmp_path / "w").mkdir()
  (tmp_path / "w" / "damaged.json").write_text("{")  # the user's mistake

  def start(run, *overrides, workdir=tmp_path / "w"):
    args = [f"--config={tmp_path}/config.py", f"--workdir={workdir}"]
    with pytest.raises(SystemExit) as caught:
      stage.main("experts.mine", run, argv=[*args, *overrides])
    return caught.value.code, capsys.readouterr().err.splitlines()

  return start


def test_a_mistake_before_anything_is_written_pins_no_config(start, tmp_path):
  """The remedy is another config, with the same workdir."""
  folder = tmp_path / "w" / "experts" / "mine"

  def run(config, workdir, *, leaves=()):
    stage.stage(workdir, "experts/mine", {"mine": config.mine})
    for name in leaves:
      (folder / name).write_bytes(b"")
    if config.mine.num_pages == 10:
      files.read_json(workdir / "damaged.json")

  assert start(run)[0] == 2
  assert start(run, "--config.mine.num_pages=11")[0] == 0
  # Another config than that of a command that went well is refused, again
  # and again.
  for _ in range(2):
    code, (line,) = start(run)
    assert code == 2 and "was 11 when experts/mine was run" in line

  # What was written, was written with its config.
  (folder / "stage.json").unlink()
  leave = functools.partial(run, leaves=["part-00000.json"])
  assert start(leave)[0] == 2
  code, (line,) = start(run, "--config.mine.num_pages=11")
  assert code == 2 and "was 10 when experts/mine was run" in line


def test_a_mistake_of_one_worker_leaves_the_config_of_the_others(
  start, tmp_path, monkeypatch
):
  monkeypatch.setattr(stage, "main", functools.partial(stage.main, how="each"))

  def run(config, workdir):
    stage.stage(workdir, "experts/mine", {"mine": config.mine})
    files.read_json(workdir / "damaged.json")

  file = tmp_path / "w" / "experts" / "mine" / "stage.json"
  with locks.lock(tmp_path / "w", shared=True):
    assert start(run)[0] == 2
    assert file.exists()
  assert start(run)[0] == 2
  assert not file.exists()


def test_in_a_bucket_workers_do_not_know_of_each_other(
  start, buckets, monkeypatch
):
  def run(config, workdir):
    stage.stage(workdir, "experts/mine", {"mine": config.mine})
    (workdir / "damaged.json").write_text("{")
    files.read_json(workdir / "damaged.json")

  file = path_of("gs://bucket/w/experts/mine/stage.json")
  assert start(run, workdir="gs://bucket/w")[0] == 2
  assert not file.exists()
  monkeypatch.setattr(stage, "main", functools.partial(stage.main, how="each"))
  assert start(run, workdir="gs://bucket/w")[0] == 2
  assert file.exists()
