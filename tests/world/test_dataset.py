# SPDX-License-Identifier: Apache-2.0
"""The web and its noise, held-out subjects, the tfds builder, the judge."""

import collections
import itertools
import sys

import numpy as np
import pytest

from suti.schema import Cluster
from suti.world import dataset
from suti.world.captions import caption, describe
from suti.world.dataset import heldout, web_rows
from suti.world.judge import fit_judge
from suti.world.labels import render_again
from suti.world.render import render_shots
from suti.world.templates import LIVE, Shot, class_of, split_of, subject_seeds

SIZE_PX = 32


def plans(split, *, pages, seed=0):
  """What pages hold, without drawing it."""
  return [dataset._page(split, page=page, seed=seed) for page in range(pages)]


@pytest.fixture(scope="module")
def rows():
  return list(web_rows("train", num_pages=6, seed=0, size_px=SIZE_PX))


def test_rows_of_a_page_stand_side_by_side(rows):
  urls = [url for url, _ in itertools.groupby(row.url for row in rows)]
  assert len(urls) == len(set(urls)) == 6
  for row in rows:
    assert row.image.shape == (SIZE_PX, SIZE_PX, 3)
    assert row.image.dtype == np.uint8
    world, split, seed = row.truth.split(":")
    assert (world, split) == ("world", "train")
    assert split_of(int(seed)) == "train"


def test_a_reader_that_starts_later_sees_the_same(rows):
  later = list(web_rows("train", num_pages=6, seed=0, start=4, size_px=SIZE_PX))
  assert 0 < len(later) < len(rows)
  for row, expected in zip(later, rows[-len(later) :], strict=True):
    assert (row.url, row.alt_text, row.truth) == (
      expected.url,
      expected.alt_text,
      expected.truth,
    )
    np.testing.assert_array_equal(row.image, expected.image)


def test_pictures_of_the_web_are_rendered_again_with_their_masks(rows):
  for url, page in itertools.groupby(rows, key=lambda row: row.url):
    page = list(page)
    cluster = Cluster(
      key="0" * 12,
      subject="",
      caption="",
      images=tuple(row.image for row in page),
      captions=("",) * len(page),
      live=False,
      source=url,
      truth=tuple(row.truth for row in page),
    )
    again = list(render_again(cluster, split="train", size_px=SIZE_PX))
    for row, (image, mask, depth, camera) in zip(page, again, strict=True):
      np.testing.assert_array_equal(image, row.image)
      assert mask.shape == depth.shape == (SIZE_PX, SIZE_PX)
      assert mask.dtype == bool and 0.01 < mask.mean() < 0.9
      assert depth.dtype == np.float16 and (depth[mask] > 0).all()
      assert len(camera) == 13


def test_heldout_pictures_are_rendered_again():
  (cluster,) = heldout("test", num_subjects=1, images_each=3, size_px=SIZE_PX)
  again = list(render_again(cluster, split="test", size_px=SIZE_PX))
  for image, (found, mask, *_) in zip(cluster.images, again, strict=True):
    np.testing.assert_array_equal(found, image)
    assert mask.any()


def test_the_web_has_all_its_kinds_of_noise():
  pages = plans("train", pages=600)
  subjects = [{plan.shot.subject for plan in page} for page in pages]
  views = [{plan.shot for plan in page} for page in pages]
  share = {
    "several subjects": np.mean([len(s) > 1 for s in subjects]),
    "too few pictures": np.mean([len(page) < 3 for page in pages]),
    "one picture again and again": np.mean(
      [
        len(page) > 2 and len(v) == 1
        for page, v in zip(pages, views, strict=True)
      ]
    ),
    "good": np.mean(
      [
        len(s) == 1 and len(v) >= 3
        for s, v in zip(subjects, views, strict=True)
      ]
    ),
  }
  assert 0.12 < share["several subjects"] < 0.25, share
  assert 0.08 < share["too few pictures"] < 0.2, share
  assert 0.1 < share["one picture again and again"] < 0.2, share
  assert share["good"] > 0.45, share
  assert max(map(len, pages)) == 10
  texts = collections.Counter(plan.alt_text for page in pages for plan in page)
  assert texts["buy now"] > 10
  true = np.mean(
    [
      plan.alt_text in (caption(plan.shot), caption(plan.shot, detailed=True))
      for page in pages
      for plan in page
    ]
  )
  assert 0.6 < true < 0.8


def test_pages_share_no_subject_and_splits_neither():
  seen = collections.Counter()
  for split in ("train", "validation"):
    for page in plans(split, pages=200):
      seen.update({plan.shot.subject for plan in page})
  assert max(seen.values()) == 1


@pytest.mark.parametrize("seed", [223, 224, 225, 2**32 - 1])
def test_a_web_of_any_seed_has_subjects_of_its_split(seed):
  """Beyond the last subject of a split they come again, in other pictures."""
  for split in ("train", "validation", "test"):
    pages = plans(split, pages=20, seed=seed)
    subjects = {plan.shot.subject for page in pages for plan in page}
    assert {split_of(subject) for subject in subjects} == {split}
    again = plans(split, pages=20, seed=seed % 224)
    theirs = {plan.shot.subject for page in again for plan in page}
    assert (seed < 224 or subjects & theirs) and len(subjects) >= 20
    assert (pages == again) == (seed < 224)
  # The last page below a million, and the first beyond.
  pages = [dataset._page("test", page=10**6 - 1 + i, seed=seed) for i in (0, 1)]
  first, second = ({plan.shot.subject for plan in page} for page in pages)
  assert not first & second


def test_a_near_duplicate_is_near_and_no_duplicate():
  image = render_shots(
    [Shot(subject_seeds("train", 0, 1)[0], 2, 0)], size_px=SIZE_PX
  )
  picture = image["image"][0]
  copies = [dataset.spoiled(picture, seed) for seed in range(1, 8)]
  for copy in copies:
    assert copy.shape == picture.shape and copy.dtype == np.uint8
    difference = np.abs(copy.astype(int) - picture).mean()
    assert 0 < difference < 40


def test_held_out_clusters_are_complete():
  clusters = heldout("test", num_subjects=3, images_each=4, size_px=SIZE_PX)
  assert len({c.key for c in clusters}) == 3
  for cluster, subject in zip(
    clusters, subject_seeds("test", 0, 3), strict=True
  ):
    assert isinstance(cluster, Cluster)
    assert cluster.subject == class_of(subject)
    assert cluster.live == (cluster.subject in LIVE)
    assert cluster.caption.split(" ", 1)[1] == describe(subject)
    assert cluster.truth == (f"world:test:{subject}",) * 4
    assert len(set(cluster.captions)) == 4  # four places
    assert len(cluster.images) == 4


# --- tfds --------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_builder_writes_what_tfds_reads_without_tensorflow(tmp_path):
  import tensorflow_datasets as tfds

  from suti.world.builder import Config, SubjectWorld

  config = Config(
    name="small", size_px=SIZE_PX, num_train=2, num_eval=1, images_each=3
  )
  builder = SubjectWorld(config=config, data_dir=tmp_path)
  builder.download_and_prepare(file_format="array_record")
  assert builder.info.splits["train"].num_examples == 6
  folder = tmp_path / "subject_world" / "small" / "1.0.0"
  source = tfds.builder_from_directory(str(folder)).as_data_source("train")
  assert len(source) == 6
  example = source[4]
  subject = subject_seeds("train", 0, 2)[1]
  shot = Shot(
    int(example["subject"]), int(example["template"]), int(example["seed"])
  )
  assert shot.subject == subject
  assert example["caption"].decode() == caption(shot)
  assert example["class"].decode() == class_of(subject)
  drawn = render_shots([shot], size_px=SIZE_PX)
  np.testing.assert_array_equal(example["image"], drawn["image"][0])
  np.testing.assert_array_equal(example["mask"][..., 0] > 0, drawn["mask"][0])
  np.testing.assert_array_equal(example["depth"], drawn["depth"][0])
  np.testing.assert_array_equal(example["box"], drawn["box"][0])
  np.testing.assert_array_equal(example["axes"], drawn["axes"][0])
  assert len({int(e["template"]) for e in source}) > 3
  assert "tensorflow" not in sys.modules


# --- The judge ---------------------------------------------------------------


def test_the_judge_tells_templates_apart():
  """With far fewer renders than it is used with: 0.9 of 25 instead of 0.98."""
  judge = fit_judge(live=True, num_subjects=3, shots_each=1)
  dog = next(s for s in subject_seeds("test", 0, 99) if class_of(s) == "dog")
  shots = [Shot(dog, t, 7) for t in range(25)]
  images = render_shots(shots, size_px=SIZE_PX)["image"]
  assert judge.scores(images).shape == (25, 25)
  assert (judge.choose(images) == np.arange(25)).mean() > 0.6
  # Pictures of any size are judged.
  large = np.kron(images[3], np.ones((2, 2, 1), np.uint8))
  assert judge.choose([large])[0] == judge.choose(images[3:4])[0]


def test_held_out_subjects_of_some_classes():
  """The first of the split that are, in its order."""
  some = heldout(
    "test",
    num_subjects=3,
    images_each=2,
    size_px=SIZE_PX,
    nouns=("cat", "boot"),
  )
  seeds = subject_seeds("test", 0, 200)
  first = [seed for seed in seeds if class_of(seed) in ("cat", "boot")][:3]
  assert [cluster.subject for cluster in some] == [*map(class_of, first)]
  assert [c.caption for c in some] == [
    dataset.with_article(describe(seed)) for seed in first
  ]


def test_a_noun_that_is_no_class_is_one_line():
  message = "config.mine.nouns has 'unicorn': expected classes of SubjectWorld"
  with pytest.raises(ValueError, match=message):
    heldout("test", num_subjects=1, images_each=1, nouns=("dog", "unicorn"))
