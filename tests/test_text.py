# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: what is read without transformers is what transformers reads."""

import sys

import numpy as np
import pytest

from suti.backbone import PRETRAINED
from suti.io.files import read_json, write_json
from suti.text import load_tokenizer

TEXTS = [
  "",
  "a dog",
  "A  Dog wearing\ta RED hat!",
  "ein Hund im Schnee, čtyři psi, 犬, 🐕",
  "a backpack with a blue house in the background " * 9,
]


@pytest.mark.parametrize("name", ["world_base/tokenizer", "world_clip"])
@pytest.mark.parametrize("length", [5, 32])
def test_ids_are_those_of_transformers(name, length):
  from transformers import AutoTokenizer

  theirs = AutoTokenizer.from_pretrained(
    PRETRAINED / name, local_files_only=True
  )(
    TEXTS,
    padding="max_length",
    truncation=True,
    max_length=length,
    return_tensors="np",
  )["input_ids"]
  ours = load_tokenizer(PRETRAINED / name, max_length=length)(TEXTS)
  assert ours.shape == (len(TEXTS), length) and ours.dtype == np.int32
  np.testing.assert_array_equal(ours, theirs)


def test_other_classes_are_left_to_transformers(tmp_path, monkeypatch):
  folder = PRETRAINED / "world_clip"
  config = read_json(folder / "tokenizer_config.json")
  (tmp_path / "tokenizer.json").write_bytes(
    (folder / "tokenizer.json").read_bytes()
  )
  write_json(
    tmp_path / "tokenizer_config.json",
    config | {"tokenizer_class": "CLIPTokenizer"},
  )
  monkeypatch.setitem(sys.modules, "transformers", None)
  load_tokenizer(folder, max_length=8)
  with pytest.raises(ImportError):
    load_tokenizer(tmp_path, max_length=8)


def test_no_tokenizer_is_one_line(tmp_path):
  with pytest.raises(ValueError, match="No tokenizer in"):
    load_tokenizer(tmp_path, max_length=8)
