# SPDX-License-Identifier: Apache-2.0
"""PNDM: linear multistep over the net's predictions (arXiv 2202.09778).

Liu et al.'s transfer (eq. 11) is a step of DDIM; what it is given is a mean of
several predictions: of four Runge-Kutta evaluations (eq. 13, "PRK") and then of
the last four steps (eq. 12, "PLMS"), or of as many as there are, where the
first step is evaluated twice (as Stable Diffusion 1 is published). Predictions
are mixed as the net makes them, eps or v. Estimates of x_0 are not bounded.

Shape legend: `N` net evaluations.
"""

import itertools

import numpy as np

from suti.diffusion.plan import Bounds, Plan, make_plan, terms
from suti.diffusion.plans.steps import levels, strides
from suti.diffusion.schedule import Schedule

# Adams and Bashforth's weights, newest first, by how many steps there are.
_WEIGHTS = {
  1: np.array([1.0]),
  2: np.array([3, -1]) / 2,
  3: np.array([23, -16, 5]) / 12,
  4: np.array([55, -59, 37, -9]) / 24,
}


def plan_pndm(
  schedule: Schedule,
  t_N: np.ndarray,
  *,
  stride: int,
  runge_kutta: bool,
  final: tuple[float, float],
) -> Plan:
  """Plans PNDM.

  Args:
    schedule: the process.
    t_N: steps to visit, falling; at least 4 where `runge_kutta`.
    stride: what a step leads down by, whatever `t_N` is, as published.
    runge_kutta: take the first three strides by Runge and Kutta's method.
    final: (alpha, sigma) where sampling ends.

  Returns:
    The plan: one evaluation more than steps, or nine more with `runge_kutta`.
  """
  visited, starts, ends, roles = (_runge_kutta if runge_kutta else _repeat)(
    t_N, stride
  )
  visits = strides(schedule, np.array(visited))
  from_alpha, from_sigma = levels(schedule, np.array(starts))
  to_alpha, to_sigma = levels(schedule, np.array(ends), final=final)
  x, base, sum_, *past, x0, eps, _ = terms(6)
  known = 0  # predictions in `past`
  update = []
  for n, role in enumerate(roles):
    predicted = eps
    if schedule.prediction == "v_prediction":
      predicted = visits.alpha_N[n] * eps - visits.sigma_N[n] * x0
    kept = [base, sum_, *past]
    shifted = [predicted, *past[:2]]
    start, mean = x, predicted
    if role == "first":  # of PRK's four, or of PLMS' two
      kept = [x, predicted / 6, *shifted]
      known += 1
    elif role == "middle":
      start = base
      kept[1] = sum_ + predicted / 3
    elif role == "last":
      start, mean = base, sum_ + predicted / 6
    elif role == "again":
      start, mean = base, (predicted + past[0]) / 2
    else:
      known = min(known + 1, 4)
      recent = [predicted, *past][:known]
      mean = sum(w * e for w, e in zip(_WEIGHTS[known], recent, strict=True))
      kept[2:] = shifted
    ratio = to_alpha[n] / from_alpha[n]
    if schedule.prediction == "v_prediction":
      mean = from_alpha[n] * mean + from_sigma[n] * start
    new = ratio * start + (to_sigma[n] - ratio * from_sigma[n]) * mean
    update.append([new, *kept])
  return make_plan(
    visits, update, prediction=schedule.prediction, bounds=Bounds()
  )


def _repeat(t_N: np.ndarray, stride: int) -> tuple[list, list, list, list]:
  """(visited, start, end, role) of each evaluation without Runge and Kutta."""
  t = [int(t) for t in t_N]
  # The second evaluation is where the first step led, for the same step.
  visited = [*t[:1], *t[1:2], *t[1:]]
  roles = ["first", "again", *["multi"] * (len(t) - 1)][: len(visited)]
  starts = [
    t + stride if role == "again" else t
    for t, role in zip(visited, roles, strict=True)
  ]
  ends = [
    t if role == "again" else t - stride
    for t, role in zip(visited, roles, strict=True)
  ]
  return visited, starts, ends, roles


def _runge_kutta(t_N: np.ndarray, stride: int) -> tuple[list, list, list, list]:
  """(visited, start, end, role) of each evaluation, three strides by PRK."""
  half = stride // 2
  visited, starts, ends, roles = [], [], [], []
  t = [int(t) for t in t_N]
  for here, there in itertools.pairwise(t[:4]):
    visited += [here, there + half, there + half, there]
    starts += [here] * 4
    ends += [here - half, there + half, there, there]
    roles += ["first", "middle", "middle", "last"]
  rest = t[3:]
  visited += rest
  starts += rest
  ends += [s - stride for s in rest]
  roles += ["multi"] * len(rest)
  return visited, starts, ends, roles
