# SPDX-License-Identifier: Apache-2.0
"""Guidance and thresholding, by hand-made numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from suti.diffusion import guidance


def test_weights_one_and_zero_give_the_predictions_themselves():
  cond, uncond = jnp.array([3.0, 1.0]), jnp.array([1.0, 2.0])
  free = guidance.classifier_free
  np.testing.assert_allclose(free(cond, uncond, 1.0), cond)
  np.testing.assert_allclose(free(cond, uncond, 0.0), uncond)
  np.testing.assert_allclose(free(cond, uncond, 15.0), [31.0, -13.0])


def test_a_variance_beside_the_prediction_is_not_guided():
  cond, uncond = jnp.array([[3.0, 1.0]]), jnp.array([[1.0, 9.0]])
  found = guidance.classifier_free_of_mean(cond, uncond, 15.0)
  np.testing.assert_allclose(found, [[31.0, 1.0]])


def test_two_conditions_with_equal_weights_are_one():
  both, subject, neither = (jnp.array([v]) for v in (4.0, 3.0, 1.0))
  two = guidance.two_conditions(
    both, subject, neither, text_scale=7.0, subject_scale=7.0
  )
  np.testing.assert_allclose(two, guidance.classifier_free(both, neither, 7.0))
  apart = guidance.two_conditions(
    both, subject, neither, text_scale=2.0, subject_scale=5.0
  )
  np.testing.assert_allclose(apart, [1 + 5 * 2 + 2 * 1])


def test_guided_asks_the_net_once_for_all_conditions():
  calls = []

  def denoise(x_BHWC, t_B, condition):
    calls.append((x_BHWC.shape, t_B.shape))
    gain_B = condition["gain"] * t_B.astype(jnp.float32)
    return x_BHWC * gain_B[:, None, None, None]

  guided = guidance.guided(
    denoise,
    {"gain": jnp.array([3.0, 4.0])},
    {"gain": jnp.array([1.0, 1.0])},
    combine=lambda cond, uncond: guidance.classifier_free(cond, uncond, 2.0),
  )
  out = guided(jnp.ones((2, 1, 1, 1)), jnp.array([1, 10]))
  assert calls == [((4, 1, 1, 1), (4,))]
  np.testing.assert_allclose(out.ravel(), [5.0, 70.0])


def test_dynamic_threshold_leaves_quiet_pictures_alone():
  x0_BHWC = jnp.linspace(-0.9, 0.9, 48).reshape(1, 4, 4, 3)
  np.testing.assert_allclose(
    guidance.dynamic_threshold(x0_BHWC, 99.5), x0_BHWC, rtol=1e-6
  )


def test_dynamic_threshold_works_on_each_picture_by_itself():
  ramp = jnp.linspace(-1.0, 1.0, 101).reshape(1, 101, 1, 1)
  x0_BHWC = jnp.concatenate([ramp, 4 * ramp])
  out = guidance.dynamic_threshold(x0_BHWC, 80.0)
  # |ramp| has its 80th percentile at 0.8: the second is clipped at 3.2.
  np.testing.assert_allclose(out[0], ramp[0], atol=1e-6)
  expected = np.clip(4 * np.asarray(ramp[0]), -3.2, 3.2) / 3.2
  np.testing.assert_allclose(out[1], expected, atol=1e-5)


def test_dynamic_threshold_divides_by_the_largest_value_at_most():
  x0_BHWC = 4 * jnp.linspace(-1.0, 1.0, 101).reshape(1, 101, 1, 1)
  found = guidance.dynamic_threshold(x0_BHWC, 80.0, max_value=1.5)
  np.testing.assert_allclose(found, jnp.clip(x0_BHWC, -1.5, 1.5) / 1.5)


def test_a_percentile_given_as_a_share_is_refused():
  with pytest.raises(ValueError, match="is given in percent"):
    guidance.dynamic_threshold(jnp.zeros((1, 2, 2, 3)), 0.995)
