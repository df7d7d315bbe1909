# SPDX-License-Identifier: Apache-2.0
"""`suti study`: which runs it makes, how it resumes, what it refuses."""

import pathlib

import pytest

from configs.studies import guidance
from suti import cli
from suti.cli import run as run_command
from suti.evaluation.findings import METRICS
from suti.io.files import read_json, write_json

FILE = "configs/studies/guidance.py:tiny"


@pytest.fixture
def runs(monkeypatch):
  """Stands in for the stages, which tests/end_to_end runs: writes metrics."""
  made = []

  def run_stages(config, workdir, *, steps):
    if (workdir / METRICS).exists():
      return  # of a study that goes on
    assert [name for _, name in steps] == ["apprentice.train"]
    made.append((workdir, config))
    guided = config.apprentice_sample.guidance
    write_json(
      workdir / METRICS,
      {
        "systems": {"apprentice": {"images": 2}},
        "per_subject": {
          f"{i:012x}": {"apprentice": {"identity": 0.1 * guided + 0.01 * i}}
          for i in range(3)
        },
      },
    )

  monkeypatch.setattr(run_command, "run_stages", run_stages)
  return made


def start(*argv) -> int:
  with pytest.raises(SystemExit) as exited:
    cli.main(["study", *map(str, argv)])
  return exited.value.code


def test_each_variant_and_seed_is_a_run_of_its_own(runs, tmp_path, capsys):
  assert not start("--config", FILE, "--workdir", tmp_path)
  study = guidance.get_config("tiny")
  assert [w.relative_to(tmp_path) for w, _ in runs] == [
    pathlib.Path(name) / f"seed-{seed}"
    for seed in (0, 1)
    for name in study.order
  ]
  of = {str(w.relative_to(tmp_path)): config for w, config in runs}
  assert of["joint_5/seed-1"].apprentice_sample.guidance == 5.0
  assert of["joint_5/seed-1"].seed == 1
  assert of["two_5_2/seed-0"].apprentice_sample.guidance_mode == "two"
  found = read_json(tmp_path / "findings.json")
  assert found["command"].startswith("suti study --config configs/studies/")
  means = [row["measures"]["identity"]["mean"] for row in found["rows"]]
  assert means[:3] == pytest.approx([0.11, 0.21, 0.31])
  assert (tmp_path / "page/index.html").is_file()
  assert f"Done: {len(runs)} runs." in capsys.readouterr().out


def test_a_page_is_there_from_the_first_run_on(runs, tmp_path, monkeypatch):
  stand_in, pages = run_command.run_stages, []

  def read_before(*args, **kwargs):
    if runs:
      html = (tmp_path / "page/index.html").read_text()
      pages.append((read_json(tmp_path / "findings.json"), html))
    stand_in(*args, **kwargs)

  monkeypatch.setattr(run_command, "run_stages", read_before)
  assert not start("--config", FILE, "--workdir", tmp_path)
  num = len(guidance.get_config("tiny").order)
  found, htmls = zip(*pages, strict=True)
  assert [(f["runs_left"], f["seeds"], len(f["rows"])) for f in found] == [
    # Rows of the first seed, until the second is whole, too.
    (2 * num - done, [0], min(done, num))
    for done in range(1, 2 * num)
  ]
  assert f"Not finished: {2 * num - 1} more runs to come." in htmls[0]
  assert "Not finished: 1 more run to come." in htmls[-1]
  # One row alone differs from none.
  assert ["Differences to" in html for html in htmls[:2]] == [False, True]
  # The third is the study's own reference.
  assert [(f["reference"], f["awaited"]) for f in found[:3]] == [
    ("joint, 1", "joint, 3"),
    ("joint, 1", "joint, 3"),
    ("joint, 3", ""),
  ]
  assert ["Until “joint, 3” is there" in html for html in htmls[1:3]] == [
    True,
    False,
  ]
  last = read_json(tmp_path / "findings.json")
  assert (last["runs_left"], last["seeds"]) == (0, [0, 1])
  assert "Not finished" not in (tmp_path / "page/index.html").read_text()


def test_a_study_that_goes_on_keeps_its_rows(runs, tmp_path, monkeypatch):
  argv = ("--config", FILE, "--workdir", tmp_path, "--config.seeds=(0,)")
  assert not start(*argv)
  num = len(runs)
  (tmp_path / "joint_8/seed-0" / METRICS).unlink()
  stand_in, rows = run_command.run_stages, []

  def read_after(*args, **kwargs):
    stand_in(*args, **kwargs)
    rows.append(len(read_json(tmp_path / "findings.json")["rows"]))

  monkeypatch.setattr(run_command, "run_stages", read_after)
  assert not start(*argv)
  assert rows == [num] * num and len(runs) == num + 1


def test_a_page_in_the_way_of_other_files_is_refused(runs, tmp_path, capsys):
  (tmp_path / "page").mkdir()
  (tmp_path / "page/notes.txt").touch()
  assert start("--config", FILE, "--workdir", tmp_path) == 2
  said = capsys.readouterr().err
  assert "holds other files than those of a page, such as notes.txt" in said
  assert not runs


def test_several_studies_are_one_page(runs, tmp_path):
  for name in ("a", "b"):
    start("--config", FILE, "--workdir", tmp_path / name, "--config.seeds=(0,)")
  out = tmp_path / "page"
  assert not start("--page", tmp_path / "a", tmp_path / "b", "--out", out)
  assert (out / "index.html").read_text().count("<h2>Guidance</h2>") == 2


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      ["--config", "configs/quickstart.py:tiny"],
      "Error: --config has no 'run': `suti study` takes a file of "
      "configs/studies; `suti run` takes other configs.",
    ),
    (
      ["--config", FILE, "--config.run.benchmark.num_subjects=0"],
      "Error: Variant 'joint_1': config.benchmark.num_subjects=0: expected",
    ),
    (
      ["--config", "configs/studies/supervision.py:tiny"],
      "Error: Variant 'unfiltered': runs/teachers/experts/pack has no "
      "dataset_info.json: give the folder that experts.pack wrote, or run",
    ),
    (
      ["--config", FILE, "--config.seeds=()"],
      "Error: config.seeds=(): expected one or more, each once, as (0, 1).",
    ),
    (
      ["--config", FILE, "--config.measures=('identity','id')"],
      "Error: config.measures has 'id': expected some of retrieval, ",
    ),
    (
      ["--config", FILE, "--config.reference=joint"],
      "Error: config.reference='joint': expected the label of a row, one of ",
    ),
    (["--page", "nowhere", "--out", "page"], "Error: nowhere has no findings"),
  ],
)
def test_mistakes_are_one_line(runs, argv, message, tmp_path, capsys):
  if "--page" not in argv:
    argv = [*argv, "--workdir", tmp_path]
  assert start(*argv) == 2
  said = capsys.readouterr().err.strip()
  assert said.startswith(message), said
  assert "\n" not in said
  assert not runs
