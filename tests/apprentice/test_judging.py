# SPDX-License-Identifier: Apache-2.0
"""Stage 8 by the world's truth: who, what was asked, how far from real."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from apprentice import judging
from suti.evaluation.judge import Judged
from suti.evaluation.report_judged import judged, summary_line
from suti.schema import Cluster
from suti.world.look_alikes import look_alikes
from suti.world.templates import class_of, compose, subject_seeds

DOGS = [s for s in subject_seeds("test", 0, 60) if class_of(s) == "dog"][:3]
TEXTS = ("a dog in the snow", "a dog wearing a red hat")


def picture(subject: int, place: int = 0) -> np.ndarray:
  """One whose pixels say which subject it shows, and where."""
  image = np.zeros((16, 16, 3), np.uint8)
  number = subject % 64811
  image[:] = number // 256, place, number % 256
  return image


def see(images) -> Judged:
  """A judge that reads these pixels and is never wrong."""
  high, where, low = np.array([x[0, 0] for x in images], np.float64).T
  who = (256 * high + low) / 64811
  angle = 2 * np.pi * who
  return Judged(
    features_NF=np.stack([who, where, np.ones_like(who)], -1),
    identity_ND=np.stack([np.cos(angle), np.sin(angle)], -1),
    answers={
      "class": ["dog"] * len(images),
      "place": [["snow", "beach"][int(place)] for place in where],
      "wardrobe": [["red hat", "chef"][int(place)] for place in where],
    },
  )


def render(shots, *, size_px):
  return {"image": np.stack([picture(shot.subject) for shot in shots])}


def cluster(subject: int, *, truth: bool = True) -> Cluster:
  return Cluster(
    key=f"{subject:012x}",
    subject="dog",
    caption="a dog",
    images=(picture(subject),),
    captions=("a dog",),
    live=True,
    source="here",
    truth=(f"world:test:{subject}",) if truth else None,
  )


@pytest.fixture
def world(monkeypatch):
  monkeypatch.setattr("suti.world.dataset.render_shots", render)
  monkeypatch.setattr(judging, "load_judge", lambda name: see)


def test_the_measures_of_a_subject(world):
  dog = DOGS[0]
  other = look_alikes(dog)[0]
  table, features = judging.judge_subject(
    cluster(dog),
    {
      "apprentice": [(text, picture(dog)) for text in TEXTS],
      # A look-alike, and once in the wrong place.
      "base": [(TEXTS[0], picture(other, 1)), (TEXTS[1], picture(other))],
      "scenes": [(TEXTS[0], picture(dog)), ("a dog on Mars", picture(dog))],
    },
    judge=see,
    listed={},
  )
  assert table["apprentice"] == {
    "questions": 1.0,
    "class": 1.0,
    "place": 1.0,
    "wardrobe": 1.0,
    "retrieval": 1.0,
    "sharpness": 0.0,
    "images": 2,
    "left_out": 0,
  }
  assert table["base"]["retrieval"] == 0.0
  assert table["base"]["questions"] == pytest.approx((0.5 + 1) / 2)
  # One prompt is none of the world's: counted, not judged.
  assert table["scenes"]["images"] == table["scenes"]["left_out"] == 1
  assert features["apprentice"].shape == (2, 3)


def test_the_line_ups_of_a_study_are_rendered_once(monkeypatch):
  rendered = []

  def count(shots, *, size_px):
    rendered.append(len(shots))
    return render(shots, size_px=size_px)

  monkeypatch.setattr("suti.world.dataset.render_shots", count)
  judging._embed_line_ups.cache_clear()
  for texts in (TEXTS, TEXTS, TEXTS[:1]):
    judging.judge_subject(
      cluster(DOGS[0]),
      {"apprentice": [(text, picture(DOGS[0])) for text in texts]},
      judge=see,
      listed={},
    )
  assert rendered == [2 * 25 * 2, 25 * 2]


def test_a_listed_prompt_asks_for_what_its_list_says():
  nothing = {"place": "", "look": "", "wardrobe": ""}
  listed = {
    "dog, snow": nothing | {"place": "snow", "look": "wet"},
    "a juggling dog": nothing,
  }
  dog = cluster(DOGS[0])

  def number(text):
    return judging.template_number(text, dog, listed)

  assert number("dog, snow") == compose(place="snow", look="wet")
  assert number("a dog in the snow") == 1  # a template, listed or not
  assert number("dog, jungle") is None
  # What a list says nothing of is not a dog in a studio.
  assert number("a juggling dog") is None


def run(tmp_path, images, *, truth=True):
  clusters = {c.key: c for c in (cluster(dog, truth=truth) for dog in DOGS)}
  config = ConfigDict({"judge": "somewhere"})
  return judging.judge_all(config, clusters, images, tmp_path, listed={})


def images_of(offset):
  return {
    f"{dog:012x}": [(text, picture(dog + offset)) for text in TEXTS]
    for dog in DOGS
  }


def test_all_systems_are_compared_with_true_renders(world, tmp_path):
  found = run(
    tmp_path,
    {
      "apprentice": images_of(0),
      "base": images_of(20_000),
      "scenes": images_of(0),
      "experts": {k: v for k, v in list(images_of(0).items())[:1]},
    },
  )
  systems = found["systems"]
  assert systems["apprentice"]["retrieval"]["mean"] == 1.0
  assert systems["apprentice"]["retrieval"]["of_real"]["mean"] == 1.0
  assert systems["apprentice"]["distance"]["mean"] == pytest.approx(0, abs=1e-6)
  assert systems["base"]["distance"]["mean"] != 0
  assert "of_real" not in systems["scenes"]["retrieval"]
  # One subject has an expert: no interval, and no distance between subjects.
  assert systems["experts"]["retrieval"]["low"] is None
  assert "distance" not in systems["experts"]
  assert found["differences"]["base"]["retrieval"]["subjects"] == 3
  assert found["differences"]["experts"]["retrieval"]["subjects"] == 1
  assert found["differences"]["base"]["retrieval"]["mean"] == pytest.approx(
    1 - systems["base"]["retrieval"]["mean"]
  )
  labels = {"apprentice": "<ours>", "base": "base", "scenes": "real"}
  page = "".join(judged({"judged": found}, labels=labels))
  assert "&lt;ours&gt;" in page and "0% in who" in page
  line = summary_line(found)
  assert line["apprentice_retrieval"] == line["scenes_questions"] == 1.0


def test_a_killed_judge_resumes_at_its_subject(world, tmp_path, monkeypatch):
  images = {"apprentice": images_of(0), "scenes": images_of(0)}
  first = run(tmp_path, images)

  def fail(*args, **kw):
    raise AssertionError("measured again")

  monkeypatch.setattr(judging, "judge_subject", fail)
  assert run(tmp_path, images) == first


def test_without_truth_it_says_that_nothing_is_judged(tmp_path, capsys):
  images = {"apprentice": images_of(0), "scenes": {}}
  found = run(tmp_path, images, truth=False)
  assert "no subject of the benchmark can be rendered" in found["absent"]
  assert found["absent"] in capsys.readouterr().out
  page = "".join(judged({"judged": found}, labels={}))
  assert "Absent: no subject" in page
  assert summary_line(found) == {}
