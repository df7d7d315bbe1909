# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver++ multistep (Lu et al., arXiv 2211.01095), also as an SDE.

The exact solution of the part that is linear in x, and a polynomial through the
x_0 of the last one to three steps for the rest (algorithm 2; the SDE form is
that of appendix B). Deterministic unless `sde`.
"""

import numpy as np

from suti.diffusion.plan import Bounds, Plan, Steps, make_plan, terms

SOLVERS = ("midpoint", "heun")


def plan_dpm_solver(
  steps: Steps,
  *,
  prediction: str,
  bounds: Bounds,
  order: int = 2,
  solver: str = "midpoint",
  sde: bool = False,
  lower_order_final: bool = True,
  euler_at_final: bool = False,
) -> Plan:
  """Plans DPM-Solver++ multistep.

  Args:
    steps: where it goes, each step to the start of the next.
    prediction: what the net predicts.
    bounds: limits of x_0.
    order: 1 to 3; the first steps have fewer x_0 and a lower order.
    solver: "midpoint" or "heun", how the second order is written.
    sde: draw fresh noise; up to order 2.
    lower_order_final: with fewer than 15 steps, fall to order 2 and 1 in the
      last two.
    euler_at_final: fall to order 1 in the last. A step that leads to no noise,
      or nowhere, is of order 1 in any case.

  Returns:
    The plan.
  """
  num_steps = len(steps.t_N)
  with np.errstate(divide="ignore"):
    # log(alpha / sigma): -inf where nothing but noise is left, +inf where there
    # is none, so h of the first or the last step may be inf.
    lambda_N = np.log(steps.alpha_N / steps.sigma_N)
    lambda_to_N = np.log(steps.alpha_to_N / steps.sigma_to_N)
  h_N = lambda_to_N - lambda_N
  lower = lower_order_final and num_steps < 15
  x, *past, x0, _, noise = terms(order)
  update = []
  for n, h in enumerate(h_N):
    used = min(order, n + 1)
    final = n == num_steps - 1 and (lower or euler_at_final)
    if final or np.isinf(h) or h == 0:
      used = 1
    elif n == num_steps - 2 and lower:
      used = min(used, 2)
    alpha_to = steps.alpha_to_N[n]
    shrink = steps.sigma_to_N[n] / steps.sigma_N[n]
    # The SDE's drift runs twice as fast.
    pace = 2 * h if sde else h
    weight = -alpha_to * np.expm1(-pace)
    new = (shrink * np.exp(-h) if sde else shrink) * x + weight * x0
    if sde:
      new = new + steps.sigma_to_N[n] * np.sqrt(-np.expm1(-pace)) * noise
    if used > 1:
      r0 = h_N[n - 1] / h
      slope = (x0 - past[0]) / r0
      bend = alpha_to - weight / pace
      if used == 2:
        new = new + (weight / 2 if solver == "midpoint" else bend) * slope
      else:
        r1 = h_N[n - 2] / h
        change = (slope - (past[0] - past[1]) / r1) / (r0 + r1)
        twist = alpha_to * ((np.expm1(-h) + h) / h**2 - 0.5)
        new = new + bend * (slope + r0 * change) - twist * change
    update.append([new, x0, *past][:order])
  return make_plan(steps, update, prediction=prediction, bounds=bounds)
