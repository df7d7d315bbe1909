# SPDX-License-Identifier: Apache-2.0
"""Thresholds and areas of measures, where truth is known."""

import json

import numpy as np
import pytest

from experts.calibration import calibrate, lines, threshold_of
from suti.evaluation.roc import area_under_curve


def test_a_threshold_keeps_the_share():
  values = np.random.default_rng(0).normal(size=200)
  at = threshold_of(values, kept=0.28)
  assert (values > at).mean() == 0.28
  assert threshold_of(np.array([0.1, 0.3]), kept=0.01) == pytest.approx(0.2)
  assert threshold_of(np.array([0.1]), kept=0.5) == 0.1


def test_an_area_counts_pairs():
  rng = np.random.default_rng(1)
  value, right = rng.integers(0, 5, 60), rng.random(60) < 0.4
  pairs = [
    (value[i] > value[j]) + 0.5 * (value[i] == value[j])
    for i in np.flatnonzero(right)
    for j in np.flatnonzero(~right)
  ]
  area = area_under_curve(value[right], value[~right])
  assert area == pytest.approx(np.mean(pairs))
  assert np.isnan(area_under_curve(value, value[:0]))


def test_a_measure_that_knows_is_told_from_one_that_does_not():
  rng = np.random.default_rng(2)
  right = rng.random(300) < 0.5
  values = {
    "knows": right + 0.1 * rng.random(300),
    "guesses": rng.random(300),
  }
  clusters = [f"{i // 3}" for i in range(300)]
  found = calibrate(values, {"scene": right}, clusters, kept=0.28)
  assert found["right"] == {"scene": right.mean()}
  knows, guesses = (
    found["measures"][name]["scene"] for name in ("knows", "guesses")
  )
  assert knows["area"] == knows["low"] == knows["high"] == 1.0
  assert knows["precision"] == 1.0
  assert guesses["low"] < 0.5 < guesses["high"]
  assert guesses["high"] - guesses["low"] < 0.2
  kept = values["guesses"] > found["measures"]["guesses"]["threshold"]
  assert kept.sum() == 84
  assert guesses["precision"] == pytest.approx(right[kept].mean())
  (head, first, *_, last) = lines(found)
  assert "above, keeps 28%" in head and first.startswith("knows")
  assert last.startswith("none, keeps all")


def test_what_is_not_known_lies_below_all_thresholds():
  value = np.array([0.4, np.nan, 0.3, 0.2, np.nan, np.nan, 0.1, np.nan])
  right = np.array([1, 0, 1, 0, 0, 1, 0, 0], bool)
  assert threshold_of(value, kept=0.25) == pytest.approx(0.25)
  clusters = [f"{i}" for i in range(8)]
  values = {"some": value, "none": np.full(8, np.nan)}
  found = calibrate(values, {"scene": right}, clusters, kept=0.25)
  some, none = (found["measures"][name] for name in values)
  assert some["scene"]["precision"] == 1.0
  # 5 wrong ones: below 0.4 and 0.3 all, and 3 tie with the unknown right one.
  assert some["scene"]["area"] == pytest.approx((5 + 5 + 1.5) / 15)
  assert none["threshold"] is none["scene"]["precision"] is None
  json.dumps(found, allow_nan=False)
  assert "–" in lines(found)[2]


def test_without_wrong_candidates_there_is_no_area():
  found = calibrate(
    {"x": np.arange(4.0)}, {"scene": np.ones(4, bool)}, ["a", "a", "b", "b"]
  )
  assert found["measures"]["x"]["scene"]["area"] is None
  assert found["measures"]["x"]["scene"]["precision"] == 1.0
  assert "–" in lines(found)[1]
