# SPDX-License-Identifier: Apache-2.0
"""Prompts from a file: SubjectWorld's list, DreamBench-v2's, and mistakes."""

import json
import os
import pathlib
import re

import pytest

from suti.evaluation.dreambench import SUBJECTS
from suti.evaluation.prompt_list import prompts_of, read_prompt_list
from suti.world import templates
from suti.world.captions import caption
from suti.world.held_out import WORDS_HELD_OUT, find_template, pair_held_out
from suti.world.templates import CLASSES, LIVE, Shot

ROOT = pathlib.Path(__file__).parents[2]
OURS = ROOT / "suti/world/prompts_beforehand.csv"
KINDS = {
  "pair",
  "pair_held_out",
  "other_words",
  "other_sentence",
  "word_held_out",
}


@pytest.fixture(scope="module")
def rows():
  return read_prompt_list(OURS)


def words(text):
  return set(re.findall(r"[a-z]+", text.lower()))


def test_our_list_says_of_each_prompt_what_it_should_show(rows):
  assert {row.kind for row in rows} == KINDS
  for row in rows:
    assert row.noun in ("", "live", "object", *CLASSES), row
    shown = (row.place, row.look, row.wardrobe)
    assert any(shown), row
    for part, name in zip(("place", "look", "wardrobe"), shown, strict=True):
      assert not name or name in templates.PARTS[part], row
    if row.wardrobe:
      assert row.noun in ("live", *LIVE), row


def test_our_pairs_are_compositions_and_say_which_are_held_out(rows):
  pairs = [row for row in rows if row.kind.startswith("pair")]
  assert len(pairs) == 28
  for row in pairs:
    shown = (row.place, row.look, row.wardrobe)
    assert (row.kind == "pair_held_out") == pair_held_out(*shown), row
    found = find_template(row.text, "{}", live=row.noun == "live")
    assert found is not None, row
    assert (found.place, found.look, found.wardrobe) == (
      row.place or "studio",
      *shown[1:],
    )
    assert row.skill == "composition"


def test_held_out_words_stand_in_the_prompts_of_their_kind_alone(rows):
  held_out = set(WORDS_HELD_OUT)
  found = set()
  for row in rows:
    assert (row.kind == "word_held_out") == bool(words(row.text) & held_out), (
      row
    )
    found |= words(row.text) & held_out
  assert found == held_out


def test_other_words_are_no_template_and_other_sentences_no_caption(rows):
  said = {t.text for t in templates.TEMPLATES} | {
    caption(Shot(subject)) for subject in range(50)
  }
  for row in rows:
    if row.kind.startswith("other"):
      assert row.text not in said
      assert find_template(row.text, "{}", live=True) is None


def test_rows_are_of_a_subject_a_class_a_group_or_all(rows):
  dog = prompts_of(rows, source="world:test", noun="dog", live=True)
  texts = {row.text for row in dog}
  assert {"dog, jungle", "my dog at the seaside", "a pup in the snow"} <= texts
  assert "a red dog on the beach" not in texts  # of objects
  toy = prompts_of(rows, source="world:test", noun="toy", live=False)
  texts = {row.text for row in toy}
  assert "a red toy on the beach" in texts and "a pup in the snow" not in texts
  owl = prompts_of(rows, source="x", noun="owl", live=True)
  assert "an owl in the rainforest" in {row.text for row in owl}


def test_json_with_subjects_is_read(tmp_path):
  path = tmp_path / "list.json"
  content = {
    "note": "of two sources",
    "one": [{"uid": 0, "subject_id": "dog2", "prompt": "a dog in a car"}],
    "two": [{"subject_id": "teapot", "prompt": "a teapot {on} the TV"}],
  }
  path.write_text(json.dumps(content))
  rows = read_prompt_list(path)
  assert [(r.subject, r.text, r.kind) for r in rows] == [
    ("dog2", "a dog in a car", "listed"),
    ("teapot", "a teapot {on} the TV", "listed"),
  ]

  def texts(source, noun):
    found = prompts_of(rows, source=source, noun=noun, live=noun == "dog")
    return [row.text for row in found]

  assert texts("dog2", "dog") == ["a dog in a car"]
  assert texts("dog3", "dog") == []  # DreamBench's other dogs have their own
  assert texts("world:test", "dog") == ["a dog in a car"]
  assert texts("world:test", "teapot") == ["a teapot {on} the TV"]


@pytest.mark.parametrize(
  ("name", "content", "line"),
  [
    ("a.csv", "text\nx\n", "row 1 has no prompt: expected a column `prompt`"),
    (
      "a.csv",
      "prompt,class\na dog,dog\na dog, asleep,dog\n",
      "row 2 has more fields than the header: write a prompt that has commas",
    ),
    ("a.csv", "prompt\n", "has no rows: expected prompts, CSV or JSON."),
    ("a.json", "[1]", "expected objects with a `prompt` each, in lists."),
    ("a.json", "{", "is not JSON: "),
    ("a.csv", None, "expected a list of prompts, CSV or JSON, in UTF-8; "),
  ],
)
def test_a_wrong_list_is_one_line(name, content, line, tmp_path):
  path = tmp_path / name
  if content is not None:
    path.write_text(content)
  with pytest.raises(ValueError, match=re.escape(line)) as error:
    read_prompt_list(path)
  assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_dreambench_v2_as_far_as_it_is_known():
  """The file of published and recovered texts, where it is at hand."""
  place = os.environ.get("SUTI_DREAMBENCH")
  folder = pathlib.Path(place).parent if place else ROOT.parent / "shared"
  path = folder / "specs/dreambench_v2_prompts.json"
  if not path.is_file():
    pytest.skip(f"{path} is not here")
  rows = read_prompt_list(path)
  assert len(rows) == 186
  for subject, noun in SUBJECTS.items():
    found = prompts_of(rows, source=subject, noun=noun, live=noun in LIVE)
    assert len(found) >= 5, subject
