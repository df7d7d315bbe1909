# SPDX-License-Identifier: Apache-2.0
"""`suti evaluate`: the scores, their tables, and how it resumes."""

import shutil
import types

import numpy as np
import pytest

from suti.evaluation import dreambench, protocol
from suti.evaluation.benchmark import embeddings
from suti.evaluation.benchmark import evaluate as evaluating
from suti.evaluation.benchmark.encoders import (
  Encoder,
  Encoders,
  open_encoders,
)
from suti.evaluation.benchmark.evaluate import Job, evaluate, read_scores
from suti.evaluation.benchmark.subjects import (
  Benchmark,
  Subject,
  mask_of,
)
from suti.evaluation.folders.pictures import Picture, reading
from suti.images import save_png
from suti.io.files import read_json
from suti.io.image_files import load_image
from tests.commands import start
from tests.evaluation.benchmark_folders import (
  PROMPTS,
  SUBJECTS,
  argv,
  picture,
  score,
)


def by_hand(data, encoders):
  """The metrics by loops over pairs, a picture at a time."""
  judges = open_encoders(encoders, protocol.Protocol())
  pairs = {"identity": [], "clip_i": []}
  texts, deltas, nearest = [], [], []
  for name, noun in SUBJECTS.items():
    real = [load_image(p) for p in sorted((data / "subjects" / name).glob("*"))]
    for prompt in PROMPTS:
      text = judges.texts([prompt.format(noun)])[0]
      place = data / "pictures" / name / prompt.format(noun).replace(" ", "_")
      for path in sorted(place.glob("*.png")):
        image = load_image(path)
        clip, identity = (
          e.embed([image])[0] for e in (judges.clip, judges.identity)
        )
        clips = [judges.clip.embed([x])[0] for x in real]
        ids = [judges.identity.embed([x])[0] for x in real]
        pairs["identity"] += [float(identity @ x) for x in ids]
        pairs["clip_i"] += [float(clip @ x) for x in clips]
        texts.append(float(clip @ text))
        deltas.append(texts[-1] - max(float(x @ text) for x in clips))
        nearest.append(max(float(identity @ x) for x in ids))
  return {
    **{name: np.mean(values) for name, values in pairs.items()},
    "clip_t": np.mean(texts),
    "delta_clip": np.mean(deltas),
    "copying": np.mean(nearest),
  }


def test_scores_are_means_over_all_pairs(scores, data, encoders):
  metrics, rows = read_scores(scores)
  expected = by_hand(data, encoders)
  for name, value in expected.items():
    assert metrics["scores"][name]["mean"] == pytest.approx(value, abs=1e-6)
  assert metrics["titles"]["identity"] == "identity"  # it is no published one
  # Subjects of 3 and of 4 photographs, 4 pictures each.
  assert metrics["pairs"] == 4 * 3 + 4 * 4
  assert len(rows) == 8
  found = metrics["scores"]["identity"]
  assert found["low"] <= found["mean"] <= found["high"]


def test_pairs_and_subjects_weigh_differently(data, encoders, tmp_path, scores):
  metrics = score(data, encoders, tmp_path / "s", "subject-mean")
  rows = read_scores(scores)[1]
  means = [
    np.mean([row.identity for row in rows if row.subject == name])
    for name in SUBJECTS
  ]
  found = metrics["scores"]["identity"]["mean"]
  assert found == pytest.approx(np.mean(means), abs=1e-6)
  pairs = read_json(scores / "metrics.json")["scores"]["identity"]["mean"]
  assert abs(found - pairs) > 1e-4


def test_variants_change_what_they_say(data, encoders, tmp_path, scores):
  rows = read_scores(scores)[1]
  metrics = score(data, encoders, tmp_path / "a", "clipscore")
  raw = np.array([row.clip_t for row in rows])
  assert metrics["scores"]["clip_t"]["mean"] == pytest.approx(
    np.mean(2.5 * np.maximum(raw, 0)), abs=1e-6
  )
  single = score(data, encoders, tmp_path / "b", "single-reference")
  assert single["pairs"] == len(rows)
  assert "no list has one of dog" in " ".join(single["warnings"])
  squashed = score(data, encoders, tmp_path / "c", "squash")
  prefixed = score(data, encoders, tmp_path / "d", "photo-prefix")
  mean = metrics["scores"]["identity"]["mean"]
  assert squashed["scores"]["identity"]["mean"] != pytest.approx(mean)
  assert prefixed["scores"]["clip_t"]["mean"] != pytest.approx(np.mean(raw))
  for found in (metrics, single, squashed, prefixed):
    assert not found["comparable"]
    assert "Not comparable with scores of the protocol." in found["warnings"][0]


def test_every_variant_has_a_warning_and_changes_the_protocol():
  assert {"single-reference", "subject-mean", "vits8", "dinov2"} <= set(
    protocol.VARIANTS
  )
  for name, variant in protocol.VARIANTS.items():
    assert protocol.choose([name]) != protocol.Protocol()
    assert len(variant.warning) > 20
  with pytest.raises(ValueError, match="both set identity: give one"):
    protocol.choose(["vits8", "dinov2"])
  with pytest.raises(ValueError, match="Did you mean 'squash'"):
    protocol.choose(["sqash"])


def test_real_pictures_have_a_row_and_copies_are_counted(
  data, encoders, tmp_path
):
  pictures = tmp_path / "pictures"
  shutil.copytree(data / "pictures", pictures)
  copy = pictures / "dog" / "a_red_dog" / "0.png"
  shutil.copyfile(data / "subjects" / "dog" / "01.png", copy)
  (tmp_path / "subjects").symlink_to(data / "subjects")
  metrics = score(tmp_path, encoders, tmp_path / "s")
  row = next(r for r in read_scores(tmp_path / "s")[1] if r.path == str(copy))
  assert row.copying == pytest.approx(1.0, abs=1e-5)
  real = metrics["real"]["copying"]
  assert real["low"] < real["high"] < 1
  assert metrics["copied"]["share"] >= 1 / 8
  assert metrics["real"]["identity"]["pictures"] == 7


def test_diversity_of_equal_pictures_is_nothing(data, encoders, tmp_path):
  (tmp_path / "subjects").symlink_to(data / "subjects")
  for k in range(2):
    path = tmp_path / "pictures" / "dog" / "a_red_dog" / f"{k}.png"
    save_png(path, picture(7))
  metrics = score(tmp_path, encoders, tmp_path / "s")
  assert metrics["scores"]["diversity"]["mean"] == pytest.approx(0, abs=1e-6)


def test_tables_by_subject_prompt_and_skill_add_up(scores):
  metrics = read_json(scores / "metrics.json")
  assert set(metrics["per_subject"]) == set(SUBJECTS)
  assert set(metrics["per_prompt"]) == set(PROMPTS)
  assert set(metrics["per_skill"]) == {"recontextualization", "attribute"}
  assert set(metrics["per_class"]) == {"dog", "teapot"}
  assert not metrics["per_category"]  # DreamBench's prompts have two
  for table in ("per_subject", "per_prompt", "per_skill"):
    rows = metrics[table].values()
    total = sum(row["pictures"] * row["clip_t"] for row in rows)
    assert total / 8 == pytest.approx(metrics["scores"]["clip_t"]["mean"])


def test_a_finished_one_reads_no_picture_again(
  data, encoders, tmp_path, monkeypatch, scores
):
  shutil.copytree(scores, tmp_path / "s")
  before = read_json(tmp_path / "s" / "metrics.json")
  monkeypatch.setattr(embeddings, "load_image", None)
  assert start(*argv(data, encoders, tmp_path / "s")) == 0
  assert read_json(tmp_path / "s" / "metrics.json") == before


def test_a_killed_one_goes_on_at_the_block(
  data, encoders, tmp_path, monkeypatch, scores
):
  monkeypatch.setattr(embeddings, "ROWS", 3)
  read, saved, save = [], [], embeddings._save

  def stop(*parts):
    if len(saved) == 7:  # of (3 + 3) x 2 blocks
      raise KeyboardInterrupt
    saved.append(parts)
    save(*parts)

  monkeypatch.setattr(embeddings, "_save", stop)
  out = tmp_path / "s"
  assert start(*argv(data, encoders, out)) == 130
  monkeypatch.setattr(embeddings, "_save", save)
  monkeypatch.setattr(
    embeddings, "load_image", lambda path: read.append(path) or load_image(path)
  )
  assert start(*argv(data, encoders, out)) == 0
  assert len(read) == 8  # the pictures' blocks, of which none was whole
  once, again = (read_json(x / "metrics.json")["scores"] for x in (scores, out))
  for name, value in once.items():
    assert again[name]["mean"] == pytest.approx(value["mean"], abs=1e-6)


def test_a_changed_picture_is_embedded_anew(data, encoders, tmp_path):
  (tmp_path / "subjects").symlink_to(data / "subjects")
  shutil.copytree(data / "pictures", tmp_path / "pictures")
  one = score(tmp_path, encoders, tmp_path / "s")
  path = tmp_path / "pictures" / "dog" / "a_red_dog" / "0.png"
  save_png(path, picture(12345))
  two = score(tmp_path, encoders, tmp_path / "s")
  assert one["scores"]["clip_i"]["mean"] != two["scores"]["clip_i"]["mean"]


def test_blocks_of_a_run_that_read_less_are_not_mixed_with_others(tmp_path):
  """One with masks leaves out a picture without one, for both encoders."""
  paths = [tmp_path / f"{k}.png" for k in range(3)]
  for k, path in enumerate(paths):
    save_png(path, np.full((64, 64, 3), 10 * k, np.uint8))
    if k != 1:
      save_png(mask_of(path), np.full((64, 64, 3), 255, np.uint8))
  both = {
    name: Encoder(
      prepare=lambda image: image,
      encode=lambda rows: np.array([[x.mean()] for x in rows]),
      record={},
      key=name,
      expected=True,
    )
    for name in ("clip", "identity")
  }
  store = tmp_path / "store"
  whole = embeddings.embed(paths, both, store=store)
  less = embeddings.embed(paths, both, store=store, masked=("identity",))
  assert list(less.unreadable) == [paths[1]]
  again = embeddings.embed(paths, both, store=store)
  for name in both:
    np.testing.assert_array_equal(again.of(name, paths), whole.of(name, paths))


def test_a_noun_is_a_whole_word():
  assert evaluating._template("a scarf on a car", "car") == "a scarf on a {}"
  assert evaluating._template("一只dog在雪地里", "dog") == "一只{}在雪地里"


def test_a_judge_that_filtered_is_said(data, encoders, tmp_path, capsys):
  more = ("--trained-with", encoders / "clip")
  assert start(*argv(data, encoders, tmp_path / "s", *more)) == 0
  assert "the CLIP encoder, clip, also had a part" in capsys.readouterr().err


def test_a_model_is_sampled_then_scored_and_not_sampled_again(
  data, encoders, tmp_path, monkeypatch
):
  from apprentice import benchmark

  calls = []

  def generate(apprentice, images, prompt, *, num, seed, **_):
    calls.append(prompt)
    return [picture(seed % 1000 + k) for k in range(num)]

  model = types.SimpleNamespace(sampling={"num_demonstrations": 2})
  monkeypatch.setattr(benchmark, "generate", generate)
  monkeypatch.setattr(benchmark, "load_apprentice", lambda name: model)
  out = tmp_path / "s"
  command = (
    *("evaluate", "--model", "world_apprentice", "--num", "2"),
    *("--benchmark", data / "subjects", "--encoders", encoders, "--out", out),
  )
  assert start(*command) == 0
  metrics = read_json(out / "metrics.json")
  assert len(calls) == 4 and metrics["coverage"]["scored"] == 8
  assert metrics["demonstrations"] == 2
  assert metrics["system"] == "world_apprentice"
  assert start(*command) == 0
  assert len(calls) == 4


def test_the_whole_benchmark_is_15800_pairs_in_one_go(tmp_path, monkeypatch):
  """3,000 pictures by encoders that cost nothing: the rest takes seconds."""
  rng = np.random.default_rng(0)

  def embed(images):
    x_ND = rng.normal(size=(len(images), 8)).astype(np.float32)
    return x_ND / np.linalg.norm(x_ND, axis=-1, keepdims=True)

  judge = Encoder(
    prepare=lambda image: image,
    encode=embed,
    record={"folder": "x", "fingerprint": "y", "class": "ViTModel"},
    key="0" * 12,
    expected=True,
  )
  encoders = Encoders(clip=judge, texts=embed, identity=judge, warnings=())
  monkeypatch.setattr(evaluating, "open_encoders", lambda *_: encoders)
  shown = dict.fromkeys(("clip", "identity"), np.zeros((64, 64, 3)))
  monkeypatch.setattr(embeddings, "_read", lambda *_: (shown, ""))
  subjects, pictures = {}, []
  for i, (name, noun) in enumerate(dreambench.SUBJECTS.items()):
    live = noun in dreambench.LIVE
    prompts = [t.text.format(noun) for t in dreambench.templates_of(live=live)]
    # 158 photographs in all.
    references = [tmp_path / name / f"{k}.jpg" for k in range(5 + (i < 8))]
    subjects[name] = Subject(
      noun=noun,
      references=tuple(references),
      prompts=tuple(prompts),
      category="live" if live else "object",
    )
    pictures += [
      Picture(subject=name, prompt=p, number=k, path=tmp_path / f"{name}{p}{k}")
      for p in prompts
      for k in range(4)
    ]
  benchmark = Benchmark(
    name="dreambench", subjects=subjects, images_per_prompt=4
  )
  job = Job(
    system="x",
    reading=reading(pictures, benchmark=benchmark),
    encoders="e",
  )
  metrics = evaluate(job, tmp_path / "scores")
  # 100 pictures a subject with each of its photographs.
  assert metrics["pairs"] == 15_800
  assert metrics["coverage"]["scored"] == 3000 and metrics["comparable"]
  assert metrics["scores"]["diversity"]["pictures"] == 3000
  assert metrics["titles"]["identity"] == "DINO"
  assert len(metrics["per_prompt"]) == 35  # 15 are of both groups
