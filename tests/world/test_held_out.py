# SPDX-License-Identifier: Apache-2.0
"""What is left out of training: templates, pairs of names, words."""

import hashlib
import itertools

import pytest

from suti.world import held_out, templates
from suti.world.captions import caption
from suti.world.templates import LIVE_TEMPLATES, OBJECT_TEMPLATES, Shot

NAMES = tuple(
  name
  for part in ("place", "look", "wardrobe")
  for name in templates.PARTS[part][1:]
)


@pytest.mark.parametrize("group", [LIVE_TEMPLATES, OBJECT_TEMPLATES])
def test_five_of_each_group_with_all_its_skills(group):
  out = [t for t in group if held_out.is_held_out(t)]
  assert len(out) == 5
  assert {t.skill for t in out} == {t.skill for t in group}
  noun = "dog" if group is LIVE_TEMPLATES else "toy"
  rows = held_out.template_rows(noun, "held_out")
  assert [group[row] for row in rows] == out
  assert sorted([*rows, *held_out.template_rows(noun, "seen")]) == list(
    range(25)
  )
  assert list(held_out.template_rows(noun, "all")) == list(range(25))
  with pytest.raises(ValueError, match="expected one of all, seen, held_out"):
    held_out.template_rows(noun, "some")


def test_most_words_of_held_out_templates_are_met_elsewhere():
  """But for those that the file names, which only a base can know."""
  words = {True: set(), False: set()}
  for t in templates.TEMPLATES:
    words[held_out.is_held_out(t)] |= set(t.text.split())
  for subject in range(200):
    words[False] |= set(caption(Shot(subject), detailed=True).split())
  assert words[True] - words[False] == {
    "fabric",
    "mountain",
    "ocean",
    "milk",
    "firefighter",
  }


def test_pairs_held_out_are_those_that_bases_were_trained_without():
  """Their list, fixed: it may not change under models that rely on it."""
  pairs = sorted(
    tuple(sorted(pair))
    for pair in itertools.combinations(NAMES, 2)
    if held_out.pair_held_out(*pair)
  )
  assert len(pairs) == 99  # of 595
  text = "\n".join("|".join(pair) for pair in pairs)
  assert hashlib.sha256(text.encode()).hexdigest() == (
    "67868568602a2a5fd50c32ffd96d2c7775abd6cc9117b6f332656f3588f97886"
  )
  assert ("police", "snow") in pairs and ("beach", "chef") in pairs
  assert held_out.pair_held_out("snow", "", "police")
  assert held_out.pair_held_out("police", "wet", "snow")
  assert not held_out.pair_held_out("snow", "studio", "")


def test_what_a_prompt_is_of_is_found():
  found = held_out.find_template("a wet dog in the snow", "dog", live=True)
  assert found is not None and (found.look, found.place) == ("wet", "snow")
  assert not held_out.is_held_out(found)
  text = "a mosaic of a dog in a police outfit in the snow"
  assert held_out.is_held_out(held_out.find_template(text, "dog", live=True))
  owl = held_out.find_template("an owl on top of pink fabric", "owl", live=True)
  assert owl is not None and owl.place == "pink fabric"
  assert held_out.find_template("a dog at sea", "dog", live=True) is None
  assert not held_out.is_held_out(None)


def test_words_held_out_stand_in_no_caption():
  words = " ".join(t.text for t in templates.TEMPLATES).split()
  for subject in range(200):
    words += caption(Shot(subject), detailed=True).split()
  assert not set(held_out.WORDS_HELD_OUT) & set(words)
