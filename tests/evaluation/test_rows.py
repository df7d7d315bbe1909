# SPDX-License-Identifier: Apache-2.0
"""Copying, diversity and means by skill: by hand, on vectors of two numbers."""

import numpy as np
import pytest

from suti.evaluation import rows


def unit(*degrees):
  radians = np.deg2rad(np.asarray(degrees, np.float64))
  return np.stack([np.cos(radians), np.sin(radians)], -1)


def cos(degrees):
  return float(np.cos(np.deg2rad(degrees)))


def test_each_image_has_its_nearest_demonstration():
  found = rows.nearest(unit(10, 80, 40), unit(0, 90))
  np.testing.assert_allclose(found, [cos(10), cos(10), cos(40)])
  assert len(rows.nearest(unit(10), unit()[:0])) == 0


def test_a_real_picture_is_not_its_own_nearest():
  # The first two are demonstrations, so that each has the other.
  found = rows.nearest_of_real(unit(0, 30, 70), 2)
  np.testing.assert_allclose(found, [cos(30), cos(30), cos(40)])
  # An only demonstration has none, the others have it.
  np.testing.assert_allclose(rows.nearest_of_real(unit(0, 30), 1), [cos(30)])
  assert len(rows.nearest_of_real(unit(0, 30), 0)) == 0


def test_diversity_is_between_the_images_of_one_prompt():
  found = rows.diversity(unit(0, 60, 0, 0), ["a", "a", "b", "b"])
  assert found == pytest.approx((1 - cos(60)) / 2)
  # Pairs of different images: 0-30, 0-60, 30-60.
  found = rows.diversity(unit(0, 30, 60), ["a"] * 3)
  assert found == pytest.approx(1 - (2 * cos(30) + cos(60)) / 3)
  assert rows.diversity(unit(0, 60), ["a", "b"]) is None


def test_the_band_is_that_of_real_pictures_and_copies_are_above_it():
  subjects = {
    "a": {
      "real": {"nearest": [0.5, 0.6]},
      "copy": {"nearest": [1.0, 1.0]},
      "ours": {"nearest": [0.2, 0.99]},
    },
    "b": {"real": {"nearest": [0.7]}, "ours": {"nearest": [0.3, 0.1]}},
  }
  found = rows.copying(subjects)
  assert found["band"] == pytest.approx(np.percentile([0.5, 0.6, 0.7], (5, 95)))
  assert found["above_band"] == {"copy": 1.0, "ours": 0.25}
  assert rows.copying({"a": {"copy": {"nearest": [1.0]}}}) == {}


def test_systems_are_compared_on_the_subjects_of_both():
  subjects = {
    "a": {"apprentice": {"identity": 0.5}, "experts": {"identity": 0.75}},
    "b": {"apprentice": {"identity": 0.25}, "experts": {"identity": 0.5}},
    "c": {"apprentice": {"identity": 0.9}, "base": {"identity": 0.1}},
  }
  found = rows.differences(subjects, ["identity", "clip_t"])
  # Equal on both subjects, so that the paired interval has no width.
  assert found["experts"]["identity"] == {
    "mean": -0.25,
    "low": -0.25,
    "high": -0.25,
    "subjects": 2,
  }
  assert found["base"]["identity"]["mean"] == pytest.approx(0.8)
  assert found["base"]["identity"]["low"] is None
  assert set(found) == {"experts", "base"} and "clip_t" not in found["base"]


def test_means_by_skill_are_over_images_and_then_over_subjects():
  one = rows.by_skill(["x", "x", "y"], np.array([1, 2, 5]), np.array([0, 1, 0]))
  assert one == {
    "x": {"identity": 1.5, "clip_t": 0.5},
    "y": {"identity": 5.0, "clip_t": 0.0},
  }
  other = {"x": {"identity": 0.5, "clip_t": 0.5}}
  table = rows.mean_by_skill(
    {
      "a": {"ours": {"by_skill": one}, "real": {}},
      "b": {"ours": {"by_skill": other}},
    }
  )
  assert table["x"] == {"ours": {"identity": 1.0, "clip_t": 0.5}}
  assert table["y"] == {"ours": {"identity": 5.0, "clip_t": 0.0}}
