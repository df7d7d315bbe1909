# SPDX-License-Identifier: Apache-2.0
"""Masks of subjects by where a picture looks at its noun."""

import numpy as np
import pytest

from suti.diffusion.subject_mask import noun_map, otsu


def otsu_by_hand(map_RR, candidates=10):
  """The definition, value by value."""
  values = map_RR.ravel().astype(np.float32)
  values = (values - values.min()) / (values.max() - values.min())
  best, cut = 0.0, np.float32(0)
  for number in range(candidates):
    at = np.float32(number) / np.float32(candidates)
    low, high = values[values < at], values[values >= at]
    if not len(low) or not len(high):
      continue
    share = len(low) / len(values) * len(high) / len(values)
    between = share * (low.mean() - high.mean()) ** 2
    if between > best:
      best, cut = between, at
  return (values >= cut).reshape(map_RR.shape)


@pytest.mark.parametrize("side", [4, 8, 16])
def test_otsu_is_its_definition(side):
  rng = np.random.default_rng(side)
  maps = rng.gamma(0.7, size=(40, side, side)).astype(np.float32)
  # A bright square on a dim ground, and one that is barely brighter.
  maps[:10, 1:3, 1:3] += 5
  maps[10:20, 1:3, 1:3] += 0.5
  found = np.asarray(otsu(maps))
  expected = np.stack([otsu_by_hand(each) for each in maps])
  np.testing.assert_array_equal(found, expected)
  assert 0.05 < found.mean() < 0.6


def test_otsu_of_two_values_is_the_larger():
  map_RR = np.full((6, 6), 0.2, np.float32)
  map_RR[2:4, 1:5] = 0.3
  np.testing.assert_array_equal(otsu(map_RR[None])[0], map_RR > 0.25)


def test_of_a_flat_map_nothing_is_the_subject():
  assert not np.asarray(otsu(np.full((1, 4, 4), 0.25, np.float32))).any()


def test_a_nouns_map_is_the_mean_of_layers_over_its_tokens():
  rng = np.random.default_rng(0)
  layers = [
    rng.random((2, side * side, 5)).astype(np.float32) for side in (8, 8, 4)
  ]
  noun_BL = np.zeros((2, 5), bool)
  noun_BL[0, 1:3] = noun_BL[1, 4] = True
  fine = noun_map(layers[:2], noun_BL, side=8)
  by_hand = np.stack(
    [
      [layer[0, :, 1] + layer[0, :, 2] for layer in layers[:2]],
      [layer[1, :, 4] for layer in layers[:2]],
    ]
  ).mean(1)
  np.testing.assert_allclose(fine.reshape(2, -1), by_hand, rtol=1e-6)
  # Of a coarse layer a bright corner stays a bright corner.
  layers[2][:] = 0
  layers[2][:, 0] = 10
  all_three = np.asarray(noun_map(layers, noun_BL, side=8))
  assert (all_three[:, 0, 0] > all_three[:, 1:, 1:].max((1, 2)) - 1).all()
  np.testing.assert_allclose(
    all_three[:, 4:, 4:], np.asarray(fine)[:, 4:, 4:] * 2 / 3, rtol=1e-5
  )
