# SPDX-License-Identifier: Apache-2.0
"""Mining: which pages become clusters, and why others do not."""

import csv
import dataclasses
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from experts import mine
from experts.clusters import find_clusters, read_clusters
from experts.farm.waves import wave_data
from experts.mining import sources
from experts.mining.decisions import decisions
from suti.io.image_files import load_image
from suti.pipeline.backbone import load_backbone
from suti.runtime.stage import guard
from tests.experts import inputs
from tests.pipeline import tiny_pipelines


def save(folder, images):
  folder.mkdir(parents=True)
  for number, image in enumerate(images):
    # Four times the side: photographs of 16 px are refused.
    image = image.repeat(4, axis=0).repeat(4, axis=1)
    Image.fromarray(image).save(folder / f"{number}.png")


@pytest.fixture
def photos(tmp_path):
  """Two good subjects, one with a picture twice, and one with too few."""
  root = tmp_path / "photos"
  save(root / "brown_dog", inputs.draw_pictures(1, 4))
  save(root / "old_teapot", [*inputs.draw_pictures(2, 3)] * 2)
  save(root / "vase", inputs.draw_pictures(3, 2))
  return root


@pytest.fixture(autouse=True)
def judge(monkeypatch):
  monkeypatch.setattr(mine, "load_scorer", lambda **_: inputs.colour_scorer())


def config_of(path, **kw):
  config = inputs.make_config({}).unlock()
  fields = {"source": "folder", "path": str(path), "max_images": 10}
  config.mine.update(fields | kw)
  return config


def test_a_folder_of_subjects(photos, tmp_path):
  summary = mine.run(config_of(photos), tmp_path / "run")
  assert summary == {
    "pages": 3,
    "clusters": 2,
    "dropped_few_pictures": 1,
    "pictures_unreadable": 0,
    "pictures_repeated": 3,
    "pictures_unlike_text": 0,
  }
  clusters = read_clusters(tmp_path / "run")
  assert [c.key for c in clusters] == sorted(c.key for c in clusters)
  found = {c.source: c for c in clusters}
  assert found["brown_dog"].subject == "dog"
  assert found["brown_dog"].caption == "a brown dog"
  assert found["brown_dog"].live
  assert len(found["old_teapot"].images) == 3
  assert found["old_teapot"].truth is None
  one = find_clusters(clusters, [clusters[1].key])
  assert one[clusters[1].key].source == clusters[1].source
  with pytest.raises(ValueError, match="has no cluster 000000000000"):
    find_clusters(clusters, ["0" * 12])
  folder = tmp_path / "run/experts/mine"
  assert not list(folder.glob("part-*"))


def test_sizes_that_pictures_had_reach_the_net(tmp_path):
  """SDXL's sizes: how large a photograph was, and what of it is shown."""
  for number, image in enumerate(inputs.draw_pictures(1, 3, size_px=64)):
    (tmp_path / "photos" / "dog").mkdir(parents=True, exist_ok=True)
    path = tmp_path / "photos" / "dog" / f"{number}.png"
    Image.fromarray(image).resize((64 + 32 * number, 96)).save(path)
  mine.run(config_of(tmp_path / "photos"), tmp_path / "run")
  (cluster,) = read_clusters(tmp_path / "run")
  assert cluster.originals == ((96, 64), (96, 96), (96, 128))
  folder = tiny_pipelines.write("sdxl", tmp_path / "sdxl")
  data = wave_data([cluster], load_backbone(folder), num_pictures=4, seed=0)
  np.testing.assert_array_equal(
    data["conditioning"]["time_ids_BI"][0],
    [
      [96, 64, 4, 0, 16, 16],  # 24 x 16 once scaled
      [96, 96, 0, 0, 16, 16],
      [96, 128, 0, 2, 16, 16],  # 16 x 21
      [96, 128, 0, 2, 16, 16],  # filled up
    ],
  )


def test_a_key_is_of_the_pictures_not_of_the_order_of_folders(photos, tmp_path):
  mine.run(config_of(photos), tmp_path / "a")
  shutil.rmtree(photos / "vase")
  save(photos / "a_candle", inputs.draw_pictures(7, 3))
  mine.run(config_of(photos), tmp_path / "b")
  keys = [
    {c.source: c.key for c in read_clusters(tmp_path / name)}
    for name in ("a", "b")
  ]
  assert keys[0].items() < keys[1].items()


class KilledError(Exception):
  """Stands for kill -9."""


def test_a_killed_run_resumes_at_its_part(photos, tmp_path, monkeypatch):
  monkeypatch.setattr(mine, "_PAGES_PER_PART", 1)
  mine.run(config_of(photos), tmp_path / "whole")
  write, opened = mine.write_records, []

  def die_in_third(path, *args, **kw):
    if path.stem == "part-00002":
      raise KilledError
    return write(path, *args, **kw)

  with monkeypatch.context() as patch:
    patch.setattr(mine, "write_records", die_in_third)
    with pytest.raises(KilledError):
      mine.run(config_of(photos), tmp_path / "killed")

  def watched(path, **kw):
    opened.append(path)
    return load_image(path, **kw)

  monkeypatch.setattr(sources, "load_image", watched)
  mine.run(config_of(photos), tmp_path / "killed")
  assert {p.parent.name for p in opened} == {"vase"}
  for name in ("clusters.array_record", "clusters.keys", "pages.json"):
    path = f"experts/mine/{name}"
    whole = (tmp_path / "whole" / path).read_bytes()
    assert (tmp_path / "killed" / path).read_bytes() == whole


def row_of(image, *, text="a dog", truth=None, view=None):
  return sources.Row(text=text, load=lambda: image, truth=truth, view=view)


def page_of(name, images, **kw):
  return sources.Page(url=name, rows=tuple(row_of(i, **kw) for i in images))


def mine_pages(pages, **kw):
  scorer = inputs.colour_scorer()
  settings = {"similarity_low": 0.8, "similarity_high": 0.9999, **kw}
  return mine.mine_pages(
    pages,
    config_of("", **settings).mine,
    size_px=16,
    scorer=scorer,
    match=mine.text_matcher(scorer),
  )


def test_the_band_drops_mixtures_and_repetitions():
  (base,) = inputs.draw_pictures(1, 1)
  near = [base.copy() for _ in range(4)]
  for i, image in enumerate(near):
    image[0, 0] = i
  mixed = [inputs.draw_pictures(seed, 1)[0] for seed in (1, 4, 6, 9)]
  pages = [
    page_of("good", inputs.draw_pictures(1, 4)),
    page_of("repeated", near),
    page_of("mixed", mixed),
  ]
  vectors = [
    inputs.colour_scorer().clip_images([r.load() for r in p.rows])
    for p in pages
  ]
  means = [mine.mean_over_distinct_pairs(v) for v in vectors]
  low, high = (means[0] + means[2]) / 2, (means[0] + means[1]) / 2
  assert means[2] < low < means[0] < high < means[1]
  clusters, facts = mine_pages(pages, similarity_low=low, similarity_high=high)
  assert [c.source for c in clusters] == ["good"]
  assert [f["outcome"] for f in facts] == [
    "kept",
    "same_picture",
    "different_subjects",
  ]
  np.testing.assert_allclose([f["similarity"] for f in facts], means, rtol=1e-6)
  chosen = [dataclasses.replace(page, chosen=True) for page in pages]
  clusters, _ = mine_pages(chosen, similarity_low=low, similarity_high=high)
  assert len(clusters) == 3


def test_large_pages_are_cut_and_truth_is_carried():
  page = page_of("page", inputs.draw_pictures(1, 14), truth="world:train:3")
  (cluster,), (fact,) = mine_pages([page], similarity_high=1.0)
  assert len(cluster.images) == len(cluster.captions) == 10
  assert cluster.truth == ("world:train:3",) * 10
  assert fact["pictures"] == 14


def test_a_bad_picture_is_left_out_and_named(photos, tmp_path, capsys):
  # A name that is no text, as disks keep one that was written in Latin-1.
  path = photos / "brown_dog" / os.fsdecode(b"1\xe9.png")
  (photos / "brown_dog" / "1.png").rename(path)
  path.write_bytes(b"\x89PNG\r\n no picture")
  summary = mine.run(config_of(photos), tmp_path / "run")
  assert (summary["clusters"], summary["pictures_unreadable"]) == (2, 1)
  lines = capsys.readouterr().err.splitlines()
  (line,) = (line for line in lines if "cannot be read and" in line)
  assert line.startswith(
    f"brown_dog: 1 of 4 pictures cannot be read and is left out, the first: "
    f"{photos / 'brown_dog' / '1?.png'} cannot be read as a picture"
  )
  good = page_of("page", inputs.draw_pictures(1, 3))
  bad = row_of(None)
  bad = dataclasses.replace(bad, load=lambda: load_image(path))
  page = dataclasses.replace(good, rows=(bad, *good.rows))
  (cluster,), (fact,) = mine_pages([page], similarity_high=1.0)
  assert (fact["unreadable"], len(cluster.images)) == (1, 3)


def test_decisions_on_each_subject_are_printed(photos, tmp_path, capsys):
  (photos / "brown_dog").rename(photos / "Rex")
  mine.run(config_of(photos, max_images=3), tmp_path / "run")
  (rex,) = (c for c in read_clusters(tmp_path / "run") if c.source == "Rex")
  lines = capsys.readouterr().err.splitlines()
  (line,) = (line for line in lines if line.startswith("Rex: "))
  assert line.startswith(
    f"Rex: its noun is '{rex.subject}'; its name has no known noun; CLIP finds "
    "it in the pictures, at "
  )
  assert lines[-4:] == [
    line,
    "old_teapot: its noun is 'teapot'; its name is a known noun.",
    "vase is left out: 2 different pictures, and config.mine.min_images=3 are "
    "needed.",
    "1 pictures of 1 subjects are not used, most of Rex (1): "
    "config.mine.max_images=3, of a benchmark 1000.",
  ]


def test_what_was_decided_is_bounded():
  facts = [
    {"url": f"u{i}", "outcome": "kept", "noun": "dog", "why": "it is so",
     "unreadable": 0, "unlike_text": 0, "unused": 0}
    for i in range(50)
  ]  # fmt: skip
  lines = decisions(facts, config_of("").mine)
  assert len(lines) == 21
  assert lines[-1] == "... and 30 more subjects: experts/mine/pages.json."


def test_nothing_mined_has_a_reason(photos, tmp_path):
  with pytest.raises(ValueError) as caught:
    mine.run(config_of(photos, min_images=5), tmp_path / "run")
  assert str(caught.value) == (
    "Cluster brown_dog has 4 images, and no other has more; experts need 5 "
    "(config.mine.min_images)."
  )
  facts = [
    {"outcome": "different_subjects", "similarity": 0.5, "pictures": 4},
    {"outcome": "few_pictures", "pictures": 1},
  ]
  for fact in facts:
    fact.update(unreadable=0, repeated=0, first_unreadable="")
    fact["unlike_text"] = 0
  message = mine._nothing(facts, config_of("", similarity_low=0.82).mine)
  assert message.startswith("mine kept 0 of 2 pages: mean CLIP similarities")
  assert "config.mine.similarity_low=0.82" in message
  facts[1] |= {"outcome": "different_classes", "similarity": 0.9}
  message = mine._nothing(facts, config_of("", similarity_low=0.82).mine)
  assert message.startswith(
    "mine kept 0 of 2 pages: the texts of 1 name subjects of different classes,"
    " and mean CLIP similarities of the others are 0.500 to 0.500, outside"
  )
  # Inside the band alone: it is not to blame.
  assert mine._nothing(facts[1:], config_of("").mine) == (
    "mine kept 0 of 1 pages: the texts of 1 name subjects of different classes."
  )


@pytest.fixture
def web(photos, tmp_path):
  """A table's writer: (rows of url, path, text) -> config of mining it."""

  def write(rows, **kw):
    path = tmp_path / "web.csv"
    with path.open("w", newline="") as file:
      csv.writer(file).writerows([("url", "path", "text"), *rows])
    return config_of(path, source="table", similarity_high=1.0, **kw)

  return write


def error_of(config, workdir):
  with pytest.raises(ValueError) as caught:
    mine.run(config, workdir)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_missing_pictures_of_a_table_are_reported(web, tmp_path):
  rows = [(f"u{i % 2}", f"images/{i}.png", "a dog") for i in range(6)]
  path = tmp_path / "web.csv"
  assert error_of(web(rows), tmp_path / "run") == (
    f"No page of config.mine.path='{path}' has enough pictures, experts need 3"
    " (config.mine.min_images): 6 of 6 pictures could not be read; the first:"
    f" {tmp_path}/images/0.png does not exist: give a JPEG, PNG or WebP file."
    f" Paths of a table begin in the folder {tmp_path}."
  )
  rows = [("u", f"https://x.test/{i}.png", "a dog") for i in range(3)]
  assert "the first: https://x.test/0.png is an address (https://)" in (
    error_of(web(rows), tmp_path / "other")
  )


def test_a_table_with_a_url_per_picture_explains_url(web, tmp_path):
  rows = [(f"u/{i}.png", f"photos/brown_dog/{i}.png", "") for i in range(4)]
  assert error_of(web(rows), tmp_path / "run") == (
    f"No page of config.mine.path='{tmp_path}/web.csv' has more than 1 picture,"
    " experts need 3 (config.mine.min_images): url is the page that a picture"
    " stands on, not the picture, and the pictures of one url form a cluster."
    " Give those of one subject the same url."
  )


def test_pictures_that_are_left_out_are_reported(web, tmp_path, capsys):
  rows = [("u", f"photos/brown_dog/{i}.png", "a dog") for i in range(5)]
  summary = mine.run(web(rows), tmp_path / "run")
  assert (summary["clusters"], summary["pictures_unreadable"]) == (1, 1)
  assert (
    "u: 1 of 5 pictures cannot be read and is left out, the first:"
    f" {tmp_path}/photos/brown_dog/4.png does not exist"
  ) in capsys.readouterr().err


def test_repeated_pictures_are_reported_and_the_remedy_works(tmp_path):
  save(tmp_path / "photos" / "dog", [*inputs.draw_pictures(2, 1)] * 4)
  config = config_of(tmp_path / "photos")
  said = []

  def run():
    with pytest.raises(ValueError) as caught:
      mine.run(config, tmp_path / "run")
    said.append(str(caught.value))
    raise caught.value

  assert guard(run) == 2
  assert said == [
    "Cluster dog has 1 images (and 3 that show the same as one of them), and no"
    " other has more; experts need 3 (config.mine.min_images)."
  ]
  config.mine.min_images = 1
  assert mine.run(config, tmp_path / "run")["clusters"] == 1


def test_texts_beside_pictures_become_captions(photos, tmp_path):
  (photos / "brown_dog" / "0.txt").write_text("a dog in the snow")
  # What a person put together stays, whatever the texts name.
  (photos / "brown_dog" / "1.txt").write_text("a teapot on a table")
  mine.run(config_of(photos), tmp_path / "run")
  found = {c.source: c for c in read_clusters(tmp_path / "run")}
  assert found["brown_dog"].captions[:3] == (
    "a dog in the snow",
    "a dog",
    "a dog",
  )


def test_pictures_behind_a_link_are_mined_and_belong_to_the_stage(
  photos, tmp_path
):
  photos.rename(tmp_path / "far")
  photos.mkdir()
  (photos / "brown_dog").symlink_to(tmp_path / "far" / "brown_dog")
  assert mine.run(config_of(photos), tmp_path / "run")["clusters"] == 1
  (tmp_path / "far" / "brown_dog" / "0.png").unlink()
  with pytest.raises(ValueError, match=r"what config\.mine\.path names has"):
    mine.run(config_of(photos), tmp_path / "run")


def fact_of(outcome, truth, views):
  return {"outcome": outcome, "truth": truth, "views": views}


def test_purity_and_recall():
  facts = [
    fact_of("kept", ["a"] * 4, 4),
    fact_of("kept", ["b", "b", "b", "c"], 4),  # a mixture got in
    fact_of("different_subjects", ["d"] * 3, 3),  # lost
    fact_of("different_subjects", ["e", "f", "g"], 3),
    fact_of("same_picture", ["h"] * 5, 1),  # rightly dropped
    fact_of("few_pictures", ["i"] * 2, 2),
  ]
  assert mine.measure(facts, min_images=3) == {
    "purity": 7 / 8,
    "recall": 1 / 2,
  }
  assert mine.measure([fact_of("kept", [None], 1)], min_images=1) == {}


def test_texts_that_name_two_classes_drop_a_page():
  images = inputs.draw_pictures(1, 4)
  texts = ("a brown dog in the snow", "IMG_1.jpg", "a dog", "a red teapot")
  page = sources.Page(
    url="page",
    rows=tuple(
      row_of(image, text=text)
      for image, text in zip(images, texts, strict=True)
    ),
  )
  clusters, (fact,) = mine_pages([page], similarity_high=1.0)
  assert (clusters, fact["outcome"]) == ([], "different_classes")
  page = dataclasses.replace(page, rows=page.rows[:3])
  (cluster,), _ = mine_pages([page], similarity_high=1.0)
  assert cluster.captions == ("a dog in the snow", "a dog", "a dog")


def test_the_band_is_found_where_the_fewest_pages_are_wrong():
  def fact(similarity, subjects, views):
    truth = [f"world:validation:{i}" for i in range(subjects)] * 3
    return {
      "outcome": "kept",
      "similarity": similarity,
      "truth": truth,
      "views": views,
    }

  facts = [
    *(fact(s, 2, 6) for s in (0.1, 0.2, 0.3, 0.62)),
    *(fact(s, 1, 3) for s in (0.5, 0.6, 0.7, 0.8)),
    *(fact(s, 1, 1) for s in (0.95, 0.97)),
    {"outcome": "few_pictures", "truth": ["a"], "views": 1},
  ]
  band = mine.calibrate(facts, min_images=3)
  assert band["similarity_low"] == pytest.approx(0.4)
  assert band["similarity_high"] == pytest.approx(0.875)
  unknown = [fact | {"truth": []} for fact in facts]
  assert mine.calibrate(unknown, min_images=3) == {}


def test_the_world_is_read_as_rows(monkeypatch, tmp_path):
  from suti.world import dataset

  calls = []

  def web_rows(split, *, num_pages, seed, start, size_px):
    calls.append((split, num_pages, seed, start, size_px))
    for page in range(start, num_pages):
      for i, image in enumerate(inputs.draw_pictures(page, 3)):
        yield dataset.WebRow(
          url=f"page-{page}",
          alt_text="a dog in the snow",
          image=image,
          truth=f"world:train:{page}",
          view=str(i),
        )

  monkeypatch.setattr(dataset, "web_rows", web_rows)
  config = config_of("", source="world", num_pages=4, similarity_high=1.0)
  summary = mine.run(config, tmp_path)
  assert calls == [("train", 4, 0, 0, 16)]
  assert (summary["clusters"], summary["purity"], summary["recall"]) == (
    4,
    1,
    1,
  )
  cluster = read_clusters(tmp_path)[0]
  assert cluster.captions == ("a dog in the snow",) * 3


def test_held_out_subjects_are_written_as_they_are(monkeypatch, tmp_path):
  from suti.world import dataset

  clusters = inputs.make_clusters(3)

  def heldout(split, *, num_subjects, images_each, size_px, nouns):
    assert nouns == ()
    return clusters[::-1][:num_subjects]

  monkeypatch.setattr(dataset, "heldout", heldout)
  config = config_of("", source="heldout", split="test", num_pages=2)
  assert mine.run(config, tmp_path) == {"clusters": 2}
  found = [c.key for c in read_clusters(tmp_path)]
  assert found == [clusters[1].key, clusters[2].key]
