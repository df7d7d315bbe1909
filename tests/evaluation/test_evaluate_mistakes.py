# SPDX-License-Identifier: Apache-2.0
"""`suti evaluate` of what is missing, malformed or elsewhere."""

import json
import shutil

import numpy as np
import pytest

from suti.evaluation.benchmark import embeddings
from suti.evaluation.benchmark.evaluate import read_scores
from suti.evaluation.folders.reading import layout_of
from suti.images import save_png
from suti.io.files import read_json, send_folder, write_json
from suti.io.image_files import load_image
from suti.io.paths import path_of
from tests import tiny
from tests.commands import error_of, start
from tests.evaluation.benchmark_folders import (
  argv,
  link_encoders,
  picture,
  score,
)


def test_what_is_missing_extra_and_unreadable_is_named(
  data, encoders, tmp_path, capsys
):
  (tmp_path / "subjects").symlink_to(data / "subjects")
  pictures = tmp_path / "pictures"
  shutil.copytree(data / "pictures", pictures)
  shutil.rmtree(pictures / "dog" / "a_red_dog")
  (pictures / "teapot" / "a_red_teapot" / "1.png").write_bytes(b"no picture")
  save_png(pictures / "kettle" / "a_red_kettle" / "0.png", picture(1))
  save_png(pictures / "dog" / "a_dog_in_space" / "0.png", picture(1))
  assert start(*argv(tmp_path, encoders, tmp_path / "s")) == 0
  said = capsys.readouterr().err
  for words in (
    "1 prompts have too few pictures: dog: a red dog",
    "no subject 'kettle'",
    "no prompt 'a_dog_in_space' of dog",
    "1 pictures cannot be read and are left out",
    "cannot be read as a picture",
  ):
    assert words in said, words
  coverage = read_json(tmp_path / "s" / "metrics.json")["coverage"]
  assert coverage["scored"] == 5
  assert len(coverage["extra"]) == 2


def test_a_folder_without_pictures_is_one_line(data, tmp_path, capsys):
  (tmp_path / "empty").mkdir()
  said = error_of(
    capsys,
    *("evaluate", tmp_path / "empty", "--benchmark", data / "subjects"),
    *("--out", tmp_path / "s"),
  )
  assert "empty has no picture of the benchmark, read as" in said


def test_one_too_many_does_not_make_up_for_one_missing(
  data, encoders, tmp_path
):
  shutil.copytree(data / "pictures", tmp_path / "pictures")
  shutil.copytree(data / "subjects", tmp_path / "subjects")
  write_json(tmp_path / "subjects" / "benchmark.json", {"images_per_prompt": 2})
  place = tmp_path / "pictures" / "dog" / "a_red_dog"
  (place / "1.png").rename(place.with_name("a_dog_in_the_snow") / "7.png")
  metrics = score(tmp_path, encoders, tmp_path / "s")
  coverage = metrics["coverage"]
  assert coverage["scored"] == coverage["expected"] == 8
  assert coverage["missing"] and coverage["surplus"]
  assert not metrics["comparable"]


def test_pictures_of_a_subject_without_photographs_are_named(
  data, encoders, tmp_path
):
  (tmp_path / "pictures").symlink_to(data / "pictures")
  shutil.copytree(data / "subjects", tmp_path / "subjects")
  for path in (tmp_path / "subjects" / "dog").glob("*.png"):
    path.write_bytes(b"no picture")
  coverage = score(tmp_path, encoders, tmp_path / "s")["coverage"]
  assert coverage["scored"] == 4 and len(coverage["missing"]) == 2
  assert [x["why"] for x in coverage["extra"]] == [
    "no photograph of dog can be read"
  ] * 4


def test_what_could_not_be_read_is_tried_again(
  data, encoders, tmp_path, monkeypatch
):
  """As HEIC is once its package is there, in a file that has not changed."""
  (tmp_path / "subjects").symlink_to(data / "subjects")
  (tmp_path / "pictures").symlink_to(data / "pictures")

  def without(path):
    if path.name == "1.png" and path.parent.name == "a_red_dog":
      raise ValueError("install a package.")
    return load_image(path)

  monkeypatch.setattr(embeddings, "load_image", without)
  found = score(tmp_path, encoders, tmp_path / "s")["coverage"]
  assert found["scored"] == 7 and len(found["unreadable"]) == 1
  monkeypatch.setattr(embeddings, "load_image", load_image)
  found = score(tmp_path, encoders, tmp_path / "s")["coverage"]
  assert found["scored"] == 8 and not found["unreadable"]


def test_other_encoders_are_not_mixed_in(data, tmp_path, encoders, capsys):
  out = tmp_path / "s"
  assert start(*argv(data, encoders, out)) == 0
  other = link_encoders(
    tmp_path / "other",
    clip=encoders / "clip",
    identity=tiny.write_encoder(tmp_path / "identity", seed=9),
  )
  line = error_of(capsys, *argv(data, other, out))
  assert "holds an evaluation with another encoders" in line
  line = error_of(capsys, *argv(data, encoders, out, "--variant", "squash"))
  assert "holds an evaluation with another protocol" in line
  # Where there are no scores yet, a mistake can be mended.
  (out / "metrics.json").unlink()
  assert start(*argv(data, encoders, out, "--variant", "squash")) == 0


def test_masked_dinov2_wants_masks(data, tmp_path, tiny_clip, capsys):
  dinov2 = tiny.VISION | {"model_type": "dinov2", "mlp_ratio": 2}
  encoders = link_encoders(
    tmp_path / "encoders",
    clip=tiny_clip,
    identity=tiny.write_encoder(tmp_path / "dinov2", dinov2),
  )
  variant = ("--variant", "masked-dinov2")
  line = error_of(capsys, *argv(data, encoders, tmp_path / "a", *variant))
  assert "has no mask: expected 0.mask.png beside it" in line
  shutil.copytree(data / "subjects", tmp_path / "subjects")
  shutil.copytree(data / "pictures", tmp_path / "pictures")
  mask = np.zeros((64, 64, 3), np.uint8)
  mask[16:48, 8:56] = 255
  for folder in ("subjects", "pictures"):
    for path in list((tmp_path / folder).rglob("*.png")):
      save_png(path.with_name(f"{path.stem}.mask.png"), mask)
  out = tmp_path / "b"
  assert start(*argv(tmp_path, encoders, out, *variant)) == 0
  metrics = read_json(out / "metrics.json")
  assert metrics["protocol"]["masked"] and metrics["coverage"]["scored"] == 8


@pytest.mark.parametrize(
  ("more", "words"),
  [
    ((), "give either a FOLDER of pictures, or --model"),
    (("p", "--benchmark", "dreambench"), "needs --data"),
    (("p", "--data", "x"), "--data goes with --benchmark dreambench alone"),
    (("--model", "world_apprentice"), "--model needs --benchmark"),
    (("p", "--demonstrations", "0"), "--demonstrations=0 must be between"),
    (("p", "--variant", "dino"), "--variant=dino: expected single-reference"),
    (("p",), "p: no such folder"),
    (("p", "--num", "3"), "--num goes with --model alone: leave it out"),
    (
      ("--model", "m", "--benchmark", "b", "--list", "x"),
      "--list goes with a FOLDER alone",
    ),
    (("s3://b/x",), "s3://b/x is neither on a disk nor in a bucket"),
    (("{loop}",), "is a link that leads nowhere: give the place itself"),
    (
      ("{pictures}", "--benchmark", "{subjects}", "--list", "{loop}"),
      "is a link that leads nowhere",
    ),
    (
      ("{pictures}", "--benchmark", "{subjects}", "--list", "x"),
      "plain says itself what its files show: leave --list out",
    ),
    (
      ("{pictures}", "--benchmark", "{subjects}", "--variant", "vits8"),
      "--variant=vits8 is of published encoders: give their folder by",
    ),
    (("{pictures}", "--benchmark", "DreamBench"), "Did you mean 'dreambench'?"),
    (("{pictures}",), "--benchmark is missing: give dreambench"),
    (("{pictures}", "--benchmark", "{pictures}/x"), "no such folder"),
    (("{pictures}", "--layout", "unno"), "Did you mean 'uno'?"),
    (("{pictures}", "--layout", "csv"), "is not laid out as csv"),
    (("{pictures}", "--benchmark", "{empty}"), "no folder of photographs"),
    (
      ("{pictures}", "--benchmark", "{subjects}", "--encoders", "{empty}"),
      "no folder in it has a config.json",
    ),
    (
      ("{pictures}", "--benchmark", "{subjects}", "--encoders", "{one}"),
      "expected one CLIPModel (CLIP ViT-B/32) in it, found none",
    ),
    (
      ("{subjects}", "--benchmark", "{subjects}"),
      "has no picture of the benchmark, read as plain. 7 others",
    ),
  ],
)
def test_mistakes_are_one_line(
  more, words, data, tmp_path, tiny_identity, capsys
):
  (tmp_path / "empty").mkdir()
  (tmp_path / "one").mkdir()
  (tmp_path / "one" / "dino").symlink_to(tiny_identity)
  (tmp_path / "loop").symlink_to(tmp_path / "loop")
  places = {
    "pictures": data / "pictures",
    "subjects": data / "subjects",
    "empty": tmp_path / "empty",
    "one": tmp_path / "one",
    "loop": tmp_path / "loop",
  }
  more = [word.format(**places) for word in more]
  line = error_of(capsys, "evaluate", *more, "--out", tmp_path / "s")
  assert words in line


def test_everything_may_lie_in_a_bucket(
  data, encoders, tmp_path, scores, buckets, capsys, monkeypatch
):
  there = path_of("gs://bucket/there")
  for name in ("pictures", "subjects"):
    send_folder(data / name, there / name)
  assert start(*argv(there, encoders, there / "scores")) == 0
  found, here = (
    read_json(place / "metrics.json")["scores"]
    for place in (there / "scores", scores)
  )
  for name, value in here.items():
    assert found[name]["mean"] == pytest.approx(value["mean"], abs=1e-6)
  # Nothing is read again; the page and its pictures are written there.
  monkeypatch.setattr(embeddings, "load_image", None)
  assert start(*argv(there, encoders, there / "scores")) == 0
  assert start("report", there / "scores", "--out", there / "page") == 0
  assert (there / "page" / "index.html").is_file()
  assert len(list((there / "page" / "images").iterdir())) == 4 + 7
  line = error_of(
    capsys, "rate", there / "scores", "--out", there / "ratings.jsonl"
  )
  assert "is in a bucket, where this is not written: give a file" in line
  assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_not_written_into(
  data, encoders, tmp_path, capsys
):
  (tmp_path / "mine.txt").write_text("x")
  line = error_of(capsys, *argv(data, encoders, tmp_path))
  assert "holds other files: give a new folder" in line


def test_rows_that_are_damaged_are_named(scores, tmp_path):
  shutil.copytree(scores, tmp_path / "s")
  path = tmp_path / "s" / "pictures.jsonl"
  row = json.loads(path.read_text().splitlines()[0])
  del row["clip_t"]
  path.write_text(json.dumps(row))
  with pytest.raises(ValueError, match=r"pictures\.jsonl, line 1, is no row"):
    read_scores(tmp_path / "s")
  with pytest.raises(ValueError, match="give a folder that suti evaluate"):
    read_scores(tmp_path)


def test_a_layout_is_found(data, tmp_path):
  assert layout_of(data / "pictures") == "plain"
  (tmp_path / "x.csv").write_text("subject,prompt,path\n")
  assert layout_of(tmp_path / "x.csv") == "csv"
