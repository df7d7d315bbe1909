# SPDX-License-Identifier: Apache-2.0
"""Which stages `suti run` runs, by the config; runs are tests/end_to_end's."""

import pytest

from configs import quickstart
from suti.cli import run
from suti.cli.run import benchmark_config, benchmark_steps


def test_a_benchmarks_subjects_are_labelled_as_they_can_be(tmp_path):
  config = quickstart.get_config("tiny").unlock()

  def steps():
    return [title for title, _ in benchmark_steps(benchmark_config(config))]

  assert "benchmark: labels" not in steps()
  config.label.update(source="folder", path="masks")
  assert benchmark_config(config).label.source == "world"
  assert benchmark_config(config).label.path == ""
  assert steps()[2] == "benchmark: labels"
  config.benchmark.update(source="folder", path=str(tmp_path))
  assert benchmark_config(config).label.source == "folder"
  assert "benchmark: labels" not in steps()  # no picture has a mask
  (tmp_path / "rex").mkdir()
  (tmp_path / "rex" / "0.mask.png").touch()
  assert steps()[2] == "benchmark: labels"


def test_labels_are_made_before_they_are_read():
  config = quickstart.get_config("tiny").unlock()
  assert run.steps_of(config) == run.STEPS
  config.label.update(source="world", candidates="teacher")
  stages = [stage for _, stage in run.steps_of(config)]
  assert stages.index("experts.label") < stages.index("experts.finetune")
  after = stages.index("experts.label_candidates")
  assert stages[after - 1 : after + 2] == [
    "experts.sample",
    "experts.label_candidates",
    "experts.filter",
  ]


@pytest.fixture
def started(monkeypatch):
  """Stands in for the stages: their names, in order."""
  names = []
  monkeypatch.setattr(run, "_start", lambda _, name, *rest: names.append(name))
  return names


@pytest.mark.parametrize(
  "until", [["--until", "experts.prompts"], ["--until=experts.prompts"]]
)
def test_a_run_may_end_before_its_apprentice(started, until, tmp_path, capsys):
  argv = ["--config", "configs/quickstart.py:tiny", *until]
  run.run([*argv, "--workdir", str(tmp_path)])
  assert started == ["experts.mine", "experts.prompts"]
  said = capsys.readouterr().out
  assert said.endswith(f"up to experts.prompts: {tmp_path}\n")


@pytest.mark.parametrize(
  ("until", "message"),
  [
    (["--until=report"], "--until=report: expected a stage of this config, "),
    (["--until", "experts.label"], "--until=experts.label: expected a stage"),
    (["--until"], "--until is without a stage: give one, as experts.pack."),
    (["--until", "--config.seed=1"], "--until is without a stage"),
  ],
)
def test_a_stage_that_is_none_is_refused(started, until, message, tmp_path):
  argv = ["--config", "configs/quickstart.py:tiny", "--workdir", str(tmp_path)]
  with pytest.raises(ValueError, match=f"^{message}"):
    run.run([*argv, *until])
  assert not started


def test_a_source_of_labels_that_does_not_fit_is_told_before_anything_runs():
  config = quickstart.get_config("tiny").unlock()
  config.label.candidates = "teacher"
  with pytest.raises(ValueError, match="'dreambooth' does not say where"):
    run.look_ahead(config, run.steps_of(config))


def test_what_a_late_stage_names_is_looked_for_before_anything_runs(tmp_path):
  config = quickstart.get_config("tiny").unlock()
  config.train.update(init="world_apprentice", init_base="models/other")
  with pytest.raises(ValueError, match="No model 'models/other'"):
    run.look_ahead(config, run.steps_of(config))
  config.train.init_base = ""
  config.train.examples = (str(tmp_path),)
  with pytest.raises(ValueError, match=r"has no dataset_info\.json"):
    run.look_ahead(config, run.steps_of(config))
  config.train.update(num_steps=0, warmup_steps=0)
  run.look_ahead(
    config, run.steps_of(config)
  )  # what trains nothing asks for no examples
  config.benchmark.nouns = ("dog", "unicorn")
  with pytest.raises(ValueError, match="nouns has 'unicorn': expected"):
    run.look_ahead(config, run.steps_of(config))
  config.benchmark.nouns = ("dog",)
  with config.method.ignore_type():
    config.method.encoder = "models/clip"
  with pytest.raises(ValueError, match="No model 'models/clip'"):
    run.look_ahead(config, run.steps_of(config))
