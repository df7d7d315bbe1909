# SPDX-License-Identifier: Apache-2.0
"""A stage as a command: flags, mistakes in one line, folders, progress."""

import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from suti.config import flags, options
from suti.io import files
from suti.io.paths import path_of
from suti.io.processes import this_process
from suti.runtime import locks, stage

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg="plain"):
  return ConfigDict({"arg": arg, "seed": 0,
    "mine": {"num_pages": 10, "rate": 0.5, "live": True, "skills": ("a", "b")}})
"""


@pytest.fixture
def config_path(tmp_path):
  path = tmp_path / "config.py"
  path.write_text(CONFIG)
  return str(path)


@pytest.fixture
def start(monkeypatch, tmp_path, capsys):
  """Runs `main` in this process: (run, *args) -> exit code, stderr lines."""
  monkeypatch.setattr(options, "check", lambda config: None)
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")

  def start(run, *args):
    with pytest.raises(SystemExit) as caught:
      stage.main("experts.mine", run, argv=args)
    return caught.value.code, capsys.readouterr().err.splitlines()

  return start


def forbidden(config, workdir):
  raise AssertionError("must not run")


# --- Flags -------------------------------------------------------------------


def test_config_workdir_and_overrides_reach_the_stage(
  start, config_path, tmp_path
):
  seen = {}

  def run(config, workdir):
    seen.update(config=config.to_dict(), workdir=workdir)
    with pytest.raises(AttributeError):
      config.mine.num_page = 3  # Locked: no new fields.

  workdir = tmp_path / "runs" / "one"
  code, err = start(
    run,
    "--config",
    f"{config_path}:tiny",
    f"--workdir={workdir}",
    "--config.mine.num_pages=3",
    "--config.mine.rate",
    "2",
    "--config.mine.live=false",
    "--config.mine.skills=('c',)",
  )
  assert (code, err) == (0, [])
  assert seen["workdir"] == workdir
  assert isinstance(seen["workdir"], Path)
  assert seen["config"] == {
    "arg": "tiny",
    "seed": 0,
    "mine": {"num_pages": 3, "rate": 2.0, "live": False, "skills": ("c",)},
  }


def test_a_bucket_that_cannot_be_used_is_one_line(start, config_path, buckets):
  def error_of(workdir):
    code, err = start(forbidden, "--config", config_path, "--workdir", workdir)
    assert (code, len(err)) == (2, 1)
    return err[0]

  assert "there is no bucket other: make it" in error_of("gs://other/run")
  assert "is a whole bucket: give a folder in" in error_of("gs://bucket")
  buckets.refuse = lambda method, path: 403
  assert "is refused (Forbidden" in error_of("gs://bucket/run")
  buckets.let()
  files.write_json(
    path_of("gs://bucket/run/.lock/workdir.1"),
    {"worker": "far-1-a", "expires": time.time() + 60},
  )
  assert "in use by another run (process far-1)" in error_of("gs://bucket/run")


@pytest.mark.parametrize(
  ("args", "words"),
  [
    ([], "--config is missing"),
    (["--config", "CONFIG"], "--workdir is missing"),
    (
      ["--config", "CONFIG", "--workdir", "s3://bucket/run"],
      "--workdir=s3://bucket/run is no folder: give one on a local disk or",
    ),
    (
      ["--config", "CONFIG", "--config.mine.num_page=3"],
      '--config.mine.num_page: CONFIG has no such field. Did you mean "num_pag',
    ),
    (
      ["--config", "CONFIG", "--config.mime.num_pages", "3"],
      '--config.mime.num_pages: CONFIG has no such field. Did you mean "mine"',
    ),
    (["--config=CONFIG", "--config.zebra=3"], "--config.zebra: CONFIG has no"),
    (
      ["--config=CONFIG", "--config.mine.num_pages=many"],
      "--config.mine.num_pages=many: a whole number is expected",
    ),
    (
      ["--config=CONFIG", "--config.mine.rate=much"],
      "--config.mine.rate=much: a number is expected",
    ),
    (["--config=CONFIG", "--config.mine=3"], "--config.mine=3: "),
    (["--config=CONFIG", "--wrkdir=x"], "Did you mean: workdir"),
    (["--config=CONFIG", "--workdir=x", "more"], "Unexpected argument 'more'"),
    (["--config=CONFIG", "--workdir"], "--workdir"),
    (["--config=none.py", "--workdir=x"], "--config=none.py cannot be read"),
    (["--config=none.py", "--config.seed=1"], "--config=none.py cannot be"),
  ],
)
def test_mistakes_are_one_line_and_code_2(start, config_path, args, words):
  args = [arg.replace("CONFIG", config_path) for arg in args]
  code, err = start(forbidden, *args)
  assert code == 2
  assert len(err) == 1
  assert err[0].startswith("Error: ")
  assert words.replace("CONFIG", config_path) in err[0]


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("def get_config(): return 1 / 0", "failed: division by zero"),
    ("def get_config(: pass", "failed: "),
    ("def get_config(): raise ValueError('no: that')", "ValueError: no: that"),
    ("import no_such_module", "failed: No module named 'no_such_module'"),
    ("x = 1", "failed: "),
  ],
)
def test_a_config_that_fails_is_one_line(start, tmp_path, text, words):
  path = tmp_path / "bad.py"
  path.write_text(text)
  code, err = start(forbidden, f"--config={path}", f"--workdir={tmp_path}")
  assert (code, len(err)) == (2, 1)
  assert str(path) in err[0] and words in err[0]


def test_help_lists_the_flags(capsys):
  with pytest.raises(SystemExit) as caught:
    stage.main("experts.mine", forbidden, argv=["--help"])
  assert caught.value.code == 0
  out = capsys.readouterr().out
  assert "python -m experts.mine --config FILE" in out
  assert "--workdir DIR" in out
  assert "it is run: read one that is not yours first" in out


# --- What goes wrong later ---------------------------------------------------


def good(config_path, tmp_path):
  return (f"--config={config_path}", f"--workdir={tmp_path / 'w'}")


def raising(error):
  def run(config, workdir):
    raise error

  return run


def guarded(function, capsys):
  return stage.guard(function), capsys.readouterr().err.splitlines()


def test_our_value_errors_are_one_line(capsys, tmp_path):
  code, err = guarded(lambda: files.read_json(_damaged(tmp_path)), capsys)
  assert code == 2
  assert len(err) == 1
  assert "is not a JSON file" in err[0]


def _damaged(tmp_path):
  path = tmp_path / "done.json"
  path.write_text("{")
  return path


def test_errors_of_libraries_keep_their_traceback(capsys, monkeypatch):
  def wrong():
    json.loads("{")  # A ValueError, but of the standard library.

  with pytest.raises(ValueError):
    stage.guard(wrong)
  with pytest.raises(KeyError):
    stage.guard(lambda: {}["x"])
  monkeypatch.setenv("SUTI_TRACEBACK", "1")
  with pytest.raises(ValueError):
    stage.guard(lambda: flags.parse([]))


def test_a_full_disk_is_one_line(start, config_path, tmp_path):
  for error in (
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("close() failed: No space left on device; writing x"),
  ):
    code, err = start(raising(error), *good(config_path, tmp_path))
    assert (code, len(err)) == (2, 1)
    assert "disk is full" in err[0] and "goes on" in err[0]


def test_a_full_memory_is_one_line(start, config_path, tmp_path):
  for error in (
    MemoryError(),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 48 bytes."),
  ):
    code, err = start(raising(error), *good(config_path, tmp_path))
    assert (code, len(err)) == (2, 1)
    assert "memory is full: use smaller pictures" in err[0]


def test_a_forbidden_folder_is_one_line(start, config_path, tmp_path):
  error = PermissionError(errno.EACCES, "Permission denied", "/some/where")
  code, err = start(raising(error), *good(config_path, tmp_path))
  assert (code, len(err)) == (2, 1)
  assert "/some/where" in err[0]


# A shell starts what it puts in the background deaf to Ctrl-C, and its children
# inherit that.
_SLEEP = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from suti.config import options
from suti.runtime import stage
options.check = lambda config: None
def run(config, workdir):
  with stage.progress(3, "mine") as bar:
    bar.update()
    print("running", flush=True)
    time.sleep(60)
stage.main("experts.mine", run)
"""


@pytest.fixture
def sleeper(config_path, tmp_path, root):
  """A command that has its workdir and waits."""
  process = subprocess.Popen(
    [sys.executable, "-c", _SLEEP, *good(config_path, tmp_path)],
    cwd=root,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "running\n"
  yield process
  process.kill()
  process.communicate()


def test_ctrl_c_prints_how_to_resume(sleeper):
  sleeper.send_signal(signal.SIGINT)
  # A guard against hanging, not a bar.
  _, err = sleeper.communicate(timeout=60)
  assert sleeper.returncode == 130
  assert "Traceback" not in err
  assert err.splitlines()[-1].startswith("Stopped. Start the same command")


def test_a_workdir_in_use_is_one_line(sleeper, start, config_path, tmp_path):
  code, err = start(forbidden, *good(config_path, tmp_path))
  assert (code, len(err)) == (2, 1)
  assert f"in use by another run (process {sleeper.pid})" in err[0]


def test_a_command_clears_away_what_a_killed_one_left(
  start, config_path, tmp_path
):
  part = tmp_path / "w" / "experts" / ".clusters.array_record.h-77.suti-part"
  part.parent.mkdir(parents=True)
  part.write_bytes(b"half")
  code, _ = start(lambda config, workdir: None, *good(config_path, tmp_path))
  assert code == 0
  assert not part.exists()


# --- A stage's folder --------------------------------------------------------

MINE = {"mine": ConfigDict({"num_pages": 10, "skills": ("a", "b")}), "seed": 0}


def test_a_finished_stage_returns_immediately(tmp_path, capsys):
  first = stage.stage(tmp_path, "experts/mine", MINE)
  assert first.done is None
  assert first.folder == tmp_path / "experts" / "mine"
  summary = first.finish({"clusters": 3, "purity": 0.981234, "hist": [1, 2]})
  assert summary == {"clusters": 3, "purity": 0.981234, "hist": [1, 2]}
  line = capsys.readouterr().out
  assert re.fullmatch(
    r"experts/mine: clusters 3, purity 0\.9812 \(\d+\.\d s\)\n", line
  )
  done = files.read_json(first.folder / "done.json")
  assert done["summary"] == summary
  assert done["config"]["mine"] == {"num_pages": 10, "skills": ["a", "b"]}
  assert done["seconds"] >= 0
  second = stage.stage(tmp_path, "experts/mine", MINE)
  assert second.done == summary
  assert "finished before" in capsys.readouterr().out


@pytest.mark.parametrize("finished", [False, True])
def test_another_config_is_refused_even_half_way(tmp_path, finished):
  first = stage.stage(tmp_path, "experts/mine", MINE)
  if finished:
    first.finish({})
  changed = {"mine": ConfigDict({"num_pages": 99, "skills": ("a", "b")})}
  with pytest.raises(ValueError) as caught:
    stage.stage(tmp_path, "experts/mine", MINE | changed)
  assert str(caught.value) == (
    "config.mine.num_pages was 10 when experts/mine was run in"
    f" {first.folder}, and is 99 now: give another --workdir, or delete"
    f" {first.folder} to run it anew."
  )
  with pytest.raises(ValueError, match=r"config\.seed was 0 .* absent now"):
    stage.stage(tmp_path, "experts/mine", {"mine": MINE["mine"]})


def test_a_stage_waits_for_those_it_reads(tmp_path):
  def read():
    return stage.stage(
      tmp_path, "experts/finetune", {"seed": 0}, reads=["experts/mine"]
    )

  stage.stage(tmp_path, "experts/mine", MINE)
  with pytest.raises(ValueError, match=r"run python -m experts\.mine first"):
    read()
  stage.stage(tmp_path, "experts/mine", MINE).finish({"clusters": 3})
  assert read().done is None
  read().finish({"experts": 2})
  assert read().done == {"experts": 2}


def test_a_stage_made_of_other_input_is_refused(tmp_path):
  import shutil

  def mine(num_pages):
    folder = tmp_path / "experts" / "mine"
    shutil.rmtree(folder, ignore_errors=True)
    config = {"mine": {"num_pages": num_pages}}
    stage.stage(tmp_path, "experts/mine", config).finish({})

  def tune():
    reads = ["experts/mine"]
    return stage.stage(tmp_path, "experts/finetune", {"seed": 0}, reads=reads)

  def sample():
    reads = ["experts/finetune"]
    return stage.stage(tmp_path, "experts/sample", {"seed": 0}, reads=reads)

  mine(10)
  tune().finish({})
  sample().finish({})
  mine(10)  # The same again: nothing that was made of it is out of date.
  assert tune().done is not None
  mine(20)
  with pytest.raises(ValueError, match=r"experts/mine was run anew .* delete"):
    tune()
  shutil.rmtree(tmp_path / "experts" / "finetune")
  tune().finish({})
  # Two stages on: its own config and that of its input are as they were.
  with pytest.raises(ValueError, match="experts/finetune was run anew"):
    sample()


def test_a_stage_that_now_reads_more_says_so(tmp_path):
  for name in ("experts/mine", "experts/label"):
    stage.stage(tmp_path, name, {}).finish({})
  stage.stage(tmp_path, "experts/pack", {}, reads=["experts/mine"]).finish({})
  both = ["experts/mine", "experts/label"]
  with pytest.raises(ValueError) as caught:
    stage.stage(tmp_path, "experts/pack", {}, reads=both)
  assert str(caught.value) == (
    f"{tmp_path / 'experts/pack'} was made without experts/label: delete it to"
    " run experts/pack anew with it, or leave the config as it was."
  )


def test_a_stage_made_of_another_model_is_refused(tmp_path):
  model = tmp_path / "model"
  model.mkdir()
  (model / "model.safetensors").write_bytes(b"one")

  def tune():
    return stage.stage(
      tmp_path,
      "experts/finetune",
      {"backbone": "model"},
      folders={"config.backbone": model},
    )

  tune().finish({"experts": 2})
  (model / "README.md").write_text("a card")
  assert tune().done == {"experts": 2}
  (model / "model.safetensors").write_bytes(b"two")
  with pytest.raises(ValueError, match=r"config\.backbone names has changed"):
    tune()


# --- A stage that many processes run -----------------------------------------


def test_the_first_to_finish_writes_the_summary(tmp_path, capsys):
  one, two = (stage.stage(tmp_path, "experts/mine", MINE) for _ in range(2))
  assert one.finish({"clusters": 3}) == two.finish({"clusters": 4})
  assert two.done == {"clusters": 3}
  assert capsys.readouterr().out.count("clusters 3") == 2
  # Finished before, and once more with other thresholds: that replaces.
  again = stage.stage(tmp_path, "experts/mine", MINE)
  assert again.finish({"clusters": 5}) == {"clusters": 5}
  assert stage.stage(tmp_path, "experts/mine", MINE).done == {"clusters": 5}


_START = """
import sys
from suti.runtime import stage
try:
  stage.stage(sys.argv[1], "experts/mine", {"seed": int(sys.argv[2])})
except ValueError as error:
  print(error)
"""


def test_of_two_configs_that_start_together_one_is_refused(tmp_path, root):
  racers = [
    subprocess.Popen(
      [sys.executable, "-c", _START, str(tmp_path), str(seed)],
      cwd=root,
      stdout=subprocess.PIPE,
      text=True,
    )
    for seed in range(4)
  ]
  said = [racer.communicate()[0] for racer in racers]
  assert sorted(map(bool, said)) == [False, True, True, True]
  kept = files.read_json(tmp_path / "experts/mine/stage.json")["config"]["seed"]
  assert not said[kept]


def test_a_shared_stage_spares_what_the_living_write(
  start, config_path, tmp_path, monkeypatch
):
  here = this_process().rpartition("-")[0]
  folder = tmp_path / "w" / "experts"
  folder.mkdir(parents=True)
  for process in ("999999999", os.getppid()):
    (folder / f".a.{here}-{process}.suti-part").write_bytes(b"half")
  (folder / ".a.elsewhere-1.suti-part").write_bytes(b"half")
  monkeypatch.setattr(stage, "main", functools.partial(stage.main, how="each"))
  with locks.lock(tmp_path / "w", shared=True):
    code, _ = start(lambda *_: None, *good(config_path, tmp_path))
  assert code == 0
  left = {path.name.split(".")[2] for path in folder.iterdir()}
  assert left == {"elsewhere-1", f"{here}-{os.getppid()}"}
