# SPDX-License-Identifier: Apache-2.0
"""How parameters move, wherever they are trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.nn.optimizer import (
  average,
  ema_decay,
  make_optimizer,
  make_schedule,
  start_state,
  step_key,
)


@pytest.mark.parametrize("fall_steps", [0, 20])
def test_a_rate_rises_stays_and_falls(fall_steps):
  rate = make_schedule(
    0.5, num_steps=100, warmup_steps=10, fall_steps=fall_steps
  )
  low = 0.25 if fall_steps else 0.5
  np.testing.assert_allclose(
    [rate(s) for s in (0, 5, 10, 79, 90)], [0.0, 0.25, 0.5, 0.5, low], atol=1e-6
  )


def test_a_young_average_follows_fast_and_an_old_one_slowly():
  ema, params = {"a": jnp.zeros(())}, {"a": jnp.ones(())}
  young = average(ema, params, step=jnp.int32(0), decay=0.99)["a"]
  old = average(ema, params, step=jnp.int32(10**6), decay=0.99)["a"]
  np.testing.assert_allclose([young, old], [0.9, 0.01], rtol=1e-4)


def test_what_stays_of_an_average_grows_to_the_decay():
  kept = [float(ema_decay(jnp.int32(n), decay=0.9)) for n in (0, 8, 80, 10**6)]
  np.testing.assert_allclose(kept, [0.1, 0.5, 0.9, 0.9], rtol=1e-6)


def test_a_state_starts_whole_and_each_step_has_its_key():
  params = {"a": jnp.ones((2,))}
  state = start_state(params, make_optimizer("adam", 0.1), seed=3)
  assert set(state) == {"params", "opt", "ema", "step", "key"}
  assert state["ema"]["a"] is not params["a"]  # the state is donated
  later = state | {"step": jnp.int32(1)}
  keys = [jax.random.key_data(step_key(s)) for s in (state, later)]
  assert (keys[0] != keys[1]).any()
  expected = jax.random.fold_in(jax.random.key(3), 0)
  np.testing.assert_array_equal(keys[0], jax.random.key_data(expected))
