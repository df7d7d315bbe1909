# SPDX-License-Identifier: Apache-2.0
"""Retrieval, questions, kernel distance, sharpness: known answers."""

import jax
import numpy as np
import pytest

from suti.evaluation import kernel_distance, questions, retrieval, sharpness
from suti.evaluation.judge import HEADS, load_judge
from suti.hf.weights import save
from suti.io.files import read_json, write_json
from suti.models.heads import declare_heads
from suti.nn.param import functional, init
from tests import tiny


def unit(*degrees) -> np.ndarray:
  radians = np.deg2rad(np.asarray(degrees, np.float64))
  return np.stack([np.cos(radians), np.sin(radians)], -1)


def test_a_picture_is_found_by_the_mean_of_the_renders():
  # Renders at 0 and 60 degrees of the true one, at 50 and 90 of another.
  line_up = np.stack([unit(0, 60), unit(50, 90)])
  found = retrieval.found(unit(20, 80), line_up)
  assert found.tolist() == [True, False]


def test_a_tie_is_a_miss():
  line_up = np.stack([unit(10), unit(-10)])
  assert retrieval.found(unit(0), line_up).tolist() == [False]


def test_shares_of_right_answers():
  found = questions.shares(
    {"class": ["dog", "cat"], "place": ["snow", "snow"]},
    [
      {"class": "dog", "place": "beach"},
      {"class": "cat", "style": "cubist"},  # which the judge does not know
    ],
  )
  assert found == {"questions": [0.5, 1.0], "class": [1, 1], "place": [0]}


def test_pictures_that_are_asked_nothing_are_left_out():
  assert questions.shares({"class": ["dog"]}, [{"style": "cubist"}]) == {}


def test_the_laplacian_of_a_chessboard_and_of_a_ramp():
  chess = (np.indices((6, 6)).sum(0) % 2 * 10)[..., None].repeat(3, -1)
  ramp = np.arange(8)[None, :, None].repeat(5, 0).repeat(3, -1)
  found = sharpness.sharpness([chess.astype(np.uint8), ramp.astype(np.uint8)])
  assert found.tolist() == [40.0, 0.0]


def draw(rng, *, subjects=12, pictures=6, shift=0.0):
  """Features of subjects that differ, of several pictures each."""
  who = rng.normal(size=(subjects, 1, 8))
  return list(who + 0.5 * rng.normal(size=(subjects, pictures, 8)) + shift)


def test_the_distance_is_that_of_its_definition():
  rng = np.random.default_rng(0)
  ours, real = draw(rng, subjects=4), draw(rng, subjects=4)
  pairs = []
  for s in range(4):
    for t in range(4):
      if s != t:
        for x in range(6):
          for y in range(6):
            pairs.append(
              (ours[s][x] @ ours[t][y] / 8 + 1) ** 3
              + (real[s][x] @ real[t][y] / 8 + 1) ** 3
              - 2 * (ours[s][x] @ real[t][y] / 8 + 1) ** 3
            )
  found = kernel_distance.distance(kernel_distance.pair_terms(ours, real))
  assert found.mean == pytest.approx(np.mean(pairs))


def test_the_distance_of_alike_pictures_is_none_on_average():
  found = [
    kernel_distance.distance(
      kernel_distance.pair_terms(draw(rng, subjects=6), draw(rng, subjects=6))
    ).mean
    for rng in map(np.random.default_rng, range(30))
  ]
  # Both signs: an estimate that cannot be negative would be biased.
  assert min(found) < 0 < max(found)
  assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(30)


def test_the_distance_rises_with_the_shift_and_its_interval_says_so():
  rng = np.random.default_rng(1)
  who = rng.normal(size=(30, 1, 8))

  def pictures(shift):
    return list(who + 0.5 * rng.normal(size=(30, 6, 8)) + shift)

  real = pictures(0.0)
  near, far = (
    kernel_distance.pair_terms(pictures(shift), real) for shift in (0.5, 1.0)
  )
  close, distant = map(kernel_distance.distance, (near, far))
  assert 0 < close.mean < distant.mean
  assert distant.excludes() and not distant.excludes(distant.mean)
  paired = kernel_distance.distance(far - near)
  assert paired.mean == pytest.approx(distant.mean - close.mean)
  assert paired.excludes()


def test_one_subject_has_no_distance():
  with pytest.raises(ValueError, match=r"of 1 subjects: .* 2 or more"):
    kernel_distance.distance(np.zeros((1, 1)))


def test_the_distance_does_not_mind_how_resamples_are_blocked():
  """Of 300 subjects the last block of resamples is one resample."""
  found = kernel_distance.distance(np.full((300, 300), 2.0))
  assert found.mean == found.low == found.high == pytest.approx(2.0)


CHOICES = {"class": ["dog", "cat"], "place": ["snow", "beach", "studio"]}


@pytest.fixture(scope="module")
def tiny_judge(tmp_path_factory):
  """A random encoder with heads."""
  folder = tiny.write_encoder(tmp_path_factory.mktemp("judge"))
  heads = {"identity": 4, "class": 2, "place": 3}
  write_heads(folder, heads, choices=CHOICES)
  return folder


def write_heads(folder, heads, *, choices):
  config = {"hidden_size": 2 * tiny.VISION["hidden_size"], "heads": heads}
  spec, _ = functional(declare_heads(config))
  write_json(
    folder / HEADS / "config.json",
    config | {"model_type": "heads", "choices": choices},
  )
  save(
    init(spec, jax.random.key(5)), spec, folder / HEADS / "model.safetensors"
  )


def pictures(count):
  rng = np.random.default_rng(2)
  return list(rng.integers(0, 256, (count, 16, 16, 3), np.uint8))


def test_a_judge_sees_each_picture_by_itself(tiny_judge):
  judge = load_judge(tiny_judge)
  images = pictures(70)  # more than a block
  seen = judge(images)
  assert len(seen) == 70
  norms = np.linalg.norm(seen.identity_ND, axis=-1)
  np.testing.assert_allclose(norms, 1.0, atol=1e-5)
  assert set(seen.answers["place"]) <= set(CHOICES["place"])
  alone = judge(images[66:67])
  np.testing.assert_allclose(
    alone.features_NF, seen.features_NF[66:67], atol=1e-5
  )
  assert alone.answers["class"][0] == seen.answers["class"][66]


def test_an_encoder_without_heads_is_asked_nothing(tiny_identity):
  seen = load_judge(tiny_identity)(pictures(2))
  assert seen.answers == {}
  first = seen.features_NF[:, : tiny.VISION["hidden_size"]]
  first = first / np.linalg.norm(first, axis=-1, keepdims=True)
  np.testing.assert_allclose(seen.identity_ND, first, atol=1e-5)


def test_what_a_judge_has_not_learned_it_is_not_asked(tmp_path):
  folder = tiny.write_encoder(tmp_path)
  write_heads(folder, {"identity": 4, "class": 2, "place": 3}, choices=CHOICES)
  config = folder / HEADS / "config.json"
  write_json(config, read_json(config) | {"unlearned": ["place"]})
  assert set(load_judge(folder)(pictures(1)).answers) == {"class"}


def test_heads_of_other_sizes_are_refused(tmp_path):
  folder = tiny.write_encoder(tmp_path)
  write_heads(folder, {"identity": 4, "class": 3}, choices={"class": ["dog"]})
  with pytest.raises(ValueError, match=r"heads/config\.json: heads=.* as many"):
    load_judge(folder)
