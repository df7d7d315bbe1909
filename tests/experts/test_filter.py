# SPDX-License-Identifier: Apache-2.0
"""Delta-CLIP by hand, thresholds, and errors."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from experts import filter as filters
from suti.io.records import write_records
from suti.runtime.stage import stage
from suti.schema import Candidate, Score
from tests.experts import inputs

CLUSTERS = inputs.make_clusters(2)


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


def score_of(delta, identity=0.5):
  return Score(
    candidate="c", cluster="k", prompt="p", delta_clip=delta, clip_t=0.3,
    best_demonstration=0.3 - delta, identity=identity, kept=False,
  )  # fmt: skip


def thresholds(threshold, identity_threshold=None):
  return ConfigDict(
    {"threshold": threshold, "identity_threshold": identity_threshold}
  )


def test_scores_are_the_definition():
  scorer = inputs.colour_scorer()
  scores = filters.score_all(
    CANDIDATES, {c.key: c for c in CLUSTERS}, scorer=scorer
  )
  assert [s.candidate for s in scores] == [c.key for c in CANDIDATES]
  for score, candidate in zip(scores, CANDIDATES, strict=True):
    cluster = next(c for c in CLUSTERS if c.key == candidate.cluster)
    (y,) = scorer.clip_images([candidate.image])
    (p,) = scorer.clip_texts([candidate.prompt])
    shown = scorer.clip_images(cluster.images)
    assert score.clip_t == pytest.approx(float(y @ p), abs=1e-6)
    best = max(float(x @ p) for x in shown)
    assert score.best_demonstration == pytest.approx(best, abs=1e-6)
    assert score.delta_clip == pytest.approx(float(y @ p) - best, abs=1e-6)
    assert score.identity == pytest.approx(float((shown @ y).mean()), abs=1e-6)


def test_no_candidates_have_no_scores():
  assert filters.score_all([], {}, scorer=inputs.colour_scorer()) == []


def test_the_threshold_itself_is_not_enough():
  assert filters.passes(score_of(0.0201), thresholds(0.02))
  assert not filters.passes(score_of(0.02), thresholds(0.02))
  assert not filters.passes(score_of(0.0199), thresholds(0.02))


def test_identity_counts_only_with_a_threshold():
  assert filters.passes(score_of(0.1, identity=-1.0), thresholds(0.02))
  assert not filters.passes(score_of(0.1, identity=0.4), thresholds(0.02, 0.4))
  assert filters.passes(score_of(0.1, identity=0.41), thresholds(0.02, 0.4))


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


def config_of(threshold, identity_threshold=None):
  config = inputs.make_config({}).unlock()
  config.filter.update(
    threshold=threshold, identity_threshold=identity_threshold
  )
  return config


def test_the_stage_scores_once_and_decides_again(workdir):
  folder, calls = workdir
  summary = filters.run(config_of(-2.0), folder)
  assert summary["kept"] == summary["candidates"] == 6
  deltas = sorted(s.delta_clip for s in filters.read_scores(folder))
  config = config_of((deltas[2] + deltas[3]) / 2)
  assert filters.run(config, folder)["kept"] == 3
  kept = {s.delta_clip for s in filters.read_scores(folder) if s.kept}
  assert kept == set(deltas[3:])
  assert len(calls) == 1
  assert filters.run(config, folder)["kept"] == 3


def test_keeping_nothing_names_the_best_value_and_loses_no_score(workdir):
  folder, calls = workdir
  with pytest.raises(ValueError) as caught:
    filters.run(config_of(1.9), folder)
  best = max(s.delta_clip for s in _parts(folder))
  assert str(caught.value).startswith(
    f"filter kept 0 of 6 candidates: best delta-CLIP {best:.3f} <= "
    "config.filter.threshold 1.9"
  )
  assert filters.run(config_of(best - 1e-3), folder)["kept"] >= 1
  assert len(calls) == 1


def test_keeping_nothing_because_of_identity_is_reported(workdir):
  folder, _ = workdir
  with pytest.raises(ValueError, match=r"identity of at most .* <= config.fil"):
    filters.run(config_of(-2.0, 0.9999), folder)


def _parts(folder):
  files = sorted((folder / "experts/filter").glob("wave-*.jsonl"))
  return [s for file in files for s in filters.read_lines(file, Score)]


def test_a_killed_run_resumes_at_its_wave(workdir, monkeypatch):
  folder, _ = workdir
  filters.run(config_of(-2.0), folder)
  whole = (folder / "experts/filter/scores.jsonl").read_bytes()
  for name in ("scores.jsonl", "done.json", "wave-00001.jsonl"):
    (folder / "experts/filter" / name).unlink()
  seen = []
  score_all = filters.score_all

  def counted(candidates, *args, **kw):
    seen.append([c.key for c in candidates])
    return score_all(candidates, *args, **kw)

  monkeypatch.setattr(filters, "score_all", counted)
  filters.run(config_of(-2.0), folder)
  assert seen == [[c.key for c in CANDIDATES[3:]]]
  assert (folder / "experts/filter/scores.jsonl").read_bytes() == whole


def test_candidates_that_are_gone_are_named_and_not_left_out(workdir):
  folder, _ = workdir
  first = folder / "experts/sample/wave-00000.array_record"
  kept = first.read_bytes()
  first.unlink()
  with pytest.raises(
    ValueError, match=r"wave-00000\.array_record is gone, and"
  ):
    filters.run(config_of(-2.0), folder)
  assert not _parts(folder)
  first.write_bytes(kept)
  assert filters.run(config_of(-2.0), folder)["candidates"] == 6
  last = folder / "experts/sample/wave-00001.array_record"
  last.unlink()
  line = "delete wave-00001.json and done.json in .*/experts/sample and run"
  with pytest.raises(ValueError, match=line):
    filters.run(config_of(-1.0), folder)


def test_the_masked_maximum_ignores_what_is_not_there():
  x = inputs.unit(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
  text = inputs.unit(np.array([0.1, 0.2, 0.9]))
  delta = filters.delta_clip(x[1], x, text, np.array([True, True, False]))
  assert float(delta) == pytest.approx(0.0, abs=1e-6)


def test_records_keep_what_the_filter_measured(workdir):
  folder, _ = workdir
  measured = filters.score_all(
    CANDIDATES, {c.key: c for c in CLUSTERS}, scorer=inputs.colour_scorer()
  )
  deltas = sorted(score.delta_clip for score in measured)
  threshold = (deltas[2] + deltas[3]) / 2
  filters.run(config_of(threshold), folder)
  assert filters.read_scores(folder) == [
    dataclasses.replace(score, kept=score.delta_clip > threshold)
    for score in measured
  ]
