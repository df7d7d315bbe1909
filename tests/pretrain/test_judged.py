# SPDX-License-Identifier: Apache-2.0
"""Judges judged: rank correlations by hand, trials whose truth is known."""

import numpy as np
import pytest

from suti.evaluation.benchmark.ranks import agreement_of, mean_agreement
from suti.evaluation.protocol import METRICS
from suti.pretrain import judged
from suti.world.dataset import LIVE, class_of


def test_agreement_equals_scipys_with_ties():
  from scipy.stats import somersd

  rng = np.random.default_rng(0)
  for _ in range(20):
    scores, truths = rng.integers(0, 4, (2, 12))
    expected = somersd(truths, scores).statistic
    assert agreement_of(scores, truths) == pytest.approx(expected, abs=1e-12)
  assert agreement_of([1, 2, 3], [1, 1, 1]) is None
  # Pictures of one truth may have any scores.
  assert agreement_of([0.1, 0.2, 0.7], [0, 0, 1]) == 1.0


def test_groups_are_ranked_each_for_itself():
  """An easy group scores higher than a hard one and that says nothing."""
  scores = [0.9, 0.8, 0.2, 0.1]
  truths = [1, 0, 1, 0]
  assert mean_agreement(scores, truths, ["a", "a", "b", "b"]) == 1.0
  assert mean_agreement(scores, truths, ["a"] * 4) < 1.0
  assert mean_agreement([0.5], [1], ["a"]) is None


def trials():
  return judged.trials_of("test", num_subjects=6, num_prompts=3, num_seeds=2)


def test_trials_show_what_their_kind_says():
  found = trials()
  assert len(found) == 6 * 3 * 2 * len(judged.KINDS)
  for trial in found:
    shown = trial.shot.subject
    same_class = class_of(shown) == class_of(trial.subject)
    assert (shown == trial.subject) == (trial.truths["subject"] == 2)
    assert same_class == (trial.truths["subject"] > 0)
    scene = trial.shot.template == trial.template
    assert trial.truths["text"] == (same_class + scene) / 2
    # A number means the same scene in one group only.
    assert (class_of(shown) in LIVE) == (class_of(trial.subject) in LIVE)


def test_a_perfect_judge_agrees_and_chance_does_not():
  found = trials()
  truth = np.array([trial.truths["subject"] for trial in found])
  rng = np.random.default_rng(0)
  scores = {name: rng.normal(size=len(found)) for name in METRICS}
  scores["identity"] = truth
  table = judged.agreement(found, scores)
  assert table["all"]["all"]["identity"]["subject"] == 1.0
  assert abs(table["all"]["all"]["clip_t"]["text"]) < 0.35
  assert table["stability"]["identity"]["subject"] == 0.0
  assert set(table["by_skill"]) <= {
    "recontextualization",
    "attribute",
    "accessory",
  }
  assert len(table["by_seed"]) == 2
