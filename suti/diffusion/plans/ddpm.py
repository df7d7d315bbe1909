# SPDX-License-Identifier: Apache-2.0
"""DDPM: the posterior of each step (Ho et al., arXiv 2006.11239).

With the variances of Nichol and Dhariwal (arXiv 2102.09672): small, large, or
learned as an interpolation between the two. Steps that are left out are taken
in one stride: alpha_t / alpha_s replaces one step's alpha.
"""

import numpy as np

from suti.diffusion.plan import Bounds, Plan, Steps, make_plan, terms

VARIANCES = (
  "fixed_small",
  "fixed_small_log",
  "fixed_large",
  "fixed_large_log",
  "learned_range",
)


def plan_ddpm(
  steps: Steps,
  *,
  prediction: str,
  bounds: Bounds,
  variance: str = "fixed_small",
) -> Plan:
  """Plans ancestral sampling (arXiv 2006.11239, eqs. 6 and 7).

  Args:
    steps: where it goes.
    prediction: what the net predicts.
    bounds: limits of x_0.
    variance: "fixed_small" is the posterior's own, "fixed_large" that of the
      forward process, each also under its name with "_log"; with
      "learned_range" the net interpolates between them, in [-1, 1].

  Returns:
    The plan.
  """
  ratio_N = steps.alpha_N / steps.alpha_to_N
  large_N = 1 - ratio_N**2
  small_N = (steps.sigma_to_N / steps.sigma_N) ** 2 * large_N
  # The publisher adds noise at every step but step 0. Where the last step is
  # another, a large variance leaves noise in the picture.
  noisy_N = steps.t_N > 0
  log_variance_N2 = None
  if variance == "learned_range":
    least_N = np.maximum(small_N, 1e-20)
    log_variance_N2 = np.log(np.stack([least_N, large_N], axis=1))
    std_N = np.ones_like(ratio_N)
  else:
    std_N = np.sqrt(small_N if "small" in variance else large_N)
  std_N = np.where(noisy_N, std_N, 0.0)
  kept_N = ratio_N * (steps.sigma_to_N / steps.sigma_N) ** 2
  # Without noise left it is x_0 to the last digit, which never leaves its clip.
  clean_N = np.where(
    steps.sigma_to_N > 0,
    steps.alpha_to_N * large_N / steps.sigma_N**2,
    steps.alpha_to_N,
  )
  x, x0, _, noise = terms(1)
  update = [
    [kept * x + clean * x0 + std * noise]
    for kept, clean, std in zip(kept_N, clean_N, std_N, strict=True)
  ]
  return make_plan(
    steps,
    update,
    prediction=prediction,
    bounds=bounds,
    log_variance_N2=log_variance_N2,
  )
