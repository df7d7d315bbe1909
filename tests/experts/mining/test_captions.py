# SPDX-License-Identifier: Apache-2.0
"""Nouns and short texts from alt-texts."""

import numpy as np
import pytest

from experts.mining.captions import (
  caption_of,
  classes_named,
  describe,
  find_noun,
  noun_phrase,
  refine,
  split_text,
  with_article,
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
    ("a pair of red shoes on a mat", ["red", "shoes"], "on a mat"),
    ("a Rembrandt styled painting of a dog", ["dog"], ""),
    ("a bowl of fruit", ["bowl"], "of fruit"),
    ("a kettle boiling on a stove", ["kettle"], "boiling on a stove"),
    ("a smiling dog", ["smiling", "dog"], ""),
    ("a red building", ["red", "building"], ""),
    ("my backpack, oil painting, 4k, on a hill", ["backpack"], "on a hill"),
    ("a red, round teapot", ["red", "round", "teapot"], ""),
  ],
)
def test_a_text_is_cut_into_subject_and_scene(text, subject, scene):
  assert split_text(text) == (subject, scene)


def test_the_noun_that_most_telling_texts_name_wins_over_clip():
  texts = ["a brown dog in the snow", "IMG_1.jpg", "dog", "a cat"]
  noun, why = find_noun(texts, PICTURES, prefers("a cat"))
  assert (noun, why) == ("dog", "2 of 4 texts name it")


def test_an_unknown_noun_needs_two_texts():
  texts = ["a red tractor in a field", "tractor on a road", "image"]
  texts = [text.replace("tractor", "gizmo") for text in texts]
  assert find_noun(texts, PICTURES, prefers("a vase"))[0] == "gizmo"
  assert find_noun(texts[:1], PICTURES, prefers("a vase"))[0] == "vase"


def test_clip_decides_where_texts_say_nothing():
  texts = ["IMG_1.jpg", "buy now", "image"]
  assert find_noun(texts, PICTURES, prefers("a teapot", "a dog")) == (
    "teapot",
    "CLIP finds it in the pictures, at 1.000; next is dog, at 0.500",
  )
  match = prefers("an owl", "a teapot")
  assert find_noun(texts, PICTURES, match, nouns=("owl", "cat"))[0] == "owl"


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
  assert caption_of(text, "dog", named="a dog") == "a dog in the snow"
  assert caption_of(text, "cat", named="a cat") == "a cat"
  assert caption_of("DSC_0001", "dog", named="a dog") == "a dog"


@pytest.mark.parametrize(
  ("texts", "caption", "captions"),
  [
    # The paper's own cases.
    (
      ["Hey duggee toy on the table", "IMG_1.jpg"],
      "a hey duggee toy",
      ("a hey duggee toy on the table", "a hey duggee toy"),
    ),
    (
      ["berry bowl floating on the river", "my berry bowl"],
      "a berry bowl",
      ("a berry bowl floating on the river", "a berry bowl"),
    ),
    (
      ["a pair of red shoes", "pair of red shoes on a mat", "a pair"],
      "a red shoe",
      ("a red shoe", "a red shoe on a mat", "a red shoe"),
    ),
    (
      ["toy dog on a bed", "a dog toy", "dog toys"],
      "a dog toy",
      ("a dog toy on a bed", "a dog toy", "a dog toy"),
    ),
    # Another subject's scene, and words that half do not share.
    (
      ["a spotted brown dog", "a spotted dog", "a big dog", "a cat in a box"],
      "a spotted dog",
      ("a spotted dog",) * 4,
    ),
  ],
)
def test_descriptive_captions_keep_the_subject_s_words(
  texts, caption, captions
):
  found = refine(
    texts,
    PICTURES[:1].repeat(len(texts), 0),
    prefers("a vase"),
    captions="descriptive",
  )
  assert found.caption == caption
  assert found.captions == captions
  plain = refine(texts, PICTURES[:1].repeat(len(texts), 0), prefers("a vase"))
  assert plain.caption == caption
  assert {c.split(" on ")[0].split(" floating")[0] for c in plain.captions} == {
    f"a {plain.noun}"
  }


def test_a_name_that_a_person_gave_is_the_caption():
  texts = refine(
    ["", ""],
    PICTURES[:2],
    prefers("a dog"),
    subject="stuffed animal",
    name="grey_sloth_plushie",
  )
  assert texts.noun == "stuffed animal"
  assert texts.why == "the table of classes says so"
  assert texts.caption == "a grey sloth plushie"
  assert texts.captions == ("a stuffed animal",) * 2
  assert not texts.live


@pytest.mark.parametrize(
  ("name", "noun", "caption"),
  [
    ("corgi dog", "dog", "a corgi dog"),
    ("dog2", "dog", "a dog"),
    ("My_brownDogs (2)", "dog", "a brown dog"),
    ("dogs", "dog", "a dog"),
    ("pair of red shoes", "shoe", "a red shoe"),
    ("glasses", "glasses", "a glasses"),
    ("school-bus", "bus", "a school bus"),
    ("dog toy", "toy", "a dog toy"),
    ("toy dog", "toy", "a toy dog"),
    ("umbrellas", "umbrella", "an umbrella"),
    ("duck toy", "toy", "a duck toy"),
    ("stuffed animals", "stuffed animal", "a stuffed animal"),
  ],
)
def test_a_folder_named_after_a_known_noun_needs_no_table(name, noun, caption):
  texts = refine([""], PICTURES[:1], prefers("a vase"), name=name)
  assert (texts.noun, texts.caption) == (noun, caption)
  assert texts.why.startswith("its name ")


@pytest.mark.parametrize(
  "name", ["Rex", "mr whiskers", "New folder (2)", "IMG 2024", "2024-05-01", ""]
)
def test_a_name_that_is_no_noun_is_left_to_clip(name):
  match = prefers("a teapot", "a red teapot")
  texts = refine(["", ""], PICTURES[:2], match, name=name)
  assert (texts.noun, texts.caption) == ("teapot", "a teapot")
  assert "CLIP finds it in the pictures, at 1.000" in texts.why
  assert texts.why.startswith("its name has no known noun; ") == bool(name)


def test_a_table_names_what_a_pet_s_name_does_not():
  match = prefers("a brown dog", "a vase")
  texts = refine([""], PICTURES[:1], match, name="Rex", subject="dog")
  assert (texts.noun, texts.caption) == ("dog", "a brown dog")
  assert texts.live


def test_a_dog_toy_and_a_toy_dog_are_one_subject():
  assert classes_named(["a dog toy", "a red toy dog", "my toys"]) == {"toy"}
  assert classes_named(["dogs in the snow", "a dog"]) == {"dog"}
  assert classes_named(["a dog bowl", "a dog"]) == {"bowl", "dog"}


@pytest.mark.parametrize(
  ("prompt", "phrase"),
  [
    ("a dog wearing a red hat", "a dog"),
    ("a kettle on a beach", "a kettle"),
    ("A cube shaped stuffed animal", "a stuffed animal"),
    ("a cat beside a dog", "a cat"),
    ("two Cats in Paris", "a cat"),
    ("an old gizmo in the snow", "a gizmo"),
    ("a watercolor painting of my umbrella", "an umbrella"),
    ("something else", ""),
    ("in the snow", ""),
  ],
)
def test_what_a_prompt_is_about(prompt, phrase):
  assert noun_phrase(prompt) == phrase


def test_articles_go_by_sound():
  nouns = ("owl", "unicorn", "hourglass", "horse", "umbrella")
  assert [with_article(noun) for noun in nouns] == [
    "an owl",
    "a unicorn",
    "an hourglass",
    "a horse",
    "an umbrella",
  ]
