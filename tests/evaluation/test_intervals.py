# SPDX-License-Identifier: Apache-2.0
"""Intervals over subjects against the normal law, scipy and closed forms."""

import numpy as np
import pytest
import scipy.stats

from suti.evaluation import intervals


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
  values = np.random.default_rng(0).normal(3.0, 2.0, 400)
  found = intervals.mean(values)
  half = 1.96 * values.std() / np.sqrt(400)
  assert found.mean == values.mean() and found.subjects == 400
  assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
  assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_scipy_finds_the_same_interval():
  rng = np.random.default_rng(1)
  ours, theirs = rng.gamma(2.0, size=(2, 25))
  found = intervals.difference(ours, theirs)
  known = scipy.stats.bootstrap(
    (ours, theirs),
    lambda a, b, axis: (a - b).mean(axis),
    paired=True,
    method="percentile",
    n_resamples=10_000,
    rng=rng,
  ).confidence_interval
  # Resamples differ: a twentieth of the width is about what they leave open.
  width = known.high - known.low
  assert found.low == pytest.approx(known.low, abs=width / 20)
  assert found.high == pytest.approx(known.high, abs=width / 20)


def test_what_is_hard_for_both_systems_cancels_out():
  hard = np.random.default_rng(2).normal(0, 10, 30)
  small = np.random.default_rng(3).normal(0.1, 0.01, 30)
  paired = intervals.difference(hard + small, hard)
  assert paired.low is not None and paired.high is not None
  assert paired.low > 0.09 and paired.high < 0.11 and paired.excludes()
  assert not intervals.difference((hard + small)[::-1], hard).excludes()


def test_a_ratio_of_means():
  found = intervals.ratio([1.0, 3.0], [4.0, 4.0])
  assert found.mean == pytest.approx(0.5)
  # Resamples are (1, 1), (1, 3), (3, 1), (3, 3).
  assert (found.low, found.high) == (0.25, 0.75)


def test_a_ratio_to_nothing_is_not_a_number():
  assert np.isnan(intervals.ratio([0.0, 0.0], [0.0, 0.0]).mean)
  assert intervals.ratio([1.0, 1.0], [0.0, 0.0]).mean == np.inf
  # Half of the draws of two subjects miss the one that counts.
  found = intervals.ratio([1.0, 1.0], [0.0, 1.0])
  assert found.mean == 2.0 and found.low is None and found.high is None


def test_equal_values_have_an_interval_of_no_width():
  found = intervals.mean([1.0] * 5)
  assert (found.low, found.high) == (1.0, 1.0)
  assert str(found) == "1.000 [1.000, 1.000]"


def test_one_subject_has_no_interval():
  found = intervals.mean([0.5])
  assert found.low is None and found.high is None and not found.excludes()
  assert str(found) == "0.500"


def test_the_same_seed_draws_the_same_subjects():
  values = np.random.default_rng(5).normal(size=10)
  assert intervals.mean(values) == intervals.mean(values)
  assert intervals.mean(values) != intervals.mean(values, seed=1)
  # A system that is better by the same amount everywhere is so in every draw.
  moved = intervals.difference(values + 1, values)
  assert (moved.low, moved.high) == pytest.approx((1.0, 1.0))


def test_drawing_in_blocks_takes_part_of_all_subjects(monkeypatch):
  values = np.random.default_rng(4).normal(size=200)
  whole = intervals.mean(values)
  monkeypatch.setattr(intervals, "_BLOCK", 3000)
  parts = intervals.mean(values)
  assert parts.low == pytest.approx(whole.low, abs=0.01)
  assert parts.high == pytest.approx(whole.high, abs=0.01)


@pytest.mark.parametrize(
  ("values", "text"),
  [
    (([1.0, 2.0], [1.0]), r"of 2 and 1 subjects: expected values of the same"),
    (([], []), r"of 0 subjects: expected 1 or more"),
    (([1.0], [np.nan]), r"not all finite: leave out the subjects"),
  ],
)
def test_mistakes(values, text):
  with pytest.raises(ValueError, match=text):
    intervals.difference(*values)
