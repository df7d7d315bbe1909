# SPDX-License-Identifier: Apache-2.0
"""The filter measured by the world's truth."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from experts import truth
from suti.evaluation.judge import Judged
from suti.io.files import read_json
from suti.io.records import write_lines, write_records
from suti.runtime.stage import stage
from suti.schema import Candidate, Score, seed_of
from suti.world.dataset import Shot, render_shots, subject_seeds
from suti.world.judge import STYLE_NAMES, fit_judge
from suti.world.look_alikes import line_up
from suti.world.templates import LIVE_TEMPLATES, class_of
from tests.experts import inputs

(DOG,) = [
  int(s) for s in subject_seeds("test", 0, 60) if class_of(int(s)) == "dog"
][:1]
(CLUSTER,) = inputs.make_clusters(1)
CLUSTER = dataclasses.replace(
  CLUSTER, truth=(f"world:test:{DOG}",) * len(CLUSTER.images)
)
PLACES = ("a {} in the snow", "a {} in the jungle", "a {} on the beach")


@pytest.fixture(scope="module")
def pictures():
  """A true render of each prompt."""
  texts = [template.text for template in LIVE_TEMPLATES]
  shots = [
    Shot(subject=DOG, template=texts.index(text), seed=3) for text in PLACES
  ]
  return render_shots(shots, size_px=32)["image"]  # the judge's size


@pytest.fixture
def small_judge(monkeypatch):
  judge = fit_judge(live=True, num_subjects=3, shots_each=1)
  monkeypatch.setattr(truth, "fit_judge", lambda *, live: judge)

  class Rembrandts:
    """Whose judgement of styles is always the same: it is tested elsewhere."""

    def choose(self, images):
      return [STYLE_NAMES.index("Rembrandt")] * len(images)

  monkeypatch.setattr(truth, "fit_style_judge", Rembrandts)


def candidate_of(prompt, image, number):
  return Candidate(
    key=f"{number:012x}", cluster=CLUSTER.key, prompt=prompt, skill="attribute",
    image=np.asarray(image), seed=number, guidance=1.0,
  )  # fmt: skip


def write_workdir(workdir, candidates, kept):
  inputs.write_stages(workdir, [CLUSTER])
  sample = stage(workdir, "experts/sample", {})
  write_records(
    sample.folder / "wave-00000.array_record", candidates, kind=Candidate
  )
  sample.finish({"waves": 1})
  filtered = stage(workdir, "experts/filter", {})
  scores = [
    Score(
      candidate=c.key, cluster=c.cluster, prompt=c.prompt,
      values={"delta_clip": 0.1, "clip_t": 0.3}, kept=k,
    )
    for c, k in zip(candidates, kept, strict=True)
  ]  # fmt: skip
  write_lines(filtered.folder / "scores.jsonl", scores)
  filtered.finish({})


def test_kept_pictures_of_their_prompt_match_and_dropped_ones_do_not(
  pictures, small_judge, tmp_path, capsys, monkeypatch
):
  prompts = [text.format("dog") for text in PLACES]
  # Right pictures are kept, those of another prompt dropped.
  candidates = [
    *[
      candidate_of(p, x, i)
      for i, (p, x) in enumerate(zip(prompts, pictures, strict=True))
    ],
    candidate_of(prompts[0], pictures[1], 7),
    candidate_of(prompts[1], pictures[2], 8),
    candidate_of("a Rembrandt styled painting of a dog", pictures[0], 9),
    candidate_of("a mosaic of a dog in the snow", pictures[0], 10),
  ]
  write_workdir(tmp_path, candidates, [True] * 3 + [False] * 4)
  # Who is shown is told below.
  monkeypatch.setattr(
    truth, "subject_matches", lambda asked, *_, **__: np.arange(len(asked)) < 4
  )
  summary = truth.run(ConfigDict({"judge": "world_judge"}), tmp_path)
  assert (summary["kept"], summary["dropped"]) == (3, 4)
  assert summary["match_kept"] > 0.6
  assert summary["match_dropped"] == 0.25  # the Rembrandt alone
  assert read_json(tmp_path / "experts/filter/truth.json") == summary
  # Three of five show their scene; delta_clip, the same for all, tells nothing.
  found = summary["calibration"]
  assert found["right"] == {
    "scene": pytest.approx(0.6),
    "subject": pytest.approx(0.8),
    "both": pytest.approx(0.6),
  }
  assert found["measures"]["delta_clip"]["scene"]["area"] == 0.5
  assert "delta_clip" in capsys.readouterr().out


def test_who_is_shown_is_told_among_look_alikes(pictures, monkeypatch):
  """By a judge that knows pictures by their pixels."""

  def look(images):
    flat = np.stack([np.asarray(x, np.float32).ravel() for x in images])
    flat -= flat.mean()
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return Judged(features_NF=unit, identity_ND=unit, answers={})

  monkeypatch.setattr(truth, "load_judge", lambda name: look)
  template = [t.text for t in LIVE_TEMPLATES].index(PLACES[0])
  prompt = PLACES[0].format("dog")
  shots = line_up(DOG, template=template, seeds=[seed_of("line-up", prompt, 0)])
  mine, other = render_shots([shots[0], shots[5]], size_px=32)["image"]
  asked = [
    (candidate_of(prompt, x, i), template) for i, x in enumerate((mine, other))
  ]
  shown = truth.subject_matches(asked, {CLUSTER.key: CLUSTER}, judge="any")
  assert list(shown) == [True, False]
  stranger = dataclasses.replace(CLUSTER, truth=None)
  shown = truth.subject_matches(asked, {CLUSTER.key: stranger}, judge="any")
  assert not shown.any()


def test_other_prompts_have_no_truth(pictures, tmp_path):
  candidate = candidate_of("a dog on the moon", pictures[0], 1)
  write_workdir(tmp_path, [candidate], [True])
  with pytest.raises(ValueError, match="no candidate of SubjectWorld's"):
    truth.run(None, tmp_path)
  other = dataclasses.replace(candidate, prompt="")
  assert truth.matches([other], {CLUSTER.key: CLUSTER}, live=True) == []
