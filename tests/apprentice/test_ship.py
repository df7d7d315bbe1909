# SPDX-License-Identifier: Apache-2.0
"""A shipped model's card records how it was made, and its scores."""

import shutil

import pytest

from apprentice import ship, train
from apprentice.model import load_apprentice
from suti.io.files import read_json, write_json
from tests.apprentice import inputs


@pytest.fixture
def config(tiny_backbone):
  config = inputs.make_config(tiny_backbone, num_steps=0, warmup_steps=0)
  return config.unlock()


def test_an_apprentice_beside_its_base(config, tmp_path, monkeypatch):
  monkeypatch.setattr(ship, "PRETRAINED", tmp_path / "pretrained")
  train.run(config, tmp_path)
  # What the command says of training is not asked; how to sample it is.
  config.train.update(num_steps=7, examples=("elsewhere",))
  config.apprentice_sample.guidance = 2.5
  assert ship.run(config, tmp_path) == {}
  folder = tmp_path / "pretrained" / "world_apprentice"
  assert not (folder / "text_encoder").exists()
  shipped = load_apprentice(folder)
  assert shipped.sampling["guidance"] == 2.5
  assert shipped.sampling["max_demonstrations"] == 10
  record = read_json(folder / "training.json")
  assert (record["config"]["num_steps"], record["data"]) == (0, "none")
  command = record["command"].partition("--workdir runs/apprentice ")[2]
  assert command == "'--config.train.examples=()' --config.train.num_steps=0"
  assert "It has not been trained yet" in (folder / "README.md").read_text()


def test_what_is_not_trained_is_one_line(config, tmp_path):
  with pytest.raises(ValueError, match="train is not finished: run apprentice"):
    ship.run(config, tmp_path)


def test_it_names_the_shipped_base_and_no_other(config, tmp_path, monkeypatch):
  """Trained on a base in one folder, it is stored beside its copy."""
  monkeypatch.setattr(ship, "PRETRAINED", tmp_path / "pretrained")
  train.run(config, tmp_path)
  for name in ("same", "other"):
    shutil.copytree(config.backbone, tmp_path / name)
  config.backbone = str(tmp_path / "same")
  ship.run(config, tmp_path)
  for name in ("training.json", "README.md"):
    text = (tmp_path / "pretrained" / "world_apprentice" / name).read_text()
    assert str(tmp_path) not in text, (
      "where it was trained is nobody's business"
    )
  record = tmp_path / "pretrained" / "world_apprentice" / "apprentice.json"
  assert read_json(record)["base"] == str(tmp_path / "same")
  schedule = tmp_path / "other" / "scheduler" / "scheduler_config.json"
  write_json(schedule, read_json(schedule) | {"num_train_timesteps": 500})
  config.backbone = str(tmp_path / "other")
  with pytest.raises(ValueError, match="trained with another text encoder"):
    ship.run(config, tmp_path)


def test_the_benchmarks_scores_are_on_the_card(config, tmp_path, monkeypatch):
  monkeypatch.setattr(ship, "PRETRAINED", tmp_path / "pretrained")
  train.run(config, tmp_path)

  def system(identity, clip_t):
    scores = {"identity": identity, "clip_i": 0.5, "clip_t": clip_t}
    return {n: {"mean": x} for n, x in scores.items()} | {"images": 3000}

  write_json(
    tmp_path / "dreambench/apprentice/evaluate/metrics.json",
    {
      "systems": {
        "apprentice": system(0.7, 0.31),
        "base": system(0.1, 0.32),
        "real": system(0.9, 0.33),
      },
      "per_subject": {str(n): {} for n in range(30)},
      "gap_closed": 0.75,
      "clip_t_drop": 0.01,
      "speedup": 51.6,
    },
  )
  scores = ship.run(config, tmp_path)
  assert scores["identity of apprentice, base, real"] == "0.700, 0.100, 0.900"
  assert scores["gap in identity closed, base to real pictures"] == "0.75"
  assert scores["CLIP-T below the base"] == "0.010"
  card = tmp_path / "pretrained" / "world_apprentice" / "README.md"
  assert "3000 pictures of 30 test subjects" in card.read_text()
  assert "52x" in card.read_text()
