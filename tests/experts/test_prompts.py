# SPDX-License-Identifier: Apache-2.0
"""Prompts that no demonstration shows."""

import collections
import dataclasses

import pytest

from experts import prompts
from suti.evaluation.dreambench import LIVE_TEMPLATES, Template, templates_of
from suti.io.files import read_json
from suti.schema import SKILLS
from tests.experts import inputs

CLUSTER = inputs.make_clusters(1)[0]


def template(text):
  return Template(text=text, skill="attribute")


@pytest.mark.parametrize(
  ("caption", "text", "answer"),
  [
    ("a dog in the snow", "a {} in the snow", True),
    ("a dog on a snowy hill", "a {} in the snow", True),
    ("a red dog", "a {} wearing a red hat", False),
    ("a dog with a red hat on", "a {} wearing a red hat", True),
    ("a dog on a rug", "a {} on top of a purple rug in a forest", False),
    ("a dog", "a {} in the snow", False),
    ("a reddish dog", "a red {}", False),
  ],
)
def test_what_a_caption_shows(caption, text, answer):
  assert prompts.shows(caption, template(text)) is answer


def test_a_prompt_has_the_article_of_its_noun():
  style = "a Rembrandt styled painting of a {}"
  assert prompts.fill("a {} in the snow", "owl") == "an owl in the snow"
  assert prompts.fill(style, "owl").endswith("painting of an owl")
  assert prompts.fill("a red {}", "owl") == "a red owl"
  assert prompts.fill(style, "dog").endswith("painting of a dog")


def test_no_template_is_without_words_of_its_own():
  texts = [t.text for live in (True, False) for t in templates_of(live=live)]
  words = [tuple(prompts.words_of(text)) for text in dict.fromkeys(texts)]
  assert all(words)
  assert max(collections.Counter(words).values()) == 1


def test_prompts_are_never_of_a_scene_shown():
  for num in range(1, 40):
    for prompt in prompts.propose(CLUSTER, num=num, seed=num):
      for caption in (CLUSTER.caption, *CLUSTER.captions):
        assert not prompts.shows(caption, template(prompt.prompt)), prompt
  everything = prompts.propose(CLUSTER, num=100)
  texts = {p.prompt for p in everything}
  assert len(texts) == len(everything)
  assert "a dog in the snow" not in texts  # a caption
  assert "a dog on the beach" not in texts
  assert "a dog in the jungle" in texts
  assert {p.skill for p in everything} == set(SKILLS)


def test_the_subject_s_own_colour_is_not_prompted():
  red = dataclasses.replace(CLUSTER, caption="a red dog")
  assert "a red dog" not in {p.prompt for p in prompts.propose(red, num=100)}


def test_skills_restrict():
  rows = prompts.propose(CLUSTER, num=100, skills=("style", "attribute"))
  assert {p.skill for p in rows} == {"style", "attribute"}


def test_compositions_join_two_skills():
  rows = prompts.propose(CLUSTER, num=100, skills=("composition",))
  texts = {p.prompt for p in rows}
  assert len(texts) == 25 and {p.skill for p in rows} == {"composition"}
  everything = {t.text for t in prompts.compositions(live=True)}
  assert {
    "a wet {} in the jungle",
    "a {} in a chef outfit on the beach",
    "a Rembrandt styled painting of a {} in the snow",
    "a red {} wearing a red hat",
  } <= everything
  assert texts <= {text.format("dog") for text in everything}


def test_held_out_templates_are_left_out_and_are_those_alone():
  def texts(**kw):
    return {p.prompt for p in prompts.propose(CLUSTER, num=1000, **kw)}

  out = texts(templates="held_out", skills=SKILLS[:4])
  assert out == {
    "a dog on top of pink fabric",
    "a dog with a mountain in the background",
    "a dog wearing a red hat",
    "a dog in a firefighter outfit",
    "a purple dog",
  }
  seen = texts(templates="seen")
  assert not seen & out and any("Monet" in text for text in seen)
  both = {t.text for t in prompts.compositions(live=True)}
  left = {
    t.text
    for t in prompts.allow(prompts.compositions(live=True), "seen", live=True)
  }
  assert "a {} in a police outfit in the snow" in both - left
  assert "a Rembrandt styled painting of a {} on top of pink fabric" not in left
  assert "a {} in a police outfit in the jungle" in left
  rows = prompts.propose(
    CLUSTER, num=25, source="dreambench", templates="held_out"
  )
  assert {p.prompt for p in rows} == out


def test_descriptive_prompts_name_the_subject_by_its_words():
  brown = dataclasses.replace(CLUSTER, caption="a spotted brown dog")
  rows = prompts.propose(brown, num=100, captions="descriptive")
  texts = {p.prompt for p in rows}
  assert "a spotted brown dog in the jungle" in texts
  assert "a red spotted dog" in texts  # in the prompt's colour alone
  assert "a spotted brown dog in a purple wizard outfit" in texts
  assert not [text for text in texts if " a dog" in f" {text}"]
  # The benchmark's protocol names the class.
  rows = prompts.propose(
    brown, num=25, source="dreambench", captions="descriptive"
  )
  assert rows[0].prompt == "a dog in the jungle"


def test_a_list_of_prompts_is_read_and_told(tmp_path):
  path = tmp_path / "list.csv"
  path.write_text(
    "kind,class,prompt,place,look,wardrobe\n"
    'short,live,"{}, jungle",jungle,,\n'
    "short,object,a {} at sea,water,,\n"
    "both,,a wet {} in the snow,snow,wet,\n"
  )
  inputs.write_stages(tmp_path, [CLUSTER])
  for file in (tmp_path / "experts/prompts").iterdir():
    file.unlink()
  config = inputs.make_config({}).unlock()
  config.prompts.update(source="list", path=str(path), num_per_cluster=10)
  prompts.run(config, tmp_path)
  rows = prompts.read_prompts(tmp_path)
  assert [(p.prompt, p.skill) for p in rows] == [
    ("dog, jungle", "recontextualization"),
    ("a wet dog in the snow", "composition"),
  ]
  assert read_json(tmp_path / "experts/prompts/listed.json") == {
    "dog, jungle": {
      "kind": "short", "place": "jungle", "look": "", "wardrobe": "",
    },
    "a wet dog in the snow": {
      "kind": "both", "place": "snow", "look": "wet", "wardrobe": "",
    },
  }  # fmt: skip


def test_a_damaged_cluster_has_no_prompts_of_a_list(tmp_path):
  path = tmp_path / "list.csv"
  path.write_text("prompt,class\na {} at sea,\n")
  inputs.write_stages(tmp_path, inputs.make_clusters(2))
  for file in (tmp_path / "experts/prompts").iterdir():
    file.unlink()
  keys = tmp_path / "experts/mine/clusters.keys"
  first = keys.read_text().split()[0]
  keys.write_text(f"{first}\n{'f' * 12}\n")  # another lies in its place
  config = inputs.make_config({}).unlock()
  config.prompts.update(source="list", path=str(path))
  summary = prompts.run(config, tmp_path)
  assert (summary["prompts"], summary["clusters"]) == (1, 2)
  assert summary["clusters_damaged"].startswith("f" * 12)
  assert [*read_json(tmp_path / "experts/prompts/listed.json")] == [
    "a dog at sea"
  ]


def test_a_list_without_a_prompt_for_any_subject_is_one_line(tmp_path):
  path = tmp_path / "list.csv"
  path.write_text("prompt,class\na vase at sea,vase\n")
  inputs.write_stages(tmp_path, [CLUSTER])
  for file in (tmp_path / "experts/prompts").iterdir():
    file.unlink()
  config = inputs.make_config({}).unlock()
  config.prompts.update(source="list", path=str(path))
  with pytest.raises(ValueError) as error:
    prompts.run(config, tmp_path)
  assert str(error.value) == (
    f"config.prompts.path='{path}' has no prompt for any of the 1 clusters,"
    " whose nouns are dog: add rows of their class, or without one."
  )


def test_a_cluster_s_prompts_do_not_depend_on_its_index():
  first = prompts.propose(CLUSTER, num=4)
  assert first == prompts.propose(CLUSTER, num=4)
  assert first[:2] == prompts.propose(CLUSTER, num=2)
  assert first != prompts.propose(CLUSTER, num=4, seed=1)


def test_the_benchmark_gets_its_own_prompts():
  rows = prompts.propose(CLUSTER, num=25, source="dreambench")
  assert [p.prompt for p in rows] == [
    t.text.format("dog") for t in LIVE_TEMPLATES
  ]
  few = prompts.propose(CLUSTER, num=5, source="dreambench")
  assert [rows.index(p) for p in few] == [0, 6, 12, 18, 24]


def test_the_stage_writes_them_and_refuses_to_write_none(tmp_path):
  clusters = inputs.make_clusters(3)
  inputs.write_stages(tmp_path, clusters)
  for file in (tmp_path / "experts/prompts").iterdir():
    file.unlink()
  config = inputs.make_config({}).unlock()
  config.prompts.num_per_cluster = 3
  summary = prompts.run(config, tmp_path)
  rows = prompts.read_prompts(tmp_path)
  assert summary["prompts"] == len(rows) == 9
  assert [p.cluster for p in rows[::3]] == [c.key for c in clusters]

  for file in (tmp_path / "experts/prompts").iterdir():
    file.unlink()
  # No object wears anything in the templates.
  objects = [dataclasses.replace(c, live=False) for c in clusters]
  inputs.write_stages(tmp_path, objects)
  for file in (tmp_path / "experts/prompts").iterdir():
    file.unlink()
  config.prompts.skills = ("accessory",)
  with pytest.raises(ValueError, match=r"skills accessory: allow more in"):
    prompts.run(config, tmp_path)


def test_clusters_of_which_none_can_be_read_are_the_cause_that_is_named(
  tmp_path,
):
  clusters = inputs.make_clusters(2)
  inputs.write_stages(tmp_path, clusters)
  for file in (tmp_path / "experts/prompts").iterdir():
    file.unlink()
  # Others lie in their places.
  keys = tmp_path / "experts/mine/clusters.keys"
  keys.write_text("".join(f"{i:016x}\n" for i in range(2)))
  line = (
    r"^None of the 2 clusters can be read, e\.g\. 0000000000000000 \(cannot"
  )
  with pytest.raises(ValueError, match=line):
    prompts.run(inputs.make_config({}), tmp_path)
