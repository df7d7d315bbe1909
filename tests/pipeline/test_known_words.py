# SPDX-License-Identifier: Apache-2.0
"""Words that a model's training never had are named."""

import pytest

from suti.hf.find import PRETRAINED
from suti.pipeline.known_words import (
  note,
  unknown_words,
  words_in,
  write_words,
)
from suti.world.held_out import WORDS_HELD_OUT
from suti.world.templates import CLASSES, TEMPLATES


def test_words_are_what_a_person_would_call_so():
  assert words_in("A dog, the DOG's bed; 3 cafés -- and rock-n-roll!") == [
    "a", "dog", "the", "dog's", "bed", "cafés", "and", "rock", "n", "roll",
  ]  # fmt: skip


def test_what_is_written_is_known(tmp_path):
  write_words(tmp_path, ["a red dog", "a dog in the Snow"])
  assert unknown_words(tmp_path, "A dog, red, in SNOW!") == []
  assert unknown_words(tmp_path, "a pup in a blizzard", "a pup") == [
    "pup",
    "blizzard",
  ]
  assert note(tmp_path, "a red dog") == ""


def test_of_a_published_model_nothing_is_said(tmp_path):
  assert note(tmp_path, "a zyzzyva") == ""


@pytest.mark.parametrize("name", ["world_base"])
def test_the_shipped_base_says_what_it_knows(name):
  folder = PRETRAINED / name
  for template in TEMPLATES:
    for noun in CLASSES:
      assert note(folder, template.text.format(noun)) == ""
  words = (*WORDS_HELD_OUT, "volcano")
  assert unknown_words(folder, " ".join(words)) == list(words)
