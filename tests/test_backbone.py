# SPDX-License-Identifier: Apache-2.0
"""Folders of models: which one a name means, and what one must hold."""

import shutil

import numpy as np
import pytest

from suti import backbone, text_encoders
from suti.io.files import read_json, write_json


def test_a_folder_is_never_taken_for_a_shipped_model(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine").mkdir()
  assert backbone.find_model("mine").resolve() == tmp_path / "mine"
  assert backbone.find_model(".").resolve() == tmp_path
  shipped = backbone.find_model("world_base")
  assert shipped == backbone.PRETRAINED / "world_base"


@pytest.mark.parametrize("part", ["unet", "scheduler", "text_encoder"])
def test_a_missing_part_is_named(tiny_backbone, tmp_path, part):
  folder = tmp_path / "base"
  shutil.copytree(tiny_backbone, folder)
  shutil.rmtree(folder / part)
  with pytest.raises(ValueError, match=f"has no {part}/"):
    backbone.load_backbone(folder)


def test_a_text_encoder_of_another_kind_is_named(tiny_backbone, tmp_path):
  folder = tmp_path / "base"
  shutil.copytree(tiny_backbone, folder)
  config = folder / "text_encoder" / "config.json"
  write_json(config, read_json(config) | {"model_type": "gpt2"})
  with pytest.raises(ValueError, match="is a gpt2: expected CLIPTextModel or"):
    backbone.load_backbone(folder)


def test_forgotten_texts_are_encoded_again(tiny_backbone, monkeypatch):
  texts = ["a dog", "a cat", "a red dog", "a dog"]
  before, *_ = text_encoders.open_text_encoders(tiny_backbone)(texts)
  monkeypatch.setattr(text_encoders, "_KEPT", 1)
  encode_text = text_encoders.open_text_encoders(tiny_backbone)
  for text, state_LD in zip(texts, before, strict=True):
    np.testing.assert_array_equal(encode_text([text]).states_BLD[0], state_LD)
  np.testing.assert_array_equal(encode_text(texts).states_BLD, before)
