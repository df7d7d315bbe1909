# SPDX-License-Identifier: Apache-2.0
"""All stages on tiny models, in processes of their own; then killed in each.

The pictures are a folder of folders: SubjectWorld as a source is what the
quickstart's `:tiny` runs in CI.
"""

import json
import pathlib

import numpy as np
import pytest

from suti.evaluation.scores import load_scorer
from suti.io.records import open_examples, read_lines, read_records
from suti.schema import Candidate, Cluster, Score
from tests import tiny
from tests.apprentice import inputs
from tests.end_to_end.killed_run_of import SUBJECTS, Runs

# Where each run dies: a folder of the workdir, and before which of its files.
# The first file of a stage is stage.json, the last done.json.
DEATHS = (
  ("experts/mine", 2),
  ("experts/prompts", 2),
  ("experts/finetune", 3),
  ("experts/sample", 3),
  ("experts/filter", 2),
  ("experts/pack", 2),
  ("log", 4),  # of apprentice/train; the checkpoint before is of step 2
  ("benchmark/experts/sample", 2),
  ("apprentice/sample", 4),
  ("apprentice/evaluate", 3),
  ("report", 1),
)


@pytest.fixture(scope="module")
def tiny_backbone(tmp_path_factory):
  folder = tmp_path_factory.mktemp("smallest")
  return tiny.write_backbone(folder, unet=tiny.SMALLEST_UNET)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_backbone, tiny_clip, tiny_identity):
  models = {
    "backbone": tiny_backbone,
    "clip": tiny_clip,
    "identity": tiny_identity,
  }
  return Runs(tmp_path_factory.mktemp("runs"), models)


@pytest.fixture(scope="module")
def whole(runs):
  """A run that nothing disturbed: its workdir and what it printed."""
  result = runs.start("whole")
  assert result.returncode == 0, result.stderr[-4000:]
  return runs.root / "whole", result


def test_it_ends_in_a_report_and_a_line_a_stage(whole):
  workdir, result = whole
  assert (workdir / "report" / "index.html").is_file()
  for name in (
    "experts/mine: pages 4, clusters 4",
    "experts/prompts: ",
    "experts/finetune: ",
    "experts/sample: ",
    "experts/filter: ",
    "experts/pack: ",
    "apprentice/train: ",
    "apprentice/sample: ",
    "apprentice/evaluate: ",
    "Done in ",
  ):
    assert name in result.stdout, result.stdout
  assert "Traceback" not in result.stderr


def test_what_passes_between_stages_fits_together(whole):
  workdir, _ = whole
  experts = workdir / "experts"
  clusters = {
    c.key: c
    for c in read_records(experts / "mine" / "clusters.array_record", Cluster)
  }
  assert {c.source for c in clusters.values()} == set(SUBJECTS)
  candidates = [
    candidate
    for path in sorted((experts / "sample").glob("*.array_record"))
    for candidate in read_records(path, Candidate)
  ]
  scores = read_lines(experts / "filter" / "scores.jsonl", Score)
  assert [s.candidate for s in scores] == [c.key for c in candidates]
  for score in scores:
    assert score.cluster in clusters
    assert set(score.values) == {"clip_t", "delta_clip", "identity", "nearest"}
    # The best demonstration's cosine lies in [-1, 1].
    best = score.values["clip_t"] - score.values["delta_clip"]
    assert -1 <= best <= 1
  kept = {score.candidate for score in scores if score.kept}
  examples = {e.key: e for e in open_examples(experts / "pack")}
  assert set(examples) == kept != set()
  for key, example in examples.items():
    candidate = next(c for c in candidates if c.key == key)
    np.testing.assert_array_equal(example.image, candidate.image)
    assert example.captions == clusters[example.cluster].captions


def test_the_apprentice_is_compared_with_base_experts_and_real(
  whole, tiny_clip, tiny_identity
):
  workdir, _ = whole
  metrics = json.loads((workdir / "report" / "metrics.json").read_text())
  systems = metrics["systems"]
  assert {"apprentice", "base", "experts", "real"} <= set(systems)
  # 2 prompts x 1 picture of each of the folder's subjects.
  assert systems["apprentice"]["images"] == systems["base"]["images"]
  assert systems["experts"]["images"] == 2
  benchmark = workdir / "benchmark" / "experts"
  mine = benchmark / "mine" / "clusters.array_record"
  real = {c.key: c.images for c in read_records(mine, Cluster)}
  sampled = workdir / "apprentice" / "sample"
  encode = load_scorer(clip=tiny_clip, identity=tiny_identity).identity
  for name, drawn in {
    "apprentice": inputs.drawn_by(sampled.glob("apprentice-*.array_record")),
    "base": inputs.drawn_by(sampled.glob("base-*.array_record")),
    "experts": inputs.drawn_by((benchmark / "sample").glob("*.array_record")),
    "real": None,
  }.items():
    by_hand = inputs.mean_identity(encode, real, drawn)
    found = systems[name]["identity"]["mean"]
    assert found == pytest.approx(by_hand, abs=1e-5), name


def test_a_finished_run_returns_immediately(runs, whole):
  workdir, _ = whole
  model = workdir / "apprentice" / "train" / "model"
  before = {p: p.stat().st_mtime_ns for p in sorted(model.rglob("*"))}
  result = runs.start("whole")
  assert result.returncode == 0, result.stderr
  assert result.stdout.count("finished before") == 13
  assert before == {p: p.stat().st_mtime_ns for p in sorted(model.rglob("*"))}


def test_another_config_in_the_same_workdir_is_one_line(runs, whole):
  workdir, _ = whole
  result = runs.start("whole", "--config.finetune.num_steps=3")
  assert result.returncode == 2
  assert result.stderr.strip().splitlines()[-1] == (
    "Error: config.finetune.num_steps was 2 when experts/finetune was run in "
    f"{workdir / 'experts/finetune'}, and is 3 now: give another --workdir, or "
    f"delete {workdir / 'experts/finetune'} to run it anew."
  )


@pytest.mark.processes
def test_killed_in_each_stage_it_ends_in_the_same_files(runs, whole):
  result = runs.start("broken", deaths=DEATHS)
  assert result.returncode == 0, result.stderr[-4000:]
  one, two = runs.root / "whole", runs.root / "broken"
  # TFDS numbers nothing and dates nothing; Orbax dates its checkpoints, and
  # workers, whose names are of processes, write when they were at what.
  names = {
    path.relative_to(root).as_posix()
    for root in (one, two)
    for path in root.rglob("*")
    if path.is_file() and not {"checkpoints", "workers"} & set(path.parts)
  }
  compared = set()
  for name in sorted(names):
    assert (one / name).is_file() and (two / name).is_file(), name
    kind = pathlib.Path(name).suffix
    if kind == ".array_record" and not name.startswith("experts/pack"):
      kept = [Cluster if "/mine/" in name else Candidate] * 2
      pairs = zip(
        read_records(one / name, kept[0]),
        read_records(two / name, kept[1]),
        strict=True,
      )
      for a, b in pairs:
        assert_equal(vars(a), vars(b), name)
    elif name.endswith("log.jsonl"):
      assert losses(one / name) == losses(two / name)
    elif kind in (".safetensors", ".png") or name.endswith(
      ("scores.jsonl", "prompts.jsonl", "stage.json", "apprentice.json")
    ):
      assert (one / name).read_bytes() == (two / name).read_bytes(), name
    else:
      continue
    compared.add(name)
  a, b = (
    open_examples(one / "experts/pack"),
    open_examples(two / "experts/pack"),
  )
  for left, right in zip(a, b, strict=True):
    assert_equal(vars(left), vars(right), "experts/pack")
  assert timeless(one) == timeless(two)
  assert {
    "experts/mine/clusters.array_record",
    "experts/finetune/wave-00000.safetensors",
    "experts/sample/wave-00001.array_record",
    "experts/filter/scores.jsonl",
    "apprentice/train/log.jsonl",
    "apprentice/train/model/unet/diffusion_pytorch_model.safetensors",
    "apprentice/sample/apprentice-00000.array_record",
  } <= compared


def assert_equal(one: dict, two: dict, name: str) -> None:
  assert one.keys() == two.keys()
  for key, value in one.items():
    np.testing.assert_array_equal(value, two[key], err_msg=f"{name}: {key}")


def losses(path: pathlib.Path) -> list[tuple[int, float]]:
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert lines
  return [
    (line["step"], line.get("loss", line.get("validation_loss")))
    for line in lines
  ]


def timeless(workdir: pathlib.Path) -> dict:
  """The metrics without what a clock measured."""
  path = workdir / "apprentice" / "evaluate" / "metrics.json"
  metrics = json.loads(path.read_text())
  return {k: v for k, v in metrics.items() if k not in ("times", "speedup")}
