# SPDX-License-Identifier: Apache-2.0
"""Measures by hand, rules, and errors."""

import dataclasses
import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from experts import filter as filters
from experts.selection import find, open_selection, read_scores, select
from suti.evaluation.measure import all_measures
from suti.evaluation.scores import delta_clip
from suti.hf.linear_head import Head, find_head, load_head
from suti.images import square_around
from suti.io.records import read_lines, write_records
from suti.runtime.stage import stage
from suti.schema import Candidate, Score
from tests.experts import inputs

CLUSTERS = inputs.make_clusters(2)
OF_LABELS = (
  "box_area", "box_aspect", "label_score", "mask_share", "masked_identity",
)  # fmt: skip


def candidate_of(cluster, prompt, number):
  (image,) = inputs.draw_pictures(100 + number, 1)
  return Candidate(
    key=f"{number:012x}",
    cluster=cluster.key,
    prompt=prompt,
    skill="attribute",
    image=image,
    seed=number,
    guidance=1.0,
  )


CANDIDATES = [
  candidate_of(cluster, prompt, 10 * i + j)
  for i, cluster in enumerate(CLUSTERS)
  for j, prompt in enumerate(("a red dog", "a wet dog", "a dog"))
]
# The same, each cluster's sampled in each other's sight.
GROUPED = [
  dataclasses.replace(c, group=c.cluster, number=number % 3)
  for number, c in enumerate(CANDIDATES)
]


def score_of(delta=0.1, identity=0.5, group=None):
  return Score(
    candidate="c", cluster="k", prompt="p", kept=False, group=group,
    values={"delta_clip": delta, "clip_t": 0.3, "identity": identity},
  )  # fmt: skip


def config_of(rule, *, name="suti", together=1):
  config = inputs.make_config({}).unlock()
  config.filter.update(name=name, rule=rule)
  config.sample.together = together
  return config


def kept(scores, rule, **kw):
  selection = open_selection(config_of(rule, **kw))
  return [score.kept for score in select(scores, selection)]


HEAD = Head(weight_D=np.float32([1, 2, 3]), bias=5.0)
GROUP = ("pair_identity", "distinct_pair_identity", "group_identity")


def scored(candidates, *, crop=False):
  return filters.score_all(
    candidates,
    {c.key: c for c in CLUSTERS},
    scorer=inputs.colour_scorer(),
    measures=all_measures(),
    head=HEAD,
    crop=crop,
  )


def test_measures_are_their_definitions():
  scorer = inputs.colour_scorer()
  scores = scored(CANDIDATES)
  assert [s.candidate for s in scores] == [c.key for c in CANDIDATES]
  for score, candidate in zip(scores, CANDIDATES, strict=True):
    cluster = next(c for c in CLUSTERS if c.key == candidate.cluster)
    (y,) = scorer.clip_images([candidate.image])
    (p,) = scorer.clip_texts([candidate.prompt])
    shown = scorer.clip_images(cluster.images)
    best = max(float(x @ p) for x in shown)
    by_hand = {
      "clip_t": float(y @ p),
      "delta_clip": float(y @ p) - best,
      "identity": float((shown @ y).mean()),
      "nearest": max(float(x @ y) for x in shown),
      # Each was sampled alone.
      **dict.fromkeys(GROUP, math.nan),
      "aesthetic": float(y @ HEAD.weight_D) + 5,
    } | dict.fromkeys(OF_LABELS, math.nan)  # nor is it labelled
    assert score.values == pytest.approx(by_hand, abs=1e-6, nan_ok=True)


def test_a_pair_is_of_one_group_and_no_image_is_its_own():
  encode = inputs.colour_scorer().identity
  candidates = list(GROUPED)
  for number in (1, 4, 5):  # copies: of the first group one, of the second all
    other = GROUPED[number // 3 * 3]
    candidates[number] = dataclasses.replace(
      candidates[number], image=other.image
    )
  y_GD = encode([c.image for c in candidates])
  bounded = 0
  for index, score in enumerate(scored(candidates)):
    first = index // 3 * 3
    rows = range(first, first + 3)
    cosines = [float(y_GD[i] @ y_GD[index]) for i in rows if i != index]
    distinct = max((x for x in cosines if x <= 0.98), default=math.nan)
    pairs = [float(y_GD[i] @ y_GD[j]) for i in rows for j in rows if i < j]
    bounded += math.isnan(distinct)
    assert {n: score.values[n] for n in GROUP} == pytest.approx(
      {
        "pair_identity": max(cosines),
        "distinct_pair_identity": distinct,
        "group_identity": sum(pairs) / 3,
      },
      abs=1e-6,
      nan_ok=True,
    )
  assert bounded == 3


def test_pairs_are_compared_by_squares_around_their_subjects():
  """Two subjects of one colour in scenes that have nothing in common."""
  found, size = [], inputs.SIZE_PX
  for number, scene in enumerate(([250, 10, 10], [10, 10, 250])):
    image = np.full((size, size, 3), scene, np.uint8)
    mask = np.zeros((size, size), bool)
    mask[4:8, 2 * number : 2 * number + 4] = True
    image[mask] = [20, 230, 30]
    found.append(dataclasses.replace(GROUPED[number], image=image, mask=mask))
  whole, cut = (
    scored(found, crop=crop)[0].values["pair_identity"]
    for crop in (False, True)
  )
  assert whole < 0.5 and cut == pytest.approx(1, abs=1e-6)


def test_a_square_around_a_subject_is_black_outside_of_the_picture():
  image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) + 1
  mask = np.zeros((4, 6), bool)
  mask[1, 2:6] = True
  square = square_around(image, mask)
  np.testing.assert_array_equal(square[:, :], image[:, 2:6])
  mask = np.zeros((4, 6), bool)
  mask[0, 0:3] = True
  square = square_around(image, mask)
  assert square.shape == (3, 3, 3) and not square[0].any()
  np.testing.assert_array_equal(square[1:], image[:2, :3])
  np.testing.assert_array_equal(square_around(image, mask & False), image)


def test_a_head_of_another_clip_is_one_line(tmp_path):
  path = tmp_path / "head.safetensors"
  weight, bias = np.arange(4, dtype=np.float16)[None], np.ones(1, np.float16)
  save_file({"weight": weight, "bias": bias}, path)
  head = load_head(str(path), width=4)
  assert head.score(np.float32([0, 0, 0, 1])) == 4.0
  field = f"config.filter.aesthetic='{path}'"
  with pytest.raises(ValueError) as caught:
    load_head(str(path), width=192)
  assert str(caught.value) == (
    f"{field} holds bias of 1, weight of 4: expected weight of 192, as wide as "
    "the embeddings of config.clip, and bias of 1."
  )
  assert find_head(str(path)) == path
  path.write_bytes(b"PK\x03\x04")
  with pytest.raises(ValueError, match=r"is no file of safetensors: convert a"):
    load_head(str(path), width=4)
  with pytest.raises(ValueError, match="there is no such file; give a linear"):
    load_head(str(tmp_path / "gone"), width=4)


def test_no_candidates_have_no_scores():
  assert scored([]) == []


def test_delta_clip_at_the_threshold_is_not_enough():
  scores = [score_of(0.0201), score_of(0.02), score_of(0.0199)]
  assert kept(scores, None) == [True, False, False]
  assert find("suti").rule == "delta_clip > 0.02"


def test_all_conditions_of_a_rule_must_hold():
  scores = [score_of(identity=x) for x in (-1.0, 0.4, 0.41)]
  assert kept(scores, "delta_clip > 0.02") == [True] * 3
  rule = "delta_clip > 0.02, identity > 0.4"
  assert kept(scores, rule) == [False, False, True]
  assert kept(scores, "identity <= 0.4, identity >= -1") == [True, True, False]
  assert kept(scores, "") == [True] * 3
  assert kept([score_of(math.nan)], "delta_clip < 3") == [False]


def test_cafe_asks_for_the_text_and_for_the_subject():
  scores = [score_of(identity=x) for x in (0.59, 0.6)]  # clip_t is 0.3
  assert kept(scores, None, name="cafe") == [False, True]


def test_a_filter_may_ask_for_whole_groups():
  scores = [
    score_of(identity=x, group=g)
    for g, x in (("a", 0.1), ("a", 0.9), ("b", 0.9), ("b", 0.8), ("b", 0.1))
  ]
  found = kept(scores, "identity > 0.5", name="syncd", together=3)
  assert found == [False, False, True, True, False]
  assert kept(scores, "identity > 0.5") == [False, True, True, True, False]


MISTAKES = {
  "no condition": (
    {"rule": "delta_clip = 0.02"},
    "config.filter.rule='delta_clip = 0.02': 'delta_clip = 0.02' is no "
    "condition: write NAME > NUMBER, or with >=, < or <=, and join several by "
    "commas, as in 'delta_clip > 0.02, identity > 0.6'.",
  ),
  "a comma too many": (
    {"rule": "identity > .5,"},
    "config.filter.rule='identity > .5,': '' is no condition: write NAME > "
    "NUMBER, or with >=, < or <=, and join several by commas, as in "
    "'delta_clip > 0.02, identity > 0.6'.",
  ),
  "no such measure": (
    {"rule": "detla_clip > 0.02"},
    "config.filter.rule='detla_clip > 0.02': there is no measure 'detla_clip'. "
    "There are aesthetic, box_area, box_aspect, clip_t, delta_clip, "
    "distinct_pair_identity, group_identity, identity, label_score, "
    "mask_share, masked_identity, nearest, pair_identity. Did you mean "
    "'delta_clip'?",
  ),
  "a measure that these candidates cannot have": (
    {"rule": "delta_clip > 0.02, pair_identity > 0.7"},
    "config.filter.rule='delta_clip > 0.02, pair_identity > 0.7': "
    "pair_identity compares images that were sampled in each other's sight, "
    "and the teacher 'dreambooth' samples each alone with "
    "config.sample.together=1: take another measure, or a teacher that samples "
    "several together.",
  ),
  "a measure of labels that there are none of": (
    {"rule": "box_area > 0.05"},
    "config.filter.rule='box_area > 0.05': box_area reads where the subject of "
    "an image is, and config.label.candidates='none' labels none: set it to "
    "segmenter, or to teacher if that says so, or take another measure.",
  ),
  "a filter of such measures": (
    {"rule": None, "name": "subject_diffusion"},
    "config.filter.rule (of experts/filters/subject_diffusion.py)="
    "'box_aspect >= 0.3, box_aspect <= 3, box_area >= 0.08, box_area <= 0.7, "
    "mask_share >= 0.6, label_score >= 0.3': box_aspect reads where the "
    "subject of an image is, and config.label.candidates='none' labels none: "
    "set it to segmenter, or to teacher if that says so, or take another "
    "measure.",
  ),
  "a measure without its head": (
    {"rule": None, "name": "syncd", "together": 3},
    "config.filter.rule (of experts/filters/syncd.py)='distinct_pair_identity "
    ">= 0.7, aesthetic >= 6': aesthetic needs a head, and "
    "config.filter.aesthetic='' names none: give the file of a linear head on "
    "config.clip, or a rule without it.",
  ),
  "groups of one": (
    {"rule": "identity > 0", "name": "syncd"},
    "config.filter.name='syncd' keeps groups of 2 images or more, and "
    "config.sample.together=1 samples each alone: take another filter, or a "
    "teacher that samples several together.",
  ),
  "no such filter": (
    {"rule": None, "name": "sutti"},
    "No filter 'sutti' (config.filter.name). experts/filters has cafe, "
    "subject_diffusion, suti, syncd. Did you mean 'suti'?",
  ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_text_of_a_mistake(name):
  fields, text = MISTAKES[name]
  with pytest.raises(ValueError) as caught:
    open_selection(config_of(**fields))
  assert str(caught.value) == text


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  inputs.write_stages(tmp_path, CLUSTERS)
  for i in range(2):
    write_records(
      tmp_path / f"experts/sample/wave-{i:05d}.array_record",
      CANDIDATES[3 * i : 3 * i + 3],
      kind=Candidate,
    )
  stage(tmp_path, "experts/sample", {}).finish({"waves": 2})
  calls = []

  def load(**_):
    calls.append(1)
    return inputs.colour_scorer()

  monkeypatch.setattr(filters, "load_scorer", load)
  return tmp_path, calls


def test_the_stage_scores_once_and_decides_again(workdir):
  folder, calls = workdir
  summary = filters.run(config_of("delta_clip > -2"), folder)
  assert summary["kept"] == summary["candidates"] == 6
  scores = read_scores(folder)
  deltas = sorted(s.values["delta_clip"] for s in scores)
  middle = (deltas[2] + deltas[3]) / 2
  config = config_of(f"delta_clip > {middle}")
  assert filters.run(config, folder)["kept"] == 3
  kept = {s.values["delta_clip"] for s in read_scores(folder) if s.kept}
  assert kept == set(deltas[3:])
  # A rule on other measures needs no new scores either.
  nearest = sorted(s.values["nearest"] for s in scores)
  rule = f"nearest < {(nearest[1] + nearest[2]) / 2}, clip_t > -1"
  assert filters.run(config_of(rule), folder)["kept"] == 2
  assert len(calls) == 1
  assert filters.run(config, folder)["kept"] == 3


def test_scores_without_a_measure_are_made_anew(workdir, monkeypatch):
  folder, calls = workdir
  fewer = {n: m for n, m in all_measures().items() if n != "nearest"}
  with monkeypatch.context() as patch:
    patch.setattr("experts.selection.all_measures", lambda: fewer)
    filters.run(config_of("identity > -1"), folder)
  filters.run(config_of("nearest > -1"), folder)
  assert len(calls) == 2
  assert all("nearest" in score.values for score in read_scores(folder))


def test_keeping_nothing_names_the_best_value_and_loses_no_score(workdir):
  folder, calls = workdir
  with pytest.raises(ValueError) as caught:
    filters.run(config_of("delta_clip > 1.9"), folder)
  best = max(s.values["delta_clip"] for s in _parts(folder))
  assert str(caught.value) == (
    "filter kept 0 of 6 candidates: the largest delta_clip is "
    f"{best:.3f}, and config.filter.rule='delta_clip > 1.9' asks for "
    "delta_clip > 1.9: loosen it, or tune the experts longer and guide them "
    "more."
  )
  rule = f"delta_clip > {best - 1e-3}"
  assert filters.run(config_of(rule), folder)["kept"] >= 1
  assert len(calls) == 1


def test_the_condition_that_drops_the_last_is_reported(workdir):
  folder, _ = workdir
  with pytest.raises(ValueError, match=r"largest identity of the 6 that pass"):
    filters.run(config_of("delta_clip > -2, identity > 0.9999"), folder)
  with pytest.raises(ValueError, match=r"the smallest clip_t is "):
    filters.run(config_of("clip_t < -0.9999"), folder)


def _parts(folder):
  files = sorted((folder / "experts/filter").glob("wave-*.jsonl"))
  return [s for file in files for s in read_lines(file, Score)]


def test_a_killed_run_resumes_at_its_wave(workdir, monkeypatch):
  folder, _ = workdir
  config = config_of("delta_clip > -2")
  filters.run(config, folder)
  whole = (folder / "experts/filter/scores.jsonl").read_bytes()
  for name in ("scores.jsonl", "done.json", "wave-00001.jsonl"):
    (folder / "experts/filter" / name).unlink()
  seen = []
  score_all = filters.score_all

  def counted(candidates, *args, **kw):
    seen.append([c.key for c in candidates])
    return score_all(candidates, *args, **kw)

  monkeypatch.setattr(filters, "score_all", counted)
  filters.run(config, folder)
  assert seen == [[c.key for c in CANDIDATES[3:]]]
  assert (folder / "experts/filter/scores.jsonl").read_bytes() == whole


def test_candidates_that_are_gone_are_named_and_not_left_out(workdir):
  folder, _ = workdir
  config = config_of("delta_clip > -2")
  first = folder / "experts/sample/wave-00000.array_record"
  kept = first.read_bytes()
  first.unlink()
  with pytest.raises(
    ValueError, match=r"wave-00000\.array_record is gone, and"
  ):
    filters.run(config, folder)
  assert not _parts(folder)
  first.write_bytes(kept)
  assert filters.run(config, folder)["candidates"] == 6
  last = folder / "experts/sample/wave-00001.array_record"
  last.unlink()
  line = "delete wave-00001.json and done.json in .*/experts/sample and run"
  with pytest.raises(ValueError, match=line):
    filters.run(config_of("delta_clip > -1"), folder)


def test_the_masked_maximum_ignores_what_is_not_there():
  x = inputs.unit(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
  text = inputs.unit(np.array([0.1, 0.2, 0.9]))
  delta = delta_clip(x[1], x, text, np.array([True, True, False]))
  assert float(delta) == pytest.approx(0.0, abs=1e-6)
