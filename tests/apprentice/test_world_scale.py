# SPDX-License-Identifier: Apache-2.0
"""`suti judge --scale world`: what is asked, what is missing, what is shown."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from apprentice import world_scale
from suti.evaluation.benchmark.evaluate import read_scores
from suti.evaluation.judge import Judged
from suti.io.files import read_json
from tests.commands import error_of, start
from tests.evaluation.test_comparison import write_scores

SNOW = "a dog in the snow"


@pytest.fixture
def folder(tmp_path):
  """12 pictures, every other one of a prompt that the world knows."""
  folder = write_scores(tmp_path / "scores", system="ours")
  rows = [
    dataclasses.replace(row, prompt=SNOW if row.number else row.prompt)
    for row in read_scores(folder)[1]
  ]
  lines = [json.dumps(dataclasses.asdict(row)) for row in rows]
  (folder / "pictures.jsonl").write_text("\n".join(lines))
  return folder


@pytest.fixture(autouse=True)
def looked(monkeypatch):
  """A judge to which all look alike, dogs on a beach; how many it saw."""
  counts = []

  def judge(images):
    count = len(images)
    counts.append(count)
    return Judged(
      features_NF=np.zeros((count, 1), np.float32),
      identity_ND=np.tile(np.array([[0.6, 0.8]], np.float32), (count, 1)),
      answers={"class": ["dog"] * count, "place": np.array(["beach"] * count)},
    )

  monkeypatch.setattr(world_scale, "load_judge", lambda name: judge)
  return counts


def test_what_a_prompt_names_is_asked(folder):
  unknown, known = read_scores(folder)[1][:2]
  assert world_scale.asked_of(unknown) == {}
  assert world_scale.asked_of(known) == {"class": "dog", "place": "snow"}
  red = dataclasses.replace(known, prompt="a red dog in the snow")
  assert world_scale.asked_of(red)["look"] == "red"


def test_pictures_are_judged_and_stand_in_the_report(folder, tmp_path, looked):
  gone = read_scores(folder)[1][-1]
  pathlib.Path(gone.path).unlink()
  assert start("judge", folder, "--scale", "world") == 0
  table = read_json(folder / "judge-world-world_judge" / "scores.json")
  means = {name: row["mean"] for name, row in table["scores"].items()}
  assert means == pytest.approx(
    {"identity": 1.0, "questions": 0.5, "class": 1.0, "place": 0.0}
  )
  assert [table["scores"][x]["pictures"] for x in means] == [11, 5, 5, 5]
  assert table["asked"] == 12 and table["missing"] == 7
  assert table["failures"][world_scale.NO_PROMPT] == 6
  assert sum(looked) == 6 + 11  # a reference of each subject, and the pictures
  assert start("report", folder, "--out", tmp_path / "page") == 0
  source = (tmp_path / "page" / "index.html").read_text()
  assert "<h3>world</h3>" in source and '<th class="n">place</th>' in source


def test_mistakes_are_one_line(folder, capsys):
  world = ("judge", folder, "--scale", "world")
  for given in (
    ("--address", "http://localhost/v1"),
    ("--estimate",),
    ("--seed", "1"),
    ("--timeout", "5"),
    ("--price-in", "1", "--price-out", "2"),
  ):
    names = " and ".join(word for word in given if word.startswith("--"))
    line = error_of(capsys, *world, *given)
    assert f"--scale=world asks nobody: leave {names} out" in line
  for row in read_scores(folder)[1]:
    pathlib.Path(row.path).unlink()
  assert "can be judged:" in error_of(capsys, *world)
  assert "--model is missing: give its" in error_of(capsys, "judge", folder)
