# SPDX-License-Identifier: Apache-2.0
"""Modes of guidance: their formulas by hand, ramps, and whose turn it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.config.samplers import GUIDANCE
from suti.diffusion.guidance_modes import BASE, MODES, SUBJECT, TEXT, guide
from suti.diffusion.plans.steps import timesteps
from suti.diffusion.schedule import make_schedule

T = 1000
SHAPE = (2, 4, 4, 3)
RNG = np.random.default_rng(0)
# A prediction for each set of hidden conditions.
FULL, NO_TEXT, NO_SUBJECT, NOTHING, PLAIN, PLAIN_NO_TEXT = (
  RNG.normal(size=SHAPE).astype(np.float32) for _ in range(6)
)
PREDICTIONS = {
  (): FULL,
  (TEXT,): NO_TEXT,
  (SUBJECT,): NO_SUBJECT,
  (TEXT, SUBJECT): NOTHING,
  (BASE,): PLAIN,
  (BASE, TEXT): PLAIN_NO_TEXT,
}


def guided(
  mode, t=500, *, num_steps=10, asked=None, hands_over=False, **weights
):
  """One step of a mode; `asked` collects the branches."""
  numbers = {
    "text": 3.0, "subject": 2.0, "text_ramp": 0.0, "subject_ramp": 0.0,
    "agnostic": 0.0, "agnostic_above": 0.8,
  } | weights  # fmt: skip

  def predict(hidden, x_BHWC, t_B):
    if asked is not None:
      asked.append(hidden)
    return x_BHWC * 0 + PREDICTIONS[hidden]

  denoise = guide(
    predict,
    MODES[mode],
    {name: jnp.float32(x) for name, x in numbers.items()},
    schedule_steps=T,
    num_steps=num_steps,
    hands_over=hands_over,
  )
  return np.asarray(denoise(jnp.zeros(SHAPE), jnp.full(2, t)))


def test_configs_name_the_modes_that_there_are():
  assert tuple(MODES) == GUIDANCE


def test_joint_and_two_by_hand():
  joint = NOTHING + 2 * (FULL - NOTHING)
  np.testing.assert_allclose(guided("joint"), joint, rtol=1e-5, atol=1e-5)
  two = NOTHING + 2 * (NO_TEXT - NOTHING) + 3 * (FULL - NO_TEXT)
  np.testing.assert_allclose(guided("two"), two, rtol=1e-5, atol=1e-5)


def test_normalised_is_syncds_equation_4():
  expected = []
  for full, subject, nothing in zip(FULL, NO_TEXT, NOTHING, strict=True):
    g_i, g_c = subject - nothing, full - subject
    shorter = min(np.linalg.norm(g_i), np.linalg.norm(g_c))
    expected.append(
      subject
      + 2 * shorter / np.linalg.norm(g_i) * g_i
      + 3 * shorter / np.linalg.norm(g_c) * g_c
    )
  found = guided("normalised")
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_direction_of_no_length_is_no_nan(monkeypatch):
  monkeypatch.setitem(PREDICTIONS, (TEXT,), NOTHING)
  np.testing.assert_array_equal(guided("normalised"), NOTHING)


def test_interleaved_steps_take_turns_at_two_predictions():
  asked = []
  by_text = NO_TEXT + 3 * (FULL - NO_TEXT)
  by_subject = NO_SUBJECT + 2 * (FULL - NO_SUBJECT)
  for number in range(10):
    found = guided("interleaved", 999 - 100 * number, asked=asked)
    expected = (by_text, by_subject)[number % 2]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  assert {len(turn.branches) for turn in MODES["interleaved"]} == {2}


@pytest.mark.parametrize("num_steps", [5, 12, 50, 256])
def test_turns_alternate_over_a_samplers_steps(num_steps):
  schedule = make_schedule(
    {"num_train_timesteps": T, "beta_schedule": "linear"}
  )
  steps = np.asarray(timesteps(schedule, num_steps))
  turns = np.round((T - 1 - steps) * num_steps / T).astype(int) % 2
  assert (turns[1:] != turns[:-1]).all()


def test_agnostic_hides_the_subject_above_a_step():
  above = NOTHING + 2 * (NO_SUBJECT - NOTHING)
  np.testing.assert_allclose(
    guided("agnostic", 801), above, rtol=1e-5, atol=1e-5
  )
  below = NOTHING + 2 * (FULL - NOTHING)
  np.testing.assert_allclose(
    guided("agnostic", 800), below, rtol=1e-5, atol=1e-5
  )
  # (1 + w) eps(c) - w eps(c0), with w = -0.25.
  half = 0.75 * FULL + 0.25 * NO_SUBJECT
  np.testing.assert_allclose(
    guided("agnostic", 300, agnostic=-0.25),
    NOTHING + 2 * (half - NOTHING),
    rtol=1e-5,
    atol=1e-5,
  )


def test_independent_adds_what_each_does_alone():
  expected = NOTHING + 3 * (NO_SUBJECT - NOTHING) + 2 * (NO_TEXT - NOTHING)
  np.testing.assert_allclose(
    guided("independent"), expected, rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize("mode", MODES)
def test_in_every_mode_the_base_may_take_over(mode):
  """From a share of the noise on, guided by the text alone."""
  plain = PLAIN_NO_TEXT + 3 * (PLAIN - PLAIN_NO_TEXT)
  late = guided(mode, 400, hands_over=True, until=0.4)
  np.testing.assert_allclose(late, plain, rtol=1e-5, atol=1e-5)
  early = guided(mode, 401, hands_over=True, until=0.4)
  np.testing.assert_allclose(early, guided(mode, 401), rtol=1e-6, atol=1e-6)


def test_a_ramp_is_syncds_and_stops_at_zero():
  # lambda_I = 8 + 5 (1000 - t) / 1000.
  for t in (0, 250, 999):
    weight = 8 + 5 * (1000 - t) / 1000
    found = guided("joint", t, subject=8.0, subject_ramp=5.0)
    expected = guided("joint", t, subject=weight)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(
    guided("joint", 0, subject=1.0, subject_ramp=-3.0), NOTHING, atol=1e-6
  )


def test_other_weights_need_no_other_program():
  count = []

  @jax.jit
  def step(weights):
    count.append(1)
    denoise = guide(
      lambda hidden, x, t: x + len(hidden),
      MODES["two"],
      weights,
      schedule_steps=T,
      num_steps=4,
    )
    return denoise(jnp.zeros(SHAPE), jnp.full(2, 7))

  names = ("text", "subject", "text_ramp", "subject_ramp")
  for value in (1.0, 2.0):
    step({name: jnp.float32(value) for name in names})
  assert len(count) == 1
