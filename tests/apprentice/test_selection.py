# SPDX-License-Identifier: Apache-2.0
"""Examples chosen by their measures and clusters, without new shards."""

import dataclasses
import re

import pytest

from apprentice.selection import hold_out, select
from suti.io.records import open_examples, write_examples
from tests.apprentice.inputs import draw_examples


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """Twelve examples of four clusters, with delta_clip 0.00 to 0.11."""
  folder = tmp_path_factory.mktemp("selection") / "shards"
  examples = [
    dataclasses.replace(
      example,
      cluster=f"{number % 4:012x}",
      values={"delta_clip": number / 100},
    )
    for number, example in enumerate(draw_examples(12, num_demonstrations=1))
  ]
  write_examples(folder, examples, shard_size=5)
  return open_examples(folder)


def test_nothing_asked_is_nothing_left_out(source):
  (same,) = select([source], rule=None, num_clusters=None)
  assert same is source


def test_a_rule_keeps_what_passes_it(source, capsys):
  (some,) = select([source], rule="delta_clip > 0.075", num_clusters=None)
  measured = [round(example.values["delta_clip"], 2) for example in some]
  assert measured == [0.08, 0.09, 0.1, 0.11]
  assert [e.key for e in some[1:3]] == [some[1].key, some[2].key]
  said = capsys.readouterr().out
  assert said == ("4 of 12 examples, of 4 of 4 clusters, are learned from.\n")


def test_clusters_without_an_example_left_are_not_counted(source, capsys):
  select([source], rule="delta_clip > 0.095", num_clusters=None)
  said = capsys.readouterr().out
  assert said == "2 of 12 examples, of 2 of 4 clusters, are learned from.\n"


def test_more_clusters_have_all_that_fewer_have(source):
  kept = [
    {e.key for e in select([source], rule="", num_clusters=num)[0]}
    for num in (1, 2, 4, 9)
  ]
  assert [len(keys) for keys in kept] == [3, 6, 12, 12]
  assert kept[0] < kept[1] < kept[2] == kept[3]


def test_nouns_of_prompts_are_left_out_as_whole_words(tmp_path, capsys):
  prompts = ("a dog in the snow", "A Dog's bowl", "a hotdog", "a bear plushie")
  examples = [
    dataclasses.replace(
      example, cluster=f"{number:012x}", prompt=prompts[number]
    )
    for number, example in enumerate(draw_examples(4, num_demonstrations=1))
  ]
  write_examples(tmp_path, examples, shard_size=5)
  (some,) = select(
    [open_examples(tmp_path)],
    rule=None,
    num_clusters=None,
    without_nouns=("dog", "bear"),
  )
  assert [example.prompt for example in some] == ["a hotdog"]
  said = capsys.readouterr().out
  assert said == "1 of 4 examples, of 1 of 4 clusters, are learned from.\n"


def test_a_dataset_without_any_is_left_out(source):
  some = select([source, source], rule="delta_clip >= 0.1", num_clusters=3)
  assert [len(each) for each in some] == [1, 1]  # 0.10 is of the third cluster


@pytest.mark.parametrize(
  ("rule", "num", "message"),
  [
    (
      "identity > 0.5",
      None,
      "config.train.rule='identity > 0.5': example 0 of {folder} has no "
      "measure 'identity'. It has delta_clip.",
    ),
    (
      "delta_clip > 1",
      2,
      "config.train.rule='delta_clip > 1', config.train.num_clusters=2 and "
      "config.train.without_nouns=() leave none of 12 examples: loosen them.",
    ),
  ],
)
def test_mistakes_are_one_line(source, rule, num, message):
  message = message.format(folder=source.folder)
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    select([source], rule=rule, num_clusters=num)


def test_held_out_clusters_are_the_last_and_no_example_is_lost(source, capsys):
  some = select([source, source], rule="delta_clip > 0.025", num_clusters=None)
  learned, held = hold_out(some, num_clusters=1)
  assert {example.cluster for each in held for example in each} == {f"{3:012x}"}
  keys = [{e.key for part in side for e in part} for side in (learned, held)]
  assert keys[0].isdisjoint(keys[1])
  assert keys[0] | keys[1] == {e.key for part in some for e in part}
  said = capsys.readouterr().out.splitlines()[-1]
  assert said == (
    "6 of 18 examples, of 1 of 4 clusters, are held out: the loss is measured "
    "on them, and nothing is learned from them."
  )


def test_none_is_held_out_where_none_is_asked(source):
  learned, held = hold_out([source], num_clusters=0)
  assert (learned[0] is source, held) == (True, [])


@pytest.mark.parametrize(("asked", "num"), [(1, 1), (2, 1), (4, 1), (9, 1)])
def test_at_most_a_third_is_held_out_and_said(source, capsys, asked, num):
  learned, held = hold_out([source], num_clusters=asked)
  assert len({example.cluster for each in held for example in each}) == num
  assert sum(map(len, learned)) == 9
  said = capsys.readouterr().out.splitlines()
  assert said[:-1] == [
    f"config.train.validation_clusters={asked} is more than a third of 4 "
    "clusters: 1 is held out."
  ] * (asked > num)


def test_of_two_clusters_none_is_held_out(source, capsys):
  two = select([source], rule=None, num_clusters=2)
  learned, held = hold_out(two, num_clusters=4)
  assert (sum(map(len, learned)), held) == (6, [])
  assert capsys.readouterr().out.splitlines()[-1] == (
    "config.train.validation_clusters=4 is more than a third of 2 clusters: 0 "
    "are held out."
  )
