# SPDX-License-Identifier: Apache-2.0
"""The card of a trained model: what it was trained for, and from what."""

from ml_collections import ConfigDict

from suti.io.files import read_json
from suti.pretrain.card import write_card, write_training


def make_config(num_steps):
  pool = {"num_subjects": 2, "shots_each": 3, "split": "train", "start": 7}
  return ConfigDict(
    {"seed": 0, "num_steps": num_steps, "batch_size": 4, "pool": pool}
  )


def write(folder, num_steps, **kw):
  write_training(
    folder, name="x", config=make_config(num_steps), seconds=3600.0, **kw
  )
  write_card(folder, title="X", scores={})
  return (folder / "README.md").read_text()


def test_a_card_says_what_its_init_was_trained_for(tmp_path):
  first = write(tmp_path / "first", 5)
  assert "| training | 5 steps of batch 4, 1.0 h, " in first
  assert "trained before" not in first
  second = write(tmp_path / "second", 9, init=tmp_path / "first")
  assert "| trained before | 5 steps of batch 4, 1.0 h, " in second
  assert "| training | 9 steps of batch 4, 1.0 h, " in second
  facts = read_json(tmp_path / "second/training.json")
  assert facts["init"] == read_json(tmp_path / "first/training.json")


def test_an_init_of_others_has_no_facts(tmp_path):
  (tmp_path / "theirs").mkdir()
  card = write(tmp_path / "ours", 5, init=tmp_path / "theirs")
  assert "trained before" not in card
