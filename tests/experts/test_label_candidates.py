# SPDX-License-Identifier: Apache-2.0
"""Who knows where a candidate's subject is labels it; measures read that."""

import dataclasses

import numpy as np
import pytest

from experts import filter as filters
from experts import label, label_candidates, pack, teacher
from experts.mining.labels import Found
from experts.selection import open_selection, read_scores, select
from suti.evaluation.cut_outs import cut_out
from suti.evaluation.measure import all_measures
from suti.io.records import open_examples, write_lines, write_records
from suti.runtime.stage import stage
from suti.schema import Candidate, Label
from tests.experts import inputs

SIZE_PX = 16
CLUSTERS = inputs.make_clusters(2)
SAYING = teacher.Teacher(
  paper="",
  declare=lambda backbone, config: backbone.unet,
  trainable=teacher.NOTHING,
  loss=None,
  sample=lambda *args: None,
  masks=True,
)


def mask_of(number):
  """A box of 4 x 8 px, or nothing in each third picture."""
  mask = np.zeros((SIZE_PX, SIZE_PX), bool)
  if number % 3 != 2:
    mask[4:8, 2 + number : 10 + number] = True
    mask[4, 2 + number] = False  # a corner is missing
  return mask


CANDIDATES = [
  Candidate(
    key=f"{number:012x}",
    cluster=CLUSTERS[number % 2].key,
    prompt=f"a dog, number {number}",
    skill="attribute",
    image=image,
    seed=number,
    guidance=1.0,
    mask=mask_of(number),
    view=1,
  )
  for number, image in enumerate(inputs.draw_pictures(7, 4))
]


def config_of(**fields):
  config = inputs.make_config({}).unlock()
  config.label.update({"candidates": "teacher"} | fields)
  return config


@pytest.fixture
def workdir(tmp_path, monkeypatch):
  inputs.write_stages(tmp_path, CLUSTERS)
  write_records(
    tmp_path / "experts/sample/wave-00000.array_record",
    CANDIDATES,
    kind=Candidate,
  )
  stage(tmp_path, "experts/sample", {}).finish({"waves": 1})
  monkeypatch.setattr(label_candidates, "find", lambda name: SAYING)
  monkeypatch.setattr(
    filters, "load_scorer", lambda **_: inputs.colour_scorer()
  )
  return tmp_path


def know_pictures(monkeypatch, *, depth=None):
  """Masks of the clusters' pictures, all but the first of each."""

  def look_up(cluster, config, *, segment=None):
    camera = None if depth is None else (1.0, 2.0)
    planes = [
      Found(np.tri(SIZE_PX, dtype=bool), depth, camera) for _ in cluster.images
    ]
    return [None, *planes[1:]]

  monkeypatch.setattr(label, "look_up", look_up)


def test_a_teacher_that_says_so_is_believed(workdir):
  summary = label_candidates.run(config_of(), workdir)
  assert summary == {"candidates": 4, "labelled": 3, "waves": 1}
  labels = label_candidates.read_all(workdir, config_of())
  for number, candidate in enumerate(CANDIDATES):
    each = labels[candidate.key]
    if number == 2:
      assert each.names == () and each.masks == ()
      continue
    assert (each.names, each.scores) == (("dog",), (1.0,))
    np.testing.assert_array_equal(each.masks[0], candidate.mask)
    left = (2 + number) / SIZE_PX
    assert each.boxes_xyxy == ((left, 0.25, left + 0.5, 0.5),)
    assert each.depth is None  # its teacher asks for none


def test_an_image_has_the_depth_of_the_view_that_it_follows(
  workdir, monkeypatch
):
  record = dataclasses.replace(SAYING, asks=("masks", "depth"))
  monkeypatch.setattr(label_candidates, "find", lambda name: record)
  depth = np.full((SIZE_PX, SIZE_PX), 3.0, np.float16)
  know_pictures(monkeypatch, depth=depth)
  config = config_of(source="world")
  label.run(config, workdir)
  label_candidates.run(config, workdir)
  for each in label_candidates.read_all(workdir, config).values():
    np.testing.assert_array_equal(each.depth, depth)
    assert each.camera == (1.0, 2.0)


def test_a_source_that_knows_nothing_is_one_line(workdir, monkeypatch):
  with pytest.raises(ValueError, match=r"candidates='none' labels nothing"):
    label_candidates.run(config_of(candidates="none"), workdir)
  record = dataclasses.replace(SAYING, masks=False)
  monkeypatch.setattr(label_candidates, "find", lambda name: record)
  with pytest.raises(ValueError) as caught:
    label_candidates.run(config_of(), workdir)
  assert str(caught.value) == (
    "config.label.candidates='teacher', and the teacher 'dreambooth' does not "
    "say where the subject is in what it samples: set it to segmenter, or to "
    "none."
  )


def test_a_segmenter_that_finds_nothing_is_one_line(workdir, monkeypatch):
  def load_segmenter(folder):
    assert folder == "here"
    return lambda images: ([mask_of(2)] * len(images), [0.0] * len(images))

  monkeypatch.setattr(label_candidates, "load_segmenter", load_segmenter)
  monkeypatch.setattr(label_candidates, "segmenter_folder", lambda *_: {})
  config = config_of(candidates="segmenter", segmenter="here")
  with pytest.raises(ValueError) as caught:
    label_candidates.run(config, workdir)
  assert str(caught.value) == (
    "config.label.candidates='segmenter' finds the subject in none of the 4 "
    "candidates: take another source, or set it to none."
  )


def test_a_segmenter_labels_pictures_and_says_how_sure_it_is(
  workdir, monkeypatch
):
  def load_segmenter(folder):
    return lambda images: ([mask_of(0)] * len(images), [0.75] * len(images))

  monkeypatch.setattr(label, "load_segmenter", load_segmenter)
  monkeypatch.setattr(label, "segmenter_folder", lambda *_: {})
  config = config_of(source="segmenter", segmenter="here")
  label.run(config, workdir)
  labels = label.read_labels(workdir, config)
  assert set(labels) == {cluster.key for cluster in CLUSTERS}
  for each in labels.values():
    assert {x.scores for x in each} == {(0.75,)}


def test_scores_of_squares_are_of_one_source_of_masks(workdir):
  config = config_of()
  config.filter.crop = True
  label_candidates.run(config, workdir)
  filters.run(config, workdir)
  config.label.candidates = "none"
  with pytest.raises(ValueError) as caught:
    filters.run(config, workdir)
  folder = workdir / "experts/filter"
  assert str(caught.value) == (
    "config.label.candidates was 'teacher' when experts/filter was run in "
    f"{folder}, and is 'none' now: give another --workdir, or delete {folder} "
    "to run it anew."
  )


def test_measures_of_labels_are_their_definitions(workdir, monkeypatch):
  know_pictures(monkeypatch)
  config = config_of(source="world")
  config.filter.rule = "box_aspect < 3, masked_identity > -1"
  label.run(config, workdir)
  label_candidates.run(config, workdir)
  summary = filters.run(config, workdir)
  assert summary["kept"] == 3  # all whose subject is found
  encode = inputs.colour_scorer().identity
  triangle = np.tri(SIZE_PX, dtype=bool)
  for number, score in enumerate(read_scores(workdir)):
    if number == 2:
      assert np.isnan(score.values["box_area"])
      assert np.isnan(score.values["masked_identity"])
      continue
    assert score.values["box_area"] == 32 / 256
    assert score.values["box_aspect"] == 2
    assert score.values["mask_share"] == pytest.approx(31 / 32)
    assert score.values["label_score"] == 1
    cluster = CLUSTERS[number % 2]
    (own,) = encode([cut_out(CANDIDATES[number].image, mask_of(number))])
    shown = encode([cut_out(x, triangle) for x in cluster.images[1:]])
    expected = float((shown @ own).mean())
    assert score.values["masked_identity"] == pytest.approx(expected)


def test_masked_identity_needs_masks_of_both():
  config = config_of()
  config.filter.rule = "masked_identity > 0.6"
  with pytest.raises(ValueError) as caught:
    open_selection(config)
  assert str(caught.value) == (
    "config.filter.rule='masked_identity > 0.6': masked_identity compares with "
    "subjects cut out of their own pictures, and config.label.source='none' "
    "knows no mask of these: set it to folder, segmenter or world, or take "
    "another measure."
  )
  config.filter.rule = "box_area > 0.05"
  assert "masked_identity" not in open_selection(config).measures
  config.label.source = "world"
  assert set(open_selection(config).measures) == {
    name
    for name, measure in all_measures().items()
    if measure.of not in ("group", "head")
  }


def test_a_cut_out_is_grey_around_its_subject():
  image = np.full((20, 30, 3), 200, np.uint8)
  mask = np.zeros((20, 30), bool)
  mask[5:15, 10:30] = True
  cut = cut_out(image, mask)
  assert cut.shape == (24, 24, 3)  # 20 px, and 2 on each side
  inside = np.zeros((24, 24), bool)
  inside[7:17, 2:22] = True
  assert (cut[inside] == 200).all() and (cut[~inside] == 127).all()


def test_examples_say_what_is_where(workdir, monkeypatch):
  config = config_of()
  config.filter.rule = "box_area > 0"
  label_candidates.run(config, workdir)
  scores = filters.score_all(
    CANDIDATES,
    {cluster.key: cluster for cluster in CLUSTERS},
    scorer=inputs.colour_scorer(),
    measures=open_selection(config).measures,
    labels=label_candidates.read_all(workdir, config),
  )
  scores = select(scores, open_selection(config))
  write_lines(workdir / "experts/filter/scores.jsonl", scores)
  stage(workdir, "experts/filter", {}).finish({"waves": 1})
  pack.run(config, workdir)
  examples = {e.key: e for e in open_examples(workdir / "experts/pack")}
  assert set(examples) == {CANDIDATES[i].key for i in (0, 1, 3)}
  for number in (0, 1, 3):
    example = examples[CANDIDATES[number].key]
    assert example.names == ("dog",)
    np.testing.assert_array_equal(example.mask, mask_of(number))
    np.testing.assert_array_equal(example.masks[0], mask_of(number))
    left = (2 + number) / SIZE_PX
    assert example.boxes_xyxy == ((left, 0.25, left + 0.5, 0.5),)


def test_examples_have_depth_and_camera_where_they_are_known():
  (cluster, _), (candidate, *_) = CLUSTERS, CANDIDATES
  depth = np.full((SIZE_PX, SIZE_PX), 2.0, np.float16)
  known = Label(key=candidate.key, number=0, depth=depth, camera=(1.0, 2.0))
  (score,) = filters.score_all(
    [candidate],
    {cluster.key: cluster},
    scorer=inputs.colour_scorer(),
    measures={},
  )
  (example,) = pack.make_examples(
    [(score, CANDIDATES, 0)],
    _Found({cluster.key: cluster}),
    origin="lora",
    targets={candidate.key: known},
  )
  np.testing.assert_array_equal(example.depth, depth)
  np.testing.assert_array_equal(example.mask, candidate.mask)
  assert example.camera == (1.0, 2.0)


class _Found(dict):
  """Clusters by key, as far as `find_clusters` needs them."""

  def find(self, key):
    return self[key]
