# SPDX-License-Identifier: Apache-2.0
"""A method and a teacher of one file and one config each, in every stage.

`pytest -m faults` also kills a run of both in its stages. That they conform is
tested by test_methods.py and test_teachers.py.
"""

import json
import os
import shutil

import jax
import numpy as np
import pytest

from apprentice import generate
from apprentice.model import declare
from experts.farm import capacity
from suti.io.files import read_json
from suti.io.records import open_examples, read_lines, read_records
from suti.parallel.mesh import flat_mesh
from suti.pipeline.backbone import describe_backbone
from suti.plan import preflight
from suti.schema import Candidate, Score
from tests import tiny
from tests.commands import start
from tests.end_to_end import killed_run_of
from tests.extensions import found, masked_config


@pytest.fixture(autouse=True)
def _found():
  with found.extended():
    yield


@pytest.fixture(scope="module")
def config(tiny_backbone, tiny_clip, tiny_identity):
  width = tiny.IDENTITY["hidden_size"]
  config = masked_config.get_config(f"{tiny_identity},{width}").unlock()
  config.update(
    size_px=tiny.SIZE_PX,
    backbone=str(tiny_backbone),
    clip=str(tiny_clip),
    identity=str(tiny_identity),
  )
  config.train.init = str(tiny_backbone)
  return config.lock()


# Of one stage each; nothing is tuned, so that the first has no program.
PLANNED = {
  "finetune": [],
  "sample": ["experts.sample"],
  "train": ["apprentice.train"],
  "apprentice_sample": ["apprentice.sample"],
}


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
  folder = tmp_path_factory.mktemp("smallest")
  return tiny.write_backbone(folder, unet=tiny.SMALLEST_UNET)


@pytest.mark.parametrize("stage", PLANNED)
def test_a_plan_compiles_both(
  stage, smallest, tiny_clip, tiny_identity, root, tmp_path, capsys, monkeypatch
):
  """For this machine's CPU in the place of a chip, as libtpu may be absent."""
  monkeypatch.setattr(preflight, "devices", lambda _: jax.devices()[:1])
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
  file = root / "tests/extensions/masked_config.py"
  width, out = tiny.IDENTITY["hidden_size"], tmp_path / "plan.json"
  status = start(
    "plan",
    f"--config={file}:{tiny_identity},{width}",
    "--topology=v5e:1x1",
    f"--config.backbone={smallest}",
    f"--config.clip={tiny_clip}",
    f"--config.identity={tiny_identity}",
    f"--config.train.init={smallest}",
    f"--config.size_px={tiny.SIZE_PX}",
    "--config.label.source=world",
    f"--config.plan.stages=('{stage}',)",
    "--json",
    out,
  )
  assert status == 0, capsys.readouterr().err
  rows = read_json(out)["stages"]
  assert [row["stage"] for row in rows] == PLANNED[stage]
  for row in rows:
    assert row["fits"] and row["flops"] > 0 and row["argument_bytes"] > 0


def test_memory_of_an_untuned_teacher_is_that_of_sampling(config):
  backbone = describe_backbone(config.backbone)
  seen = []

  def inspect(program):
    seen.append(program)
    return 7

  bytes_at = capacity.make_bytes_at(
    config, backbone, flat_mesh(jax.devices()[:1]), inspect=inspect
  )
  tune = capacity.with_fields(config.finetune, sample_after_tuning=False)
  assert bytes_at(tune, 1) == 7
  (program,) = seen
  assert program.batch_size == config.sample.batch_size


def test_an_input_that_a_method_does_not_see_is_one_line(config):
  backbone = describe_backbone(config.backbone)
  masked = declare(backbone, name="masked", config=config.method)
  generate.check_inputs(masked, {"mask": np.ones((4, 4), bool)})
  with pytest.raises(ValueError) as caught:
    generate.check_inputs(masked, {"depth": np.ones((4, 4))})
  assert str(caught.value) == (
    "The method 'masked' does not see a depth beside pictures and text: it "
    "sees mask; leave it out."
  )


# Where the run dies: as in tests/end_to_end/test_pipeline.py.
DEATHS = (
  ("experts/label", 2),
  ("experts/finetune", 3),
  ("experts/sample", 3),
  ("experts/filter", 2),
  ("experts/pack", 2),
  ("log", 4),
  ("apprentice/sample", 4),
)


@pytest.mark.faults
def test_killed_in_each_stage_both_end_in_the_same_files(
  tmp_path_factory, tiny_clip, tiny_identity
):
  root = tmp_path_factory.mktemp("runs")
  base = tiny.write_backbone(root / "base", unet=tiny.SMALLEST_UNET)
  runs = killed_run_of.Runs(
    root,
    {"backbone": base, "clip": tiny_clip, "identity": tiny_identity},
    config=f"tests/extensions/masked_config.py:{tiny_identity},"
    f"{tiny.IDENTITY['hidden_size']}",
    fields={"label.source": "folder"},
    environment={killed_run_of.EXTENDED: "1"},
  )
  for photos in ("photos", "held_out"):
    for picture in list((root / photos).rglob("*.png")):
      shutil.copy(picture, picture.with_name(f"{picture.stem}.mask.png"))
  whole = runs.start("whole")
  assert whole.returncode == 0, whole.stderr[-4000:]
  broken = runs.start("broken", deaths=DEATHS)
  assert broken.returncode == 0, broken.stderr[-4000:]
  one, two = root / "whole", root / "broken"
  done = read_json(one / "experts/finetune/done.json")["summary"]
  assert done["experts"] == 0
  assert not list((one / "experts/finetune").glob("*.safetensors"))
  candidates = [
    candidate
    for path in sorted((one / "experts/sample").glob("*.array_record"))
    for candidate in read_records(path, Candidate)
  ]
  assert [c.number for c in candidates] == [0, 1, 2] * (len(candidates) // 3)
  assert all(c.mask is not None and c.view is not None for c in candidates)
  scores = read_lines(one / "experts/filter/scores.jsonl", Score)
  assert all("pair_identity" in score.values for score in scores)
  for name in ("experts/filter/scores.jsonl", "experts/prompts/prompts.jsonl"):
    assert (one / name).read_bytes() == (two / name).read_bytes(), name
  left, right = (
    sorted((root / "experts/sample").glob("*.array_record"))
    for root in (one, two)
  )
  for path, other in zip(left, right, strict=True):
    for a, b in zip(
      read_records(path, Candidate), read_records(other, Candidate), strict=True
    ):
      np.testing.assert_array_equal(a.image, b.image)
  for a, b in zip(
    open_examples(one / "experts/pack"),
    open_examples(two / "experts/pack"),
    strict=True,
  ):
    assert a.key == b.key
    assert len(a.demonstration_masks) == len(a.demonstrations) > 0
    for mask, other in zip(
      a.demonstration_masks, b.demonstration_masks, strict=True
    ):
      np.testing.assert_array_equal(mask, other)
  logs = [
    [
      json.loads(line)
      for line in (run / "apprentice/train/log.jsonl").read_text().splitlines()
    ]
    for run in (one, two)
  ]
  losses = [
    [
      (line["step"], line["loss"], line["loss_token"])
      for line in log
      if "loss" in line
    ]
    for log in logs
  ]
  assert losses[0] == losses[1] and losses[0]
  model = "apprentice/train/model/unet/diffusion_pytorch_model.safetensors"
  assert (one / model).read_bytes() == (two / model).read_bytes()
  assert (one / "report" / "index.html").is_file()
  assert os.listdir(one / "report" / "images")
