# SPDX-License-Identifier: Apache-2.0
"""Other words: true, varied, and never those that are held out."""

import itertools

import numpy as np

from suti.evaluation.styles import STYLE_TEXTS
from suti.world import other_words
from suti.world.other_words import in_other_words
from suti.world.templates import (
  CLASSES,
  PARTS,
  Shot,
  class_of,
  compose,
  subject_seeds,
)


def test_every_name_of_the_world_has_other_words():
  assert other_words._NOUNS.keys() == set(CLASSES)
  for part, texts in {
    "place": other_words._PLACES,
    "look": other_words._LOOKS,
    "wardrobe": other_words._OUTFITS,
    "style": other_words._STYLES,
  }.items():
    assert texts.keys() == set(PARTS[part]) - {""}, part


def test_a_text_names_what_the_picture_shows():
  rng = np.random.default_rng(0)
  subject = next(
    s for s in subject_seeds("train", 0, 50) if class_of(s) == "dog"
  )
  shot = Shot(
    subject=subject,
    template=compose(place="beach", wardrobe="chef", style="mosaic"),
  )
  texts = {in_other_words(shot, rng) for _ in range(300)}
  assert len(texts) > 200
  words = {
    "noun": other_words._NOUNS["dog"],
    "place": (*other_words._PLACES["beach"], "on the beach"),
    "wardrobe": (*other_words._OUTFITS["chef"], "in a chef outfit"),
    "style": other_words._STYLES["mosaic"],
  }
  for text, (part, choices) in itertools.product(texts, words.items()):
    assert any(choice in text for choice in choices), (part, text)


def test_colours_that_the_scene_changes_are_not_named():
  rng = np.random.default_rng(0)
  for subject in subject_seeds("train", 0, 30):
    shot = Shot(subject=subject, template=compose(look="red"))
    for text in (in_other_words(shot, rng) for _ in range(20)):
      assert "red" in text.split(), text
      assert not {"purple", "green", "pink", "teal"} & set(text.split()), text


def test_styles_are_those_of_the_prompts():
  assert other_words._STYLES.keys() == STYLE_TEXTS.keys()
