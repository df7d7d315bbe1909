# SPDX-License-Identifier: Apache-2.0
"""Which steps Karras' noise levels are named to the net by: the publisher's."""

import numpy as np
import pytest

from suti.diffusion.plans.steps import SPACINGS
from suti.diffusion.scheduler_config import from_config
from tests.goldens import karras_cases as cases


def found(case, num_steps):
  return from_config(cases.config(case), num_steps=num_steps).t_N


@pytest.mark.parametrize("case", cases.CASES)
def test_times_of_all_step_counts_are_the_publishers(case):
  stored = cases.stored()[case]
  assert len(stored) == len(cases.NUM_STEPS)
  for num_steps, expected in zip(cases.NUM_STEPS, stored, strict=True):
    # Euler's are not whole: hundredths of a step are stored.
    np.testing.assert_allclose(
      found(case, num_steps), expected, rtol=0, atol=cases.atol(case)
    )


def test_a_time_that_exact_arithmetic_puts_one_step_beside():
  assert 576 in found("DPMSolverMultistepScheduler scaled_linear", 18)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", cases.CASES)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_times_of_all_step_counts_in_all_spacings(case, spacing):
  pytest.importorskip("diffusers", reason="diffusers is not installed")
  config = cases.config(case) | {"timestep_spacing": spacing}
  for num_steps in cases.NUM_STEPS:
    if spacing == "trailing" and case.startswith("Euler") and num_steps == 61:
      # Counting down by 1000 / 61, the publisher makes a 62nd step below zero,
      # from which its levels are then spread: not what 61 steps are.
      continue
    expected = cases.theirs(config, num_steps)
    plan = from_config(config, num_steps=num_steps)
    np.testing.assert_allclose(
      plan.t_N, expected, rtol=0, atol=cases.atol(case), err_msg=f"{num_steps}"
    )
