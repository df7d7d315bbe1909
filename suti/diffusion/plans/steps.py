# SPDX-License-Identifier: Apache-2.0
"""Which steps a sampler visits, and how much noise there is at each.

Spacings of Lin et al. (arXiv 2305.08891, table 2) and the noise levels of
Karras et al. (arXiv 2206.00364, eq. 5), with the roundings of the published
schedulers: a net evaluated one step beside gives another sample.

Shape legend: `T` steps of training, `N` steps of sampling.
"""

import numpy as np

from suti.diffusion.plan import Steps
from suti.diffusion.schedule import Schedule

SPACINGS = ("trailing", "leading", "linspace")
CLEAN = (1.0, 0.0)  # (alpha, sigma) of a picture without noise

# The signal left at a step that has none, for samplers which divide by it: the
# smallest number that the publishers' half precision holds.
_LEAST_ALPHA = 2.0**-12


def timesteps(
  schedule: Schedule,
  num_steps: int,
  *,
  spacing: str = "trailing",
  offset: int = 0,
  whole: bool = True,
  spare: bool = False,
  total: int | None = None,
) -> np.ndarray:
  """Chooses the steps to visit, falling (Lin et al., arXiv 2305.08891, tab. 2).

  Args:
    schedule: the process the net was trained on.
    num_steps: how many.
    spacing: "trailing" starts at the very last step, where pictures are noise
      alone, which is what the sampler is given; "linspace" takes both ends;
      "leading" leaves the last out, as older published samplers do.
    offset: added to all steps of "leading".
    whole: round the steps of "linspace".
    spare: visit one more in "leading" and "linspace", and leave the cleanest
      out: so do the published multistep solvers, whose last step has no end.
    total: where to start, if not from T; lower leaves the noisiest steps out.

  Returns:
    (N,), falling, without repetition, in [0, T): int32, or float64 where they
    are not whole.

  Raises:
    ValueError: there are not as many steps, or the spacing is unknown.
  """
  trained = schedule.num_steps
  total = trained if total is None else total
  check_num_steps(schedule, num_steps)
  count = num_steps + spare
  if spacing == "trailing":
    # Not total - n * stride: halves round as the publishers' do. Cut, as this
    # may give one step too many, below zero.
    steps_N = np.arange(total, 0, -trained / num_steps)[:num_steps].round() - 1
  elif spacing == "leading":
    steps_N = (np.arange(count) * (total // count))[::-1][:num_steps] + offset
  elif spacing == "linspace":
    steps_N = np.linspace(0, total - 1, count)[::-1][:num_steps]
    steps_N = steps_N.round() if whole else steps_N
  else:
    raise ValueError(
      f"spacing={spacing!r} is unknown: it must be one of"
      f" {', '.join(SPACINGS)}."
    )
  if steps_N[0] >= trained or np.any(np.diff(steps_N) >= 0):
    raise ValueError(
      f"num_steps={num_steps} does not fit the {trained} steps of the schedule"
      f" with spacing {spacing!r} and offset {offset}: use fewer."
    )
  if spacing == "linspace" and not whole:
    return steps_N
  return steps_N.astype(np.int32)


def check_num_steps(schedule: Schedule, num_steps: int) -> None:
  """Checks that there are steps, and not more than a net was trained on."""
  if not 1 <= num_steps <= schedule.num_steps:
    raise ValueError(
      f"num_steps={num_steps} must be between 1 and {schedule.num_steps}, the"
      " steps of the schedule that the model was trained with."
    )


def levels(
  schedule: Schedule, t_N: np.ndarray, *, final: tuple[float, float] = CLEAN
) -> tuple[np.ndarray, np.ndarray]:
  """Reads alpha and sigma at whole steps, float64; `final` at those below 0."""
  alpha_N = schedule.alpha_T.astype(np.float64)[t_N]
  sigma_N = schedule.sigma_T.astype(np.float64)[t_N]
  below = t_N < 0
  return np.where(below, final[0], alpha_N), np.where(below, final[1], sigma_N)


def strides(
  schedule: Schedule,
  t_N: np.ndarray,
  t_to_N: np.ndarray | None = None,
  *,
  final: tuple[float, float] = CLEAN,
) -> Steps:
  """Steps of the schedule's own levels.

  Args:
    schedule: the process.
    t_N: where steps start, whole.
    t_to_N: where they lead: to the next start and then to `final`, unless
      given. Below 0 is `final`.
    final: (alpha, sigma) where sampling ends.

  Returns:
    The steps.
  """
  if t_to_N is None:
    t_to_N = np.append(t_N[1:], -1)
  alpha_N, sigma_N = levels(schedule, t_N)
  alpha_to_N, sigma_to_N = levels(schedule, t_to_N, final=final)
  return Steps(
    t_N=t_N,
    alpha_N=alpha_N,
    sigma_N=sigma_N,
    alpha_to_N=alpha_to_N,
    sigma_to_N=sigma_to_N,
  )


def ratios(schedule: Schedule) -> np.ndarray:
  """Noise over signal at every step of training, float64 (T,), never inf."""
  alpha_T = schedule.alpha_T.astype(np.float64)
  least = np.sqrt(1 - _LEAST_ALPHA**2) / _LEAST_ALPHA
  with np.errstate(divide="ignore"):
    return np.where(alpha_T > 0, schedule.sigma_T / alpha_T, least)


def ratio_strides(
  t_N: np.ndarray, ratio_N: np.ndarray, *, final: float
) -> Steps:
  """Steps whose levels are given as noise over signal; the last leads there."""
  alpha_N, sigma_N = _split(ratio_N)
  alpha_to_N, sigma_to_N = _split(np.append(ratio_N[1:], final))
  return Steps(
    t_N=t_N,
    alpha_N=alpha_N,
    sigma_N=sigma_N,
    alpha_to_N=alpha_to_N,
    sigma_to_N=sigma_to_N,
  )


def _split(ratio_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  alpha_N = 1 / np.sqrt(ratio_N**2 + 1)
  return alpha_N, ratio_N * alpha_N


def karras(highest: float, lowest: float, num_steps: int) -> np.ndarray:
  """Falling ratios of noise, denser where there is little (eq. 5, rho = 7).

  Raises:
    ValueError: they would not fall, as a config's limits are given.
  """
  if not highest > lowest > 0:
    raise ValueError(
      f"sigma_max={highest:.4g} of the scheduler config must be above its"
      f" sigma_min={lowest:.4g}, and both above 0: leave both out, they are the"
      " schedule's own then."
    )
  ramp_N = np.linspace(0, 1, num_steps)
  root_N = highest ** (1 / 7) + ramp_N * (
    lowest ** (1 / 7) - highest ** (1 / 7)
  )
  return root_N**7


def karras_ends(
  schedule: Schedule,
  *,
  highest: float | None,
  lowest: float | None,
  times: tuple[float, float] | None = None,
) -> tuple[float, float]:
  """The most and the least noise over signal that Karras' steps go between.

  Args:
    schedule: the process.
    highest, lowest: of a config, where it says them.
    times: at which the schedule has them else; None are its ends.

  Returns:
    Both, in this order.
  """
  ratio_T = _published_ratios(schedule)
  steps_T = np.arange(len(ratio_T))
  ends = np.interp(times or (steps_T[-1], 0), steps_T, ratio_T)
  return (
    float(ends[0]) if highest is None else highest,
    float(ends[1]) if lowest is None else lowest,
  )


def times_of(schedule: Schedule, ratio_N: np.ndarray) -> np.ndarray:
  """The step, mostly between two, at which there is this much noise.

  The schedule's logarithms are float32, as the publisher's are: the solvers
  round what comes out, or cut it off, and with exact ones the net would be
  asked one step beside, in every plan of a cosine schedule. A cosine schedule
  that is rescaled to no signal may still be asked so: the square roots of its
  publisher's are not rounded alike on all machines.
  """
  log_T = np.log(_published_ratios(schedule))
  log_N = np.log(ratio_N)
  low_N = np.searchsorted(log_T, log_N, side="right") - 1
  low_N = low_N.clip(0, len(log_T) - 2)
  low, high = log_T[low_N], log_T[low_N + 1]
  part_N = np.clip((low - log_N) / (low - high), 0, 1)
  return (1 - part_N) * low_N + part_N * (low_N + 1)


def _published_ratios(schedule: Schedule) -> np.ndarray:
  """`ratios` in float32, by the publisher's formula, whose rounding shows."""
  kept_T = schedule.alphas_cumprod_T
  kept_T = np.where(kept_T > 0, kept_T, np.float32(_LEAST_ALPHA**2))
  return ((np.float32(1) - kept_T) / kept_T) ** np.float32(0.5)
