# SPDX-License-Identifier: Apache-2.0
"""Plural to singular, and the head of a compound."""

import pytest

from experts.mining.nouns import KNOWN, known_noun, singular

PLURALS = (
  "dogs dog, buses bus, classes class, houses house, vases vase, horses horse, "
  "dresses dress, boxes box, watches watch, puppies puppy, cookies cookie, "
  "potatoes potato, canoes canoe, shoes shoe, wolves wolf, knives knife, "
  "leaves leaf, children child, women woman, snowmen snowman, mice mouse, "
  "geese goose, octopuses octopus, roses rose, lenses lens, ties tie, "
  "plushies plushie, cacti cactus, gizmos gizmo, berries berry, scarves scarf"
)
WITHOUT = (
  "bus, class, glass, canvas, lens, cactus, iris, gas, tennis, compass, "
  "glasses, sunglasses, scissors, trousers, headphones, sheep, fish"
)


@pytest.mark.parametrize("pair", PLURALS.split(", "))
def test_plurals(pair):
  plural, expected = pair.split()
  assert singular(plural) == expected


def test_a_singular_is_itself_and_so_is_what_has_none():
  for word in WITHOUT.split(", "):
    assert singular(word) == word
  for noun in KNOWN:
    assert singular(noun) == noun


@pytest.mark.parametrize(
  ("words", "noun"),
  [
    ("brown dogs", "dog"),
    ("dog bowl", "bowl"),
    ("toy dog", "toy"),
    ("dog toys", "toy"),
    ("stuffed animals", "stuffed animal"),
    ("teddy bear", "teddy bear"),
    ("toy poodle", "toy poodle"),
    ("rex", ""),
    ("", ""),
  ],
)
def test_the_head_of_a_compound(words, noun):
  assert known_noun(words.split()) == noun
