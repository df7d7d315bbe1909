# SPDX-License-Identifier: Apache-2.0
"""DDIM (Song et al., arXiv 2010.02502) and Euler, its twin.

Euler's method in x / alpha (Karras et al., arXiv 2206.00364, algorithm 2
without churn) moves along the same line from x_0 to eps: the two differ in
where they stop, not in how they step. The ancestral Euler of k-diffusion is
DDIM with eta = 1 but for how it shares the noise out.
"""

import numpy as np

from suti.diffusion.plan import Bounds, Plan, Steps, make_plan, terms


def plan_ddim(
  steps: Steps,
  *,
  prediction: str,
  bounds: Bounds,
  eta: float = 0.0,
  follow_bounds: bool = False,
  noise_scale: float = 1.0,
) -> Plan:
  """Plans DDIM (arXiv 2010.02502, eqs. 12 and 16); with eta = 0 also Euler.

  Args:
    steps: where it goes.
    prediction: what the net predicts.
    bounds: limits of x_0.
    eta: 0 is deterministic, 1 adds as much noise as DDPM.
    follow_bounds: take eps anew from the x_0 that was bounded, so that x_t
      stays on the line between the two, not from the prediction.
    noise_scale: of the noise that sampling starts from.

  Returns:
    The plan.
  """
  std_N = np.zeros_like(steps.sigma_N)
  if eta:
    ratio_N = steps.alpha_N / steps.alpha_to_N
    std_N = eta * steps.sigma_to_N * np.sqrt(1 - ratio_N**2) / steps.sigma_N
  kept_N = np.sqrt(np.maximum(steps.sigma_to_N**2 - std_N**2, 0))
  x, x0, eps, noise = terms(1)
  update = []
  for n, (kept, std) in enumerate(zip(kept_N, std_N, strict=True)):
    if follow_bounds:
      eps = (x - steps.alpha_N[n] * x0) / steps.sigma_N[n]
    update.append([steps.alpha_to_N[n] * x0 + kept * eps + std * noise])
  return make_plan(
    steps,
    update,
    prediction=prediction,
    bounds=bounds,
    noise_scale=noise_scale,
  )


def plan_euler_ancestral(
  steps: Steps, *, prediction: str, bounds: Bounds, noise_scale: float = 1.0
) -> Plan:
  """Plans ancestral Euler: a step below the next level, and up by fresh noise.

  Args:
    steps: where it goes.
    prediction: see `plan_ddim`, as all other arguments.
    bounds: limits of x_0.
    noise_scale: of the noise that sampling starts from.

  Returns:
    The plan.
  """
  _, x0, eps, noise = terms(1)
  update = []
  for alpha, sigma, alpha_to, sigma_to in zip(
    steps.alpha_N,
    steps.sigma_N,
    steps.alpha_to_N,
    steps.sigma_to_N,
    strict=True,
  ):
    before, after = sigma / alpha, sigma_to / alpha_to
    up = after * np.sqrt(1 - (after / before) ** 2)
    down = after**2 / before
    update.append([alpha_to * (x0 + down * eps + up * noise)])
  return make_plan(
    steps,
    update,
    prediction=prediction,
    bounds=bounds,
    noise_scale=noise_scale,
  )
