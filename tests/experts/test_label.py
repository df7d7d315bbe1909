# SPDX-License-Identifier: Apache-2.0
"""Masks beside pictures become labels, and labels masks of examples."""

import dataclasses

import numpy as np
import pytest

from experts import label, pack
from experts.clusters import write_clusters
from experts.mining.folders import find_subjects
from experts.mining.labels import Found, box_of, spoil
from suti.images import save_png, square_crop_resize
from suti.io.image_files import load_image
from suti.io.records import open_examples, write_lines, write_records
from suti.runtime.stage import stage
from suti.schema import Candidate, Cluster, Score, content_key
from tests.experts import inputs

SIZE_PX = 16


@pytest.fixture
def photos(tmp_path):
  """Three pictures of 64 x 96 px with masks for all but the last."""
  rng = np.random.default_rng(0)
  folder = tmp_path / "photos" / "rex"
  for number in range(3):
    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
    save_png(folder / f"{number}.png", image)
    if number < 2:
      mask = np.zeros_like(image)
      mask[16:48, 32 + 8 * number : 64] = 255
      save_png(folder / f"{number}.mask.png", mask)
  return tmp_path / "photos"


@pytest.fixture
def workdir(photos, tmp_path):
  (subject,) = find_subjects(photos)
  images = tuple(
    square_crop_resize(load_image(file), SIZE_PX) for file in subject.files
  )
  cluster = Cluster(
    key=content_key(*images),
    subject="dog",
    caption="a dog",
    images=images,
    captions=("a dog",) * 3,
    live=True,
    source="rex",
  )
  inputs.write_stages(tmp_path / "run", [cluster])
  return tmp_path / "run", cluster


def config_of(photos, **fields):
  config = inputs.make_config({}).unlock()
  config.mine.update(source="folder", path=str(photos))
  config.label.update({"source": "folder"} | fields)
  return config


def test_masks_are_no_pictures_of_a_subject(photos):
  (subject,) = find_subjects(photos)
  assert [file.name for file in subject.files] == ["0.png", "1.png", "2.png"]


def test_labels_are_the_masks_cut_like_their_pictures(workdir, photos):
  folder, cluster = workdir
  config = config_of(photos)
  summary = label.run(config, folder)
  assert summary == {"pictures": 3, "labelled": 2, "parts": 1}
  labels = label.read_labels(folder, config)[cluster.key]
  assert [each.number for each in labels] == [0, 1, 2]
  for number, each in enumerate(labels[:2]):
    # Of the square from column 16, at a quarter of the size.
    mask = np.zeros((SIZE_PX, SIZE_PX), bool)
    mask[4:12, 4 + 2 * number : 12] = True
    np.testing.assert_array_equal(each.masks[0], mask)
    left = (4 + 2 * number) / SIZE_PX
    assert each.boxes_xyxy == ((left, 0.25, 0.75, 0.75),)
    assert (each.names, each.scores) == (("dog",), (1.0,))
  assert labels[2].names == labels[2].masks == ()


def test_a_killed_run_ends_in_the_same_labels(workdir, photos, monkeypatch):
  folder, _ = workdir
  config = config_of(photos, jitter=0.1, erode=1)
  label.run(config, folder)
  file = folder / "experts/label/part-00000.array_record"
  whole = file.read_bytes()
  for name in ("part-00000.array_record", "done.json"):
    (folder / "experts/label" / name).unlink()
  label.run(config, folder)
  assert file.read_bytes() == whole


def test_nothing_found_is_one_line(workdir, photos):
  folder, _ = workdir
  with pytest.raises(ValueError) as caught:
    label.run(config_of(photos, miss=1.0), folder)
  assert str(caught.value) == (
    "config.label.source='folder' knows none of the 3 pictures: lay "
    "NAME.mask.png beside NAME, lower config.label.miss, or set "
    "config.label.source=none."
  )


def test_sources_that_do_not_fit_are_one_line(workdir, photos):
  folder, cluster = workdir
  with pytest.raises(ValueError, match=r"label\.source='none' labels nothing"):
    label.run(config_of(photos, source="none"), folder)
  with pytest.raises(ValueError) as caught:
    label.label(cluster, config_of(photos, source="world"))
  assert str(caught.value) == (
    f"config.label.source='world', and cluster {cluster.key} of "
    "config.mine.source='folder' is not rendered: set "
    "config.label.source=folder and lay masks beside the pictures, or none."
  )
  save_png(photos / "rex" / "2.mask.png", np.zeros((64, 64, 3), np.uint8))
  with pytest.raises(ValueError) as caught:
    label.label(cluster, config_of(photos))
  assert str(caught.value) == (
    f"{photos / 'rex' / '2.mask.png'} has 64x64 px, and its picture 96x64: "
    "save the mask in the picture's size."
  )


def test_masks_of_no_folder_are_one_line(workdir, photos):
  folder, _ = workdir
  for path in (photos / "absent", photos / "rex" / "0.png", "~nobody-here/x"):
    with pytest.raises(ValueError) as caught:
      label.run(config_of(photos, path=str(path)), folder)
    assert str(caught.value) == (
      f"config.label.source='folder', and {path} is no folder: give one of "
      "subject folders, with NAME.mask.png beside NAME, as config.label.path, "
      "or set config.label.source=none."
    )
    (folder / "experts/label/stage.json").unlink()


def test_a_damaged_cluster_is_named_and_the_others_labelled(workdir, photos):
  folder, cluster = workdir
  (other,) = inputs.make_clusters(1)
  both = {c.key: c for c in (cluster, dataclasses.replace(other, key="f" * 12))}
  write_clusters(folder / "experts/mine", sorted(both), iter(both.values()))
  # Another lies in its place.
  keys = folder / "experts/mine/clusters.keys"
  keys.write_text(f"{cluster.key}\n{'f' * 11}e\n")
  summary = label.run(config_of(photos), folder)
  assert (summary["pictures"], summary["labelled"]) == (3, 2)
  assert summary["clusters_damaged"] == f"{'f' * 11}e"


def test_noise_takes_away_and_shifts():
  config = config_of(".", miss=0.5, jitter=0.0, erode=1).label
  mask = np.zeros((9, 9), bool)
  mask[2:7, 2:7] = True
  found = [
    spoil(Found(mask, None, None), config, np.random.default_rng(seed))[0]
    for seed in range(200)
  ]
  kept = [each for each in found if each is not None]
  assert 70 < len(kept) < 130
  smaller = np.zeros((9, 9), bool)
  smaller[3:6, 3:6] = True
  np.testing.assert_array_equal(kept[0].mask, smaller)
  rng = np.random.default_rng(0)
  boxes = np.array([box_of(mask, jitter=0.1, rng=rng) for _ in range(500)])
  np.testing.assert_allclose(
    boxes.mean(0), [2 / 9, 2 / 9, 7 / 9, 7 / 9], atol=0.01
  )
  np.testing.assert_allclose(boxes.std(0), 0.1 * 5 / 9, rtol=0.15)


def write_candidates(folder, cluster, *, masks):
  """Three images of a group, all kept but the last; and one alone."""
  images = inputs.draw_pictures(5, 4)
  candidates = [
    Candidate(
      key=f"{number:012x}",
      cluster=cluster.key,
      prompt=f"a dog, number {number}",
      skill="attribute",
      image=image,
      seed=number,
      guidance=1.0,
      group=cluster.key if number < 3 else None,
      number=number % 3,
      mask=image[..., 0] > 100 if masks else None,
    )
    for number, image in enumerate(images)
  ]
  write_records(
    folder / "experts/sample/wave-00000.array_record",
    candidates,
    kind=Candidate,
  )
  scores = [
    Score(
      candidate=c.key,
      cluster=c.cluster,
      prompt=c.prompt,
      values={"delta_clip": 0.1 if c.seed != 2 else -0.1},
      kept=c.seed != 2,
      group=c.group,
    )
    for c in candidates
  ]
  write_lines(folder / "experts/filter/scores.jsonl", scores)
  for name in ("sample", "filter"):
    stage(folder, f"experts/{name}", {}).finish({"waves": 1})
  return candidates


def test_examples_know_where_the_subject_is(workdir, photos):
  folder, cluster = workdir
  config = config_of(photos)
  config.filter.rule = "delta_clip > 0"
  label.run(config, folder)
  candidates = write_candidates(folder, cluster, masks=True)
  pack.run(config, folder)
  masks = [e.masks for e in label.read_labels(folder, config)[cluster.key]]
  for example in open_examples(folder / "experts/pack"):
    candidate = candidates[int(example.key, 16)]
    np.testing.assert_array_equal(example.mask, candidate.mask)
    assert (example.group, example.origin) == (candidate.group, "dreambooth")
    first, second, unknown = example.demonstration_masks
    np.testing.assert_array_equal(first, masks[0][0])
    np.testing.assert_array_equal(second, masks[1][0])
    assert unknown.all()


def test_images_of_a_group_demonstrate_each_other(workdir, photos):
  folder, cluster = workdir
  config = config_of(photos, source="none")
  config.filter.rule = "delta_clip > 0"
  config.pack.demonstrations = "group"
  candidates = write_candidates(folder, cluster, masks=True)
  pack.run(config, folder)
  examples = {e.key: e for e in open_examples(folder / "experts/pack")}
  shown = {
    int(key, 16): [e for e in example.captions]
    for key, example in examples.items()
  }
  # The third was dropped, the fourth was sampled alone.
  assert shown == {0: ["a dog, number 1"], 1: ["a dog, number 0"], 3: []}
  (mask,) = examples[candidates[0].key].demonstration_masks
  np.testing.assert_array_equal(mask, candidates[1].mask)
