# SPDX-License-Identifier: Apache-2.0
"""The judge's training: closed forms against known answers, then the whole."""

import numpy as np
import pytest

from configs.pretrain import judge as judge_config
from configs.pretrain import ship as ship_config
from suti.evaluation import intervals
from suti.evaluation.judge import load_judge
from suti.io.files import read_json
from suti.pretrain import judge, judge_exam, pictures, ship
from suti.pretrain.discriminant import (
  discriminant,
  principal_axes,
  ridge_regression,
)
from suti.pretrain.look_alike_pool import render_look_alikes
from suti.pretrain.patch_words import learn_words
from suti.world.look_alikes import colours
from suti.world.questions import CHOICES
from suti.world.templates import class_of


def test_principal_axes_are_those_of_the_whole_decomposition():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(300, 60)) * np.linspace(10, 0.1, 60) ** 2
  axes = principal_axes(x, count=4, rng=rng)
  _, _, exact = np.linalg.svd(x, full_matrices=False)
  np.testing.assert_allclose(np.abs(axes.T @ exact[:4].T), np.eye(4), atol=1e-3)


def test_the_discriminant_looks_where_subjects_differ_and_views_do_not():
  """Axis 0 is who, axis 1 the scene, axis 2 the camera, and both are larger."""
  rng = np.random.default_rng(0)
  z = np.zeros((30, 6, 3, 2, 3))
  z[..., 0] = rng.normal(size=(30, 6, 1, 1))
  z[..., 1] = 20 * rng.normal(size=(30, 1, 3, 1))
  z[..., 2] = 5 * rng.normal(size=(30, 6, 3, 2))
  z += 0.1 * rng.normal(size=z.shape)
  (axis,) = discriminant(z, count=1, ridge=1e-6).T
  assert np.abs(axis[0]) > 50 * np.abs(axis[2])


def test_ridge_regression_without_ridge_is_least_squares():
  rng = np.random.default_rng(0)
  z, target = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
  exact, *_ = np.linalg.lstsq(z, target)
  np.testing.assert_allclose(
    ridge_regression(z, target, ridge=1e-12), exact, atol=1e-8
  )
  shrunk = ridge_regression(z, target, ridge=1e3)
  assert np.abs(shrunk).max() < 0.01 * np.abs(exact).max()


def test_words_are_the_patches_that_pictures_are_made_of():
  """Pictures of two patterns and their negatives: two words are enough."""
  rng = np.random.default_rng(0)
  patterns = rng.normal(size=(2, 4, 4, 3))
  patterns -= patterns.mean((1, 2, 3), keepdims=True)
  which, sign = rng.integers(0, 2, 300), rng.choice([-1, 1], 300)
  images = patterns[which] * sign[:, None, None, None]
  images = (images + 0.02 * rng.normal(size=images.shape)).astype(np.float32)
  weight, bias = learn_words(
    images, size=4, num_words=2, num_patches=2000, rounds=8, rng=rng
  )
  np.testing.assert_allclose(weight.sum((0, 1, 2)), 0, atol=1e-4)
  unit = patterns / patterns.std((1, 2, 3), keepdims=True)
  responses = np.abs(np.einsum("nhwc,hwck->nk", unit, weight) + bias)
  # Each pattern has a word of its own.
  assert set(responses.argmax(1)) == {0, 1}
  assert responses.max(1).min() > 3 * responses.min(1).max()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A judge of a few made-up pictures: their colour is their subject's."""
  drawn = []

  def render_shots(shots, *, size_px):
    drawn.extend(shots)
    rng = np.random.default_rng(len(drawn))
    rows = [
      np.full((size_px, size_px, 3), shot.subject % 200, np.uint8)
      + rng.integers(0, 50, (size_px, size_px, 3), np.uint8)
      for shot in shots
    ]
    return {"image": np.stack(rows)}

  workdir = tmp_path_factory.mktemp("judge")
  config = judge_config.get_config("tiny")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pictures, "render_shots", render_shots)
    judge.run(config, workdir)
    pool = render_look_alikes(config.pool, workdir / "pool", size_px=64)
  return workdir / "judge" / "model", drawn, pool


def test_a_groups_subjects_stand_in_the_same_scenes(trained):
  _, shots, pool = trained
  groups, size, scenes, views = pool.image_u8_GMTVHWC.shape[:4]
  assert (size, scenes, views) == (2, 2, 2)
  # Read again, not rendered again.
  assert len(shots) == groups * size * scenes * views
  for start in range(0, len(shots), size * scenes * views):
    group = shots[start : start + size * scenes * views]
    first, second = group[: scenes * views], group[scenes * views :]
    assert [(s.template, s.seed) for s in first] == [
      (s.template, s.seed) for s in second
    ]
    assert first[0].subject != second[0].subject
    assert class_of(first[0].subject) == class_of(second[0].subject)
    assert first[0].seed != first[1].seed
  assert {s.subject for s in shots} <= set(range(950_000_000, 950_000_040))
  # Half of the scenes are in a style.
  assert pool.answers_GTQ[..., list(CHOICES).index("style")].any()


def test_the_judge_is_written_as_it_is_opened(trained):
  model, _, pool = trained
  look = load_judge(model)
  images = list(pool.image_u8_GMTVHWC.reshape(-1, 64, 64, 3)[:5])
  seen = look(images)
  assert seen.features_NF.shape == (5, 4) and seen.identity_ND.shape == (5, 4)
  assert set(seen.answers) == set(CHOICES)
  assert set(seen.answers["place"]) <= set(CHOICES["place"])
  facts = read_json(model / "training.json")
  assert "which no other training uses" in facts["data"]
  assert "950000000" in facts["data"]


def test_groups_are_nearer_in_colours_than_subjects_at_large(trained):
  _, shots, _ = trained
  subjects = list(dict.fromkeys(shot.subject for shot in shots))
  shares = colours(subjects)
  kin = np.linalg.norm(shares[::2] - shares[1::2], axis=-1).mean()
  far = np.linalg.norm(shares[:, None] - shares[None], axis=-1).mean()
  assert kin < far


@pytest.mark.parametrize(
  ("only", "text"),
  [
    (("jury",), r"config\.only has 'jury': expected names of clip, identity"),
    (("judge",), r"judge/model has no model: run suti\.pretrain\.judge first"),
  ],
)
def test_what_cannot_be_shipped_is_named(tmp_path, only, text):
  config = ship_config.get_config("tiny")
  config.only = only
  with pytest.raises(ValueError, match=text):
    ship.run(config, tmp_path)


def test_an_exam_is_told_in_words_and_in_json():
  result = {
    "retrieval": intervals.mean([1.0, 0.5]),
    "kernel_regression": intervals.mean([1.0]),
    "questions": intervals.mean([0.5, 0.5]),
    "distances": {"blurred": intervals.mean([2.0])},
    "sharpness": {"blurred": 3.0},
  }
  rows = judge_exam.lines(result)
  assert rows["retrieval among 25 look-alikes (chance 0.04)"].startswith("0.75")
  assert rows["distance (KID) of blurred renders"] == "2.000"
  found = judge_exam.as_json(result)
  assert found["distances"]["blurred"]["mean"] == 2.0
  assert found["sharpness"] == {"blurred": 3.0}
  assert found["retrieval"]["subjects"] == 2


def test_a_blur_keeps_what_is_flat_and_takes_what_is_sharp():
  flat = np.full((8, 8, 3), 77, np.uint8)
  np.testing.assert_array_equal(judge_exam._blur(flat, 1.0), flat)
  spot = np.zeros((9, 9, 3), np.uint8)
  spot[4, 4] = 250
  assert judge_exam._blur(spot, 1.0)[4, 4, 0] == pytest.approx(
    250 / (2 * np.pi), abs=1.5
  )
