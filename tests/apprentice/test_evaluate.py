# SPDX-License-Identifier: Apache-2.0
"""Stage 8: the protocol's numbers, by hand."""

import json
import math
import types

import numpy as np
import pytest

from apprentice import evaluate
from suti.evaluation.scores import Scorer, load_scorer
from suti.io.files import read_json, write_json
from suti.io.records import read_records, write_records
from suti.runtime.stage import stage
from suti.schema import Candidate, Cluster, Prompt
from suti.world.templates import compose
from tests.apprentice import inputs

# Pictures and texts that a scorer reads an angle from.


def picture(degrees: int) -> np.ndarray:
  return np.full((16, 16, 3), degrees, np.uint8)


def unit(degrees) -> np.ndarray:
  radians = np.deg2rad(np.asarray(degrees, np.float64))
  return np.stack([np.cos(radians), np.sin(radians)], -1)


SCORER = Scorer(
  clip_images=lambda images: unit([2.0 * x[0, 0, 0] for x in images]),
  clip_texts=lambda texts: unit([float(text) for text in texts]),
  identity=lambda images: unit([float(x[0, 0, 0]) for x in images]),
)


def cos(degrees):
  return math.cos(math.radians(degrees))


def make_cluster(*angles, key="c", truth=None, live=True):
  return Cluster(
    key=key,
    subject="dog",
    caption="a dog",
    images=tuple(picture(angle) for angle in angles),
    captions=("a dog",) * len(angles),
    live=live,
    source="here",
    truth=truth,
  )


def test_the_measures_of_a_subject():
  table = evaluate.measure(
    make_cluster(0, 60),
    {"ours": [("0", picture(0)), ("90", picture(30))]},
    scorer=SCORER,
    num_shown=1,
    skills={"0": "attribute", "90": "style"},
    kinds={"0": "seen", "90": "held_out"},
  )
  # One pair of different real pictures, 60 degrees apart (120 for CLIP).
  assert table["real"]["identity"] == pytest.approx(cos(60))
  assert table["real"]["clip_i"] == pytest.approx(cos(120))
  assert "clip_t" not in table["real"]
  # 0 and 30 against 0 and 60.
  assert table["ours"]["identity"] == pytest.approx(
    (cos(0) + cos(60) + cos(30) + cos(30)) / 4
  )
  assert table["ours"]["clip_i"] == pytest.approx(
    (cos(0) + cos(120) + cos(60) + cos(60)) / 4
  )
  # Each picture against its own prompt alone.
  assert table["ours"]["clip_t"] == pytest.approx((cos(0) + cos(30)) / 2)
  assert table["ours"]["images"] == 2
  # The demonstration is the first picture, and the other's nearest.
  assert table["real"]["nearest"] == pytest.approx([cos(60)])
  assert table["ours"]["nearest"] == pytest.approx([1, cos(30)], abs=1e-4)
  assert table["ours"]["copying"] == pytest.approx((1 + cos(30)) / 2)
  assert "diversity" not in table["ours"]
  assert table["ours"]["by_skill"]["style"] == pytest.approx(
    {"identity": (cos(30) + cos(30)) / 2, "clip_t": cos(30)}
  )
  assert table["ours"]["by_kind"] == {
    "seen": table["ours"]["by_skill"]["attribute"],
    "held_out": table["ours"]["by_skill"]["style"],
  }


def test_a_subject_with_one_picture_has_no_pair_of_real_ones():
  image = np.zeros((8, 8, 3), np.uint8)
  one = Scorer(
    clip_images=lambda x: np.ones((len(x), 1)),
    clip_texts=lambda x: np.ones((len(x), 1)),
    identity=lambda x: np.ones((len(x), 1)),
  )
  table = evaluate.measure(
    types.SimpleNamespace(images=[image]),
    {name: [("a", image)] for name in ("apprentice", "base")},
    scorer=one,
    num_shown=1,
    skills={"a": "accessory"},
    kinds={"a": "seen"},
  )
  assert table["real"] == {"images": 1}
  found = evaluate.summarise({"only": table})
  assert found["systems"]["real"] == {"images": 1}
  assert "gap_closed" not in found


def test_two_images_of_a_prompt_have_a_distance():
  table = evaluate.measure(
    make_cluster(0, 60),
    {"ours": [("0", picture(0)), ("0", picture(30))]},
    scorer=SCORER,
    num_shown=0,
    skills={"0": "style"},
    kinds={"0": "seen"},
  )
  assert table["ours"]["diversity"] == pytest.approx(1 - cos(60))
  assert "copying" not in table["ours"]


def test_scenes_give_real_pictures_their_clip_t():
  table = evaluate.measure(
    make_cluster(0, 0),
    {"scenes": [("40", picture(10))]},
    scorer=SCORER,
    num_shown=1,
    skills={"40": "style"},
    kinds={"40": "seen"},
  )
  assert table["real"]["clip_t"] == pytest.approx(cos(20))


def row(identity, clip_t=0.2):
  return {
    "identity": identity,
    "clip_i": 0.5,
    "clip_t": clip_t,
    "images": 4,
  }


def test_means_and_errors_over_subjects():
  subjects = {
    "a": {"apprentice": row(0.6), "base": row(0.4, 0.25), "real": row(0.8)},
    "b": {"apprentice": row(0.8), "base": row(0.4, 0.25), "real": row(0.8)},
  }
  metrics = evaluate.summarise(subjects)
  ours = metrics["systems"]["apprentice"]
  assert ours["identity"]["mean"] == pytest.approx(0.7)
  # Sample deviation 0.1 * sqrt(2), over sqrt(2).
  assert ours["identity"]["stderr"] == pytest.approx(0.1)
  assert ours["identity"]["subjects"] == 2 and ours["images"] == 8
  assert metrics["gap_closed"] == pytest.approx(0.3 / 0.4)
  assert metrics["clip_t_drop"] == pytest.approx(0.05)
  assert metrics["per_subject"] == subjects
  assert "gap_closed_scenes" not in metrics
  subjects["a"]["scenes"] = row(0.6)
  assert evaluate.summarise(subjects)["gap_closed_scenes"] == pytest.approx(
    0.3 / 0.2
  )
  assert "apprentice_expert_subjects" not in metrics["systems"]


def test_experts_of_some_subjects_are_compared_on_those():
  subjects = {
    "a": {"apprentice": row(0.6), "experts": row(0.5), "real": row(0.8)},
    "b": {"apprentice": row(0.8), "real": row(0.8)},
  }
  systems = evaluate.summarise(subjects)["systems"]
  assert systems["experts"]["identity"]["subjects"] == 1
  assert systems["experts"]["identity"]["stderr"] is None
  assert systems["apprentice_expert_subjects"]["identity"]["mean"] == 0.6


def test_no_gap_is_not_closed():
  subjects = {"a": {"apprentice": row(0.9), "base": row(0.9), "real": row(0.8)}}
  assert evaluate.summarise(subjects)["gap_closed"] is None


def test_scenes_are_rendered_where_the_truth_is_known(monkeypatch):
  cluster = make_cluster(0, truth=("world:test:7",))
  prompts = [
    Prompt(cluster="c", prompt="a dog in the snow", skill="style"),
    Prompt(cluster="c", prompt="a dog on the moon", skill="style"),
    Prompt(cluster="c", prompt="a dog wearing a red hat", skill="style"),
    Prompt(cluster="c", prompt="a mosaic of a dog in the snow", skill="style"),
    Prompt(cluster="c", prompt="a wet dog at sea", skill="style"),
  ]
  asked = []

  def render(shots, *, size_px):
    asked.extend((shot.subject, shot.template, shot.seed) for shot in shots)
    return {"image": [picture(i + size_px) for i in range(len(shots))]}

  monkeypatch.setattr("suti.world.dataset.render_shots", render)
  scenes = evaluate.render_scenes(
    {"c": cluster},
    prompts,
    {"a wet dog at sea": {"place": "water", "look": "wet", "wardrobe": ""}},
  )
  # No template says anything of the moon. Live subjects wear hats.
  assert [scene.prompt for scene in scenes] == [
    "a dog in the snow",
    "a dog wearing a red hat",
    "a mosaic of a dog in the snow",
    "a wet dog at sea",
  ]
  mosaic = compose(place="snow", style="mosaic")
  assert [(subject, template) for subject, template, _ in asked] == [
    (7, 1),
    (7, 10),
    (7, mosaic),
    (7, compose(look="wet", place="water")),
  ]
  assert len({seed for _, _, seed in asked}) == 4
  assert [scene.image[0, 0, 0] for scene in scenes] == [16, 17, 18, 19]
  assert {scene.cluster for scene in scenes} == {"c"}


def test_photos_have_no_scenes():
  prompts = [Prompt(cluster="c", prompt="a dog in the snow", skill="style")]
  assert evaluate.render_scenes({"c": make_cluster(0)}, prompts, {}) == []


def finish(workdir, name, summary=None, **done):
  """A finished stage's folder, with the times given."""
  stage(workdir, name, {}).finish(summary or {})
  path = workdir / name / "done.json"
  write_json(path, read_json(path) | done)


@pytest.fixture
def workdir(tmp_path):
  """Two subjects sampled from apprentice and base; an expert for the first."""
  clusters = inputs.write_benchmark(tmp_path)
  rng = np.random.default_rng(3)

  def draw(cluster, prompt):
    return Candidate(
      key=f"{rng.integers(1 << 30):012x}",
      cluster=cluster.key,
      prompt=prompt,
      skill="attribute",
      image=inputs.draw_picture(rng),
      seed=0,
      guidance=1.0,
    )

  def write(path, clusters):
    write_records(
      path,
      [draw(c, prompt) for c in clusters for prompt in inputs.TEXTS[2:]],
      kind=Candidate,
    )

  sampled = tmp_path / "apprentice" / "sample"
  write(sampled / "apprentice-00000.array_record", clusters)
  write(sampled / "base-00000.array_record", clusters)
  finish(
    tmp_path,
    "apprentice/sample",
    {
      "images": 4,
      "systems": ["apprentice", "base"],
      "demonstrations": 2,
      "seconds_per_image": 0.5,
      "base_seconds_per_image": 0.4,
    },
  )
  experts = tmp_path / "benchmark" / "experts"
  write(experts / "sample" / "wave-00000.array_record", clusters[:1])
  benchmark = tmp_path / "benchmark"
  finish(benchmark, "experts/finetune", {"seconds_per_expert": 30.0})
  finish(
    benchmark, "experts/sample", {"candidates": 2, "seconds_per_image": 2.0}
  )
  return tmp_path


def test_the_stage(workdir, tiny_backbone, tiny_clip, tiny_identity):
  config = inputs.make_config(
    tiny_backbone, clip=tiny_clip, identity=tiny_identity
  )
  summary = evaluate.run(config, workdir)
  folder = workdir / "apprentice" / "evaluate"
  metrics = read_json(folder / "metrics.json")
  assert set(metrics["systems"]) == {
    "apprentice",
    "apprentice_expert_subjects",
    "base",
    "experts",
    "real",
  }
  assert metrics["systems"]["apprentice"]["images"] == 4
  assert metrics["pictures"] == {
    "references": 6,
    "references_each": [3, 3],
    "demonstrations_each": [2, 2],
  }
  assert set(metrics["copying"]["above_band"]) == {
    "apprentice",
    "base",
    "experts",
  }
  assert set(metrics["by_skill"]) == {"attribute"}
  assert set(metrics["by_kind"]) == {"unknown"}
  encode = load_scorer(clip=tiny_clip, identity=tiny_identity).identity
  mine = workdir / "benchmark/experts/mine/clusters.array_record"
  real = {c.key: c.images for c in read_records(mine, Cluster)}
  ours = inputs.drawn_by(
    (workdir / "apprentice/sample").glob("apprentice-*.array_record")
  )
  base = inputs.drawn_by(
    (workdir / "apprentice/sample").glob("base-*.array_record")
  )
  experts = inputs.drawn_by(
    (workdir / "benchmark").rglob("wave-*.array_record")
  )
  assert len(ours) == len(base) == 2 and len(experts) == 1
  for name, drawn in {
    "apprentice": ours,
    "apprentice_expert_subjects": {key: ours[key] for key in experts},
    "base": base,
    "experts": experts,
    "real": None,
  }.items():
    by_hand = inputs.mean_identity(encode, real, drawn)
    found = metrics["systems"][name]["identity"]["mean"]
    assert found == pytest.approx(by_hand, abs=1e-6), name
  assert len(read_records(folder / "scenes.array_record", Candidate)) == 0
  # (30 to tune + 2 to sample) / 0.5
  assert metrics["speedup"] == pytest.approx(64.0)
  assert summary["speedup"] == pytest.approx(64.0)
  ours = metrics["systems"]["apprentice"]["identity"]["mean"]
  assert summary["apprentice_identity"] == ours
  # The models here have no record of what they were trained with.
  about = metrics["benchmark"]
  assert (about["base"], about["lessons"], about["split"]) == (
    "unknown",
    "unknown",
    "",
  )
  assert about["kinds"] == dict.fromkeys(inputs.TEXTS[2:], "unknown")


def test_a_killed_evaluation_resumes_at_its_subject(
  workdir, tiny_backbone, tiny_clip, tiny_identity
):
  config = inputs.make_config(
    tiny_backbone, clip=tiny_clip, identity=tiny_identity
  )
  folder = workdir / "apprentice" / "evaluate"
  # What a run wrote before it was killed is taken as it is.
  measured = {n: row(0.25) for n in ("apprentice", "base", "real")}
  write_json(folder / "subjects" / f"{0:012x}.json", measured)
  evaluate.run(config, workdir)
  metrics = read_json(folder / "metrics.json")
  assert metrics["per_subject"][f"{0:012x}"] == measured
  other = metrics["per_subject"][f"{1:012x}"]["apprentice"]
  assert other["identity"] != 0.25


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("apprentice/sample/base-00000", "has 0 of the 4 images that were samp"),
    ("benchmark/experts/sample/wave-00000", "has 0 of the 2 images that w"),
  ],
)
def test_pictures_that_are_gone_are_not_left_out(
  workdir, tiny_backbone, tiny_clip, tiny_identity, name, text
):
  config = inputs.make_config(
    tiny_backbone, clip=tiny_clip, identity=tiny_identity
  )
  (workdir / f"{name}.array_record").unlink()
  with pytest.raises(ValueError, match=text):
    evaluate.run(config, workdir)


@pytest.mark.parametrize("where", ["../neighbour", "{}/neighbour"])
def test_a_run_of_others_writes_nowhere_else(
  workdir, tiny_backbone, tiny_clip, tiny_identity, where
):
  """A neighbour's file, which the name of a subject's would lead to."""
  config = inputs.make_config(
    tiny_backbone, clip=tiny_clip, identity=tiny_identity
  )
  folder = workdir / "apprentice" / "evaluate"
  folder.mkdir()
  (folder / "neighbour.json").write_text("mine")
  path = workdir / "benchmark" / "experts" / "prompts" / "prompts.jsonl"
  prompts = [json.loads(line) for line in path.read_text().splitlines()]
  prompts[0]["cluster"] = where.format(folder)
  path.write_text("\n".join(map(json.dumps, prompts)))
  with pytest.raises(ValueError, match=r"prompts\.jsonl, line 1, .*12 hex"):
    evaluate.run(config, workdir)
  assert (folder / "neighbour.json").read_text() == "mine"
  assert not (folder / "subjects").exists()


def test_what_was_not_timed_is_left_out(workdir):
  path = workdir / "benchmark" / "experts" / "finetune" / "done.json"
  done = read_json(path)
  del done["summary"]["seconds_per_expert"]  # one step, which compiled
  write_json(path, done)
  times = evaluate._times(workdir)
  assert times == {
    "apprentice_seconds_per_image": 0.5,
    "base_seconds_per_image": 0.4,
  }
  assert evaluate._speedup(times) is None


def test_without_experts_there_is_no_speed_up(workdir):
  for name in ("finetune", "sample"):
    (workdir / "benchmark" / "experts" / name / "done.json").unlink()
  assert evaluate._speedup(evaluate._times(workdir)) is None
