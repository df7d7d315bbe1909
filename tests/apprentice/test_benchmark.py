# SPDX-License-Identifier: Apache-2.0
"""`suti evaluate --model`: sampling onto a benchmark, and SubjectWorld's."""

import json
import types

import numpy as np
import pytest

from apprentice import benchmark
from suti.evaluation.benchmark.subjects import read_folder
from suti.images import save_png
from suti.io.files import read_json, write_json
from tests.commands import error_of
from tests.evaluation.benchmark_folders import picture, write_subjects

# An apprentice of which only the sampling defaults are read.
MODEL = types.SimpleNamespace(sampling={"num_demonstrations": 2})


@pytest.fixture
def data(tmp_path):
  write_subjects(tmp_path / "subjects")
  return read_folder(tmp_path / "subjects")


@pytest.fixture
def calls(monkeypatch, tmp_path):
  """Sampling that costs nothing: images follow from the seed."""
  made = []

  def generate(apprentice, images, prompt, *, captions, num, seed, **_):
    made.append((prompt, len(images), captions[0], seed))
    return [picture(seed % 1000 + k) for k in range(num)]

  monkeypatch.setattr(benchmark, "generate", generate)
  monkeypatch.setattr(benchmark, "load_apprentice", lambda model: MODEL)
  (tmp_path / "model").mkdir()
  write_json(tmp_path / "model" / "apprentice.json", {})
  return made


def sample(tmp_path, data, **changes):
  options = {"num": 2, "seed": 0} | changes
  return benchmark.sample(tmp_path / "model", data, tmp_path / "out", **options)


def test_every_prompt_is_sampled_once_and_resumes(tmp_path, data, calls):
  assert sample(tmp_path, data) == 2
  assert [call[:3] for call in calls] == [
    ("a dog in the snow", 2, "a dog"),
    ("a red dog", 2, "a dog"),
    ("a teapot in the snow", 2, "a teapot"),
    ("a red teapot", 2, "a teapot"),
  ]
  assert len({call[3] for call in calls}) == 4
  first = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.png")}
  assert len(first) == 8
  (tmp_path / "out" / "dog" / "01" / "1.png").unlink()
  sample(tmp_path, data)
  assert [call[0] for call in calls[4:]] == ["a red dog"]
  assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.png")} == first


def test_another_model_or_setting_is_refused(tmp_path, data, calls):
  sample(tmp_path, data)
  with pytest.raises(ValueError, match="holds images of seed 0, not 1"):
    sample(tmp_path, data, seed=1)
  write_json(tmp_path / "model" / "apprentice.json", {"other": 1})
  with pytest.raises(ValueError, match="holds images of fingerprint"):
    sample(tmp_path, data)
  assert read_json(tmp_path / "out" / "sampling.json")["demonstrations"] == 2


def test_images_of_other_prompts_are_not_taken_for_these(tmp_path, calls):
  """Files have the numbers of prompts: a new first prompt would shift them."""
  prompts = tmp_path / "subjects" / "prompts.txt"
  write_subjects(tmp_path / "subjects")
  sample(tmp_path, read_folder(tmp_path / "subjects"))
  prompts.write_text("a {} on the moon\n" + prompts.read_text())
  with pytest.raises(ValueError, match="holds images of prompts and photograp"):
    sample(tmp_path, read_folder(tmp_path / "subjects"))


@pytest.mark.parametrize("name", ["out", "world"])
def test_other_files_are_not_replaced(tmp_path, data, calls, name):
  (tmp_path / name).mkdir()
  (tmp_path / name / "mine.txt").write_text("kept")
  with pytest.raises(ValueError, match=rf"{name} holds other files: give an"):
    if name == "out":
      sample(tmp_path, data)
    else:
      benchmark.write_world(tmp_path / name)
  assert (tmp_path / name / "mine.txt").read_text() == "kept"


def test_a_benchmark_without_prompts_is_refused(tmp_path, calls):
  save_png(tmp_path / "bare" / "dog" / "0.png", picture(1))
  with pytest.raises(ValueError, match="has no prompts of dog"):
    sample(tmp_path, read_folder(tmp_path / "bare"))


def test_the_world_is_a_benchmarks_folder(tmp_path, monkeypatch):
  from suti.world import dataset

  def render_shots(shots, *, size_px):
    rows = [picture(shot.seed % 1000, size_px=size_px) for shot in shots]
    return {"image": np.stack(rows)}

  monkeypatch.setattr(dataset, "render_shots", render_shots)
  folder = benchmark.write_world(tmp_path / "world")
  found = read_folder(folder)
  assert found.name.startswith("subjectworld-") and len(found.subjects) == 30
  assert found.images_per_prompt == 4
  for subject in found.subjects.values():
    assert len(subject.prompts) == 25 and len(subject.references) == 5
    assert subject.noun in subject.prompts[0]
  stamp = (folder / "benchmark.json").stat().st_mtime_ns
  benchmark.write_world(folder)
  assert (folder / "benchmark.json").stat().st_mtime_ns == stamp
  two = benchmark.world_subjects(["dog", "teapot"], images_each=3)
  assert [len(pictures) for pictures in two] == [3, 3]


def test_the_filter_of_a_run_is_known_as_a_judge(tmp_path, monkeypatch):
  model = tmp_path / "run" / "apprentice" / "train" / "model"
  write_json(model / "apprentice.json", {})
  assert benchmark.judges_of(model) == {}
  write_json(
    tmp_path / "run" / "experts" / "filter" / "done.json",
    {"inputs": {"config.clip": "abc", "experts/mine": "x"}},
  )
  assert benchmark.judges_of(model) == {
    "abc": "mined and filtered the training data"
  }
  monkeypatch.chdir(model.parent)
  assert benchmark.judges_of("model") == benchmark.judges_of(model)


def test_a_benchmark_json_that_is_none_is_one_line(tmp_path, capsys):
  write_subjects(tmp_path / "subjects")
  (tmp_path / "subjects" / "benchmark.json").write_text(json.dumps([1]))
  line = error_of(
    capsys,
    *("evaluate", "--model", "world_apprentice"),
    *("--benchmark", tmp_path / "subjects", "--out", tmp_path / "s"),
  )
  assert "benchmark.json holds no JSON object" in line
