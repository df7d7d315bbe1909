# SPDX-License-Identifier: Apache-2.0
"""Rounding by chance: unbiased, exact where it can be, and steps add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.nn.rounding import stochastic_round

VALUES = np.float32([0.1, -0.1, 1.001, -3e-3, 7.77e8, -1e-30, 0.3333, 123.456])


def test_it_is_unbiased():
  """The mean of many draws, against the spread that a coin would have."""
  num = 1 << 16
  x = jnp.broadcast_to(VALUES, (num, len(VALUES)))
  drawn = np.asarray(stochastic_round(x, jax.random.key(0)), np.float64)
  low, high = drawn.min(0), drawn.max(0)
  # Neighbours in bfloat16, one on each side.
  assert (low < VALUES).all() and (high > VALUES).all()
  share = (VALUES - low) / (high - low)
  deviation = np.sqrt(share * (1 - share) / num)
  found = ((drawn == high).mean(0) - share) / deviation
  assert np.abs(found).max() < 4
  assert ((drawn == low) | (drawn == high)).all()


def test_what_bfloat16_holds_stays():
  bits = np.arange(1 << 16, dtype=np.uint32) << 16
  every = jnp.asarray(bits.view(np.float32))
  rounded = stochastic_round(every, jax.random.key(1))
  np.testing.assert_array_equal(np.asarray(rounded, np.float32), every)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays(value):
  # A NaN with all bits set would become a number if something were added.
  bits = np.array([0x7FFFFFFF], np.uint32).view(np.float32)
  x = jnp.asarray(bits if np.isnan(value) else np.float32([value]))
  np.testing.assert_array_equal(
    np.asarray(stochastic_round(x, jax.random.key(2)), np.float32), [value]
  )


def test_small_steps_add_up_where_rounding_to_the_nearest_stalls():
  """Five hundred steps of 1e-5, the paper's, on weights about 0.1."""
  start = jax.random.normal(jax.random.key(3), (4096,)) * 0.1
  start = start.astype(jnp.bfloat16)
  keys = jax.random.split(jax.random.key(4), 500)

  def steps(round_it):
    def step(x, key):
      return round_it(x.astype(jnp.float32) + jnp.float32(1e-5), key), None

    moved = jax.lax.scan(step, start, keys)[0] - start
    return np.asarray(moved, np.float32)

  nearest = steps(lambda x, key: x.astype(jnp.bfloat16))
  rounded = steps(stochastic_round)
  assert nearest.mean() < 0.2 * 5e-3
  deviation = rounded.std() / np.sqrt(len(rounded))
  assert abs(rounded.mean() - 5e-3) < 4 * deviation
  assert deviation < 1e-4


def test_elements_and_keys_go_their_own_ways():
  """No two neighbours, and no two keys, are rounded alike."""
  x = jnp.full((64, 64), 1.0 + 2**-8, jnp.float32)  # halfway
  keys = jax.random.split(jax.random.key(5), 8)
  up_KN = (
    np.stack([stochastic_round(x, key) for key in keys]).reshape(8, -1) > 1
  )
  agree = [
    np.mean(up_KN[i] == up_KN[j]) for i in range(8) for j in range(i)
  ] + [np.mean(up_KN[:, n:] == up_KN[:, :-n]) for n in (1, 2, 64)]
  # Half of 4096, with four deviations of a coin.
  assert np.abs(np.array(agree) - 0.5).max() < 4 * 0.5 / 64
  np.testing.assert_array_equal(
    jax.vmap(stochastic_round, (None, 0))(x, keys).reshape(8, -1) > 1, up_KN
  )
