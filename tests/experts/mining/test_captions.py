# SPDX-License-Identifier: Apache-2.0
"""Nouns and short texts from alt-texts."""

import numpy as np
import pytest

from experts.mining.captions import (
  caption_of,
  describe,
  find_noun,
  refine,
  split_text,
)

PICTURES = np.eye(3, 4, dtype=np.float32)


def prefers(*favourites):
  """A CLIP that likes texts more the earlier they stand in a list."""

  def match(embeddings_KD, texts):
    row = [
      1.0 / (1 + favourites.index(t)) if t in favourites else 0.0 for t in texts
    ]
    return np.tile(np.array(row, np.float32), (len(embeddings_KD), 1))

  return match


@pytest.mark.parametrize(
  ("text", "subject", "scene"),
  [
    ("A photo of a brown dog in the snow", ["brown", "dog"], "in the snow"),
    ("my stuffed animal", ["stuffed", "animal"], ""),
    ("IMG_2041.jpg", [], ""),
    ("a teapot, on top of a mirror!", ["teapot"], "on top of a mirror"),
    ("", [], ""),
    ("a dog with white paws on a rug", ["dog"], "on a rug"),
    ("a vase with pink lip with a city behind", ["vase"], "with a city behind"),
    ("a cat with stripes", ["cat"], ""),
    ("a green and pink sneaker", ["green", "pink", "sneaker"], ""),
    ("a dog and a cat", ["dog"], "and a cat"),
  ],
)
def test_a_text_is_cut_into_subject_and_scene(text, subject, scene):
  assert split_text(text) == (subject, scene)


def test_the_noun_that_most_telling_texts_name_wins_over_clip():
  texts = ["a brown dog in the snow", "IMG_1.jpg", "dog", "a cat"]
  assert find_noun(texts, PICTURES, prefers("a cat")) == "dog"


def test_a_noun_nobody_knows_needs_two_texts():
  texts = ["a red tractor in a field", "tractor on a road", "image"]
  assert find_noun(texts, PICTURES, prefers("a vase")) == "tractor"
  assert find_noun(texts[:1], PICTURES, prefers("a vase")) == "vase"


def test_clip_decides_where_texts_say_nothing():
  texts = ["IMG_1.jpg", "buy now", "image"]
  assert find_noun(texts, PICTURES, prefers("a teapot", "a dog")) == "teapot"


def test_shared_adjectives_describe():
  texts = ["a brown spotted dog", "a spotted dog in the snow", "spotted dog"]
  assert describe("dog", texts, PICTURES, prefers("a red dog")) == (
    "a spotted dog"
  )


def test_clip_may_add_a_colour():
  assert describe("dog", ["a dog"], PICTURES, prefers("an orange dog")) == (
    "an orange dog"
  )
  assert describe("dog", ["a dog"], PICTURES, prefers("a dog")) == "a dog"


def test_a_caption_keeps_its_scene_under_the_bare_noun():
  text = "A spotted brown dog in the snow"
  assert caption_of(text, "dog") == "a dog in the snow"
  assert caption_of(text, "cat") == "a cat"
  assert caption_of("DSC_0001", "dog") == "a dog"


def test_a_name_that_a_person_gave_is_the_caption():
  noun, caption, captions, live = refine(
    ["", ""],
    PICTURES[:2],
    prefers("a dog"),
    subject="stuffed animal",
    name="grey sloth plushie",
  )
  assert (noun, caption, live) == (
    "stuffed animal",
    "a grey sloth plushie",
    False,
  )
  assert captions == ("a stuffed animal",) * 2


def test_a_named_folder_needs_no_table():
  noun, caption, _, live = refine(
    [""], PICTURES[:1], prefers("a vase"), name="corgi dog"
  )
  assert (noun, caption, live) == ("dog", "a corgi dog", True)
