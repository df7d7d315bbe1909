# SPDX-License-Identifier: Apache-2.0
"""UniPC: a predictor, and a corrector that costs nothing (arXiv 2302.04867).

Zhao et al.: the net's output at the predicted point also corrects the step that
led there (algorithms 1 and 2, multistep, in the form of appendix E, with x_0 or
with eps). The net sees the prediction, the next step starts from the
correction: both are remembered. Deterministic.
"""

from collections.abc import Collection

import numpy as np

from suti.diffusion.plan import Bounds, Plan, Steps, make_plan, terms

SOLVERS = ("bh1", "bh2")


def plan_unipc(
  steps: Steps,
  *,
  prediction: str,
  bounds: Bounds,
  order: int = 2,
  solver: str = "bh2",
  predict_x0: bool = True,
  lower_order_final: bool = True,
  uncorrected: Collection[int] = (),
) -> Plan:
  """Plans UniPC.

  Args:
    steps: where it goes, each step to the start of the next.
    prediction: what the net predicts.
    bounds: limits of x_0.
    order: 1 to 3; the first steps have fewer predictions and a lower order.
    solver: "bh1" or "bh2", the function B(h) of section 3.1.
    predict_x0: extrapolate x_0, else eps, which is never bounded.
    lower_order_final: fall to order 1 towards the last step. A step that leads
      to no noise, or nowhere, is of order 1 in any case.
    uncorrected: numbers of the steps that are not corrected, from 0.

  Returns:
    The plan.
  """
  num_steps = len(steps.t_N)
  x, start, *past, x0, eps, _ = terms(2 + order)
  predicted = x0 if predict_x0 else eps
  used = 0
  update = []
  for n in range(num_steps):
    corrected = x
    if n > 0 and n - 1 not in uncorrected:
      corrected = _step(
        steps, n - 1, start, past[:used], solver, predict_x0, arrived=predicted
      )
    used = min(order, n + 1)
    if lower_order_final:
      used = min(used, num_steps - n)
    if steps.sigma_to_N[n] in (0.0, steps.sigma_N[n]):
      used = 1
    recent = [predicted, *past][:used]
    new = _step(steps, n, corrected, recent, solver, predict_x0)
    update.append([new, corrected, *[predicted, *past][:order]])
  return make_plan(steps, update, prediction=prediction, bounds=bounds)


def _step(
  steps: Steps,
  n: int,
  start: np.ndarray,
  recent: list[np.ndarray],
  solver: str,
  predict_x0: bool,
  arrived: np.ndarray | None = None,
) -> np.ndarray:
  """Step `n` from `start`, through the predictions at its start and before.

  With the net's prediction where the step `arrived`, it is the corrector.
  """
  alpha, sigma = steps.alpha_N[n], steps.sigma_N[n]
  alpha_to, sigma_to = steps.alpha_to_N[n], steps.sigma_to_N[n]
  if predict_x0:
    first = sigma_to / sigma * start
    first = first + (alpha_to - sigma_to * alpha / sigma) * recent[0]
  else:
    first = alpha_to / alpha * start
    first = first + (sigma_to - alpha_to * sigma / alpha) * recent[0]
  order = len(recent)
  if order == 1 and arrived is None:
    return first
  lambda_n = np.log(alpha / sigma)
  h = np.log(alpha_to / sigma_to) - lambda_n
  # Where predictions were made, in strides of h from here, and how much they
  # differ from the one here.
  offsets, changes = [], []
  for i in range(1, order):
    behind = np.log(steps.alpha_N[n - i] / steps.sigma_N[n - i])
    offsets.append((behind - lambda_n) / h)
    changes.append((recent[i] - recent[0]) / offsets[-1])
  if arrived is not None:
    offsets.append(1.0)
    changes.append(arrived - recent[0])
  pace = -h if predict_x0 else h
  scale = pace if solver == "bh1" else np.expm1(pace)
  weights = _weights(np.array(offsets), pace, scale)
  change = sum(w * c for w, c in zip(weights, changes, strict=True))
  return first - (alpha_to if predict_x0 else sigma_to) * scale * change


def _weights(offsets: np.ndarray, pace: float, scale: float) -> np.ndarray:
  """The weights a_m of eq. 6: exact for polynomials through the offsets."""
  if len(offsets) == 1:
    return np.array([0.5])  # close to the exact one, and what is published
  powers = np.vander(offsets, increasing=True).T
  wanted, phi, factorial = [], np.expm1(pace) / pace - 1, 1
  for i in range(len(offsets)):
    wanted.append(phi * factorial / scale)
    factorial *= i + 2
    phi = phi / pace - 1 / factorial
  return np.linalg.solve(powers, np.array(wanted))
