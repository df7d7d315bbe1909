# SPDX-License-Identifier: Apache-2.0
"""How parameters move, wherever they are trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
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


def test_muon_of_a_schedule_is_that_of_a_rate():
  rng = np.random.default_rng(0)
  params = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in {"a.weight": (6, 4), "a.bias": (4,)}.items()
  }

  def moved(rate):
    tx = make_optimizer("muon", rate)
    with jax.numpy_dtype_promotion("standard"):  # optax counts on it
      return tx.update(params, tx.init(params), params)[0]

  scheduled, constant = moved(lambda step: 0.1), moved(0.1)
  for name in params:
    np.testing.assert_allclose(scheduled[name], constant[name], rtol=1e-6)
  # A vector moves as by AdamW, at half the rate.
  adamw = optax.adamw(0.05, b2=0.99, weight_decay=0.0, nesterov=True)
  with jax.numpy_dtype_promotion("standard"):
    expected, _ = adamw.update(params, adamw.init(params), params)
  np.testing.assert_allclose(constant["a.bias"], expected["a.bias"], rtol=1e-5)
  # A matrix moves by what is nearly orthogonal, 0.2 a number in the mean.
  step = np.asarray(constant["a.weight"]) / 0.1
  singular = np.linalg.svd(step, compute_uv=False)
  assert singular.max() / singular.min() < 2
  np.testing.assert_allclose(np.sqrt(np.square(step).mean()), 0.2, rtol=0.3)
