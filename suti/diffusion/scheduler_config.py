# SPDX-License-Identifier: Apache-2.0
"""A published `scheduler_config.json` -> the plan of its sampler.

The file defines the process (`suti.diffusion.schedule`) and how to sample from
it: `_class_name` names the sampler, its keys are the sampler's settings.
Defaults are the publisher's, which differ from class to class. To sample from
the same process in another way, give another class:
`config | {"_class_name": "EulerDiscreteScheduler"}`.
Keys of other classes are then passed over, as the publisher does, unless they
change the pictures; what would change the result and is not supported is
refused by name.

Shape legend: `N` net evaluations.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from suti.config.values import shorten
from suti.diffusion.plan import Bounds, Plan, Steps
from suti.diffusion.plans import dpm_solver, unipc
from suti.diffusion.plans.ddim import plan_ddim, plan_euler_ancestral
from suti.diffusion.plans.ddpm import plan_ddpm
from suti.diffusion.plans.dpm_solver import plan_dpm_solver
from suti.diffusion.plans.pndm import plan_pndm
from suti.diffusion.plans.settings import read_bounds, read_settings
from suti.diffusion.plans.steps import (
  CLEAN,
  check_num_steps,
  karras,
  karras_ends,
  levels,
  ratio_strides,
  ratios,
  strides,
  times_of,
  timesteps,
)
from suti.diffusion.plans.unipc import plan_unipc
from suti.diffusion.schedule import Schedule, make_schedule

Settings = Mapping[str, Any]


def from_config(
  scheduler_config: Mapping[str, Any], *, num_steps: int, eta: float = 0.0
) -> Plan:
  """Plans the sampler that a published scheduler config names.

  Args:
    scheduler_config: the content of `scheduler_config.json`.
    num_steps: as the publisher counts them; see `Plan.num_evaluations`.
    eta: of DDIM alone: 0 is deterministic, 1 adds as much noise as DDPM.

  Returns:
    The plan.

  Raises:
    ValueError: the class or a key is unknown, a value is not supported, the
      steps do not fit the schedule, or there is no number for one of them.
  """
  settings = read_settings(scheduler_config)
  name = scheduler_config["_class_name"]
  if not 0 <= eta <= 1 or (eta and name != "DDIMScheduler"):
    raise ValueError(
      f"eta={eta} with {name}: it must be between 0 and 1 with DDIMScheduler,"
      " and 0 with all others."
    )
  schedule = make_schedule(scheduler_config)
  check_num_steps(schedule, num_steps)
  try:
    with np.errstate(all="ignore"):  # what is not finite is found
      return _PLANNERS[name](schedule, settings | {"eta": eta}, num_steps)
  except FloatingPointError as error:
    why = {
      key: scheduler_config[key]
      for key in ("rescale_betas_zero_snr", "beta_end", "trained_betas")
      if scheduler_config.get(key)
    }
    raise ValueError(
      f"num_steps={num_steps} of {name} leads to a step that is not finite, as "
      "next to nothing of a picture is left at the noisiest steps ("
      f"{', '.join(f'{k}={shorten(v)}' for k, v in why.items())} of the "
      "scheduler config): correct them, or take another sampler."
    ) from error


def _times(schedule: Schedule, settings: Settings, num_steps: int, **options):
  return timesteps(
    schedule,
    num_steps,
    spacing=settings["timestep_spacing"],
    offset=settings["steps_offset"],
    **options,
  )


def _end(schedule: Schedule, settings: Settings) -> tuple[float, float]:
  """Alpha and sigma where DDIM and PNDM end."""
  if settings["set_alpha_to_one"]:
    return CLEAN
  (alpha,), (sigma,) = levels(schedule, np.array([0]))
  return float(alpha), float(sigma)


def _ddpm(schedule: Schedule, settings: Settings, num_steps: int) -> Plan:
  return plan_ddpm(
    strides(schedule, _times(schedule, settings, num_steps)),
    prediction=schedule.prediction,
    bounds=read_bounds(settings),
    variance=settings["variance_type"],
  )


def _ddim(schedule: Schedule, settings: Settings, num_steps: int) -> Plan:
  t_N = _times(schedule, settings, num_steps)
  # One stride down, as published, even where the next start is elsewhere.
  t_to_N = t_N - schedule.num_steps // num_steps
  return plan_ddim(
    strides(schedule, t_N, t_to_N, final=_end(schedule, settings)),
    prediction=schedule.prediction,
    bounds=read_bounds(settings),
    eta=settings["eta"],
  )


def _pndm(schedule: Schedule, settings: Settings, num_steps: int) -> Plan:
  runge_kutta = not settings["skip_prk_steps"]
  if runge_kutta and num_steps < 4:
    raise ValueError(
      f"num_steps={num_steps} with PNDMScheduler must be at least 4: it starts"
      " with three strides of Runge and Kutta unless skip_prk_steps is true."
    )
  return plan_pndm(
    schedule,
    _times(schedule, settings, num_steps),
    stride=schedule.num_steps // num_steps,
    runge_kutta=runge_kutta,
    final=_end(schedule, settings),
  )


def _euler_steps(
  schedule: Schedule, settings: Settings, num_steps: int
) -> tuple[Steps, float]:
  """Steps of the two Euler samplers, and what noise is multiplied by."""
  ratio_T = ratios(schedule)
  t_N = _times(schedule, settings, num_steps, whole=False)
  ratio_N = np.interp(t_N, np.arange(len(ratio_T)), ratio_T)
  if settings.get("use_karras_sigmas"):
    highest, lowest = karras_ends(
      schedule,
      highest=settings["sigma_max"],
      lowest=settings["sigma_min"],
      times=(t_N[0], t_N[-1]),
    )
    ratio_N = karras(highest, lowest, num_steps)
    t_N = times_of(schedule, ratio_N)
  steps = ratio_strides(t_N, ratio_N, final=0.0)
  if settings.get("final_sigmas_type") == "sigma_min":
    # The last result is handed out as it is, x / alpha.
    steps.alpha_to_N[-1], steps.sigma_to_N[-1] = 1.0, ratio_T[0]
  leading = settings["timestep_spacing"] == "leading"
  return steps, 1.0 if leading else float(steps.sigma_N[0])


def _euler(
  schedule: Schedule,
  settings: Settings,
  num_steps: int,
  *,
  plan: Callable[..., Plan] = plan_ddim,
) -> Plan:
  """Euler in x / alpha is DDIM; the ancestral one has a plan of its own."""
  steps, noise_scale = _euler_steps(schedule, settings, num_steps)
  return plan(
    steps,
    prediction=schedule.prediction,
    bounds=Bounds(),
    noise_scale=noise_scale,
  )


def _solver_steps(
  schedule: Schedule,
  settings: Settings,
  num_steps: int,
  *,
  to_whole: Callable[[np.ndarray], np.ndarray] = np.round,
  **options,
) -> Steps:
  """Steps of the two multistep solvers, whose nets see whole times alone."""
  ratio_T = ratios(schedule)
  if settings["use_karras_sigmas"]:
    highest, lowest = karras_ends(
      schedule,
      highest=settings.get("sigma_max"),
      lowest=settings.get("sigma_min"),
    )
    ratio_N = karras(highest, lowest, num_steps)
    t_N = to_whole(times_of(schedule, ratio_N))
  else:
    t_N = _times(schedule, settings, num_steps, spare=True, **options)
    ratio_N = ratio_T[t_N]
  final = 0.0
  if settings["final_sigmas_type"] == "sigma_min":
    final = ratio_N[-1] if settings["use_karras_sigmas"] else ratio_T[0]
  return ratio_strides(t_N, ratio_N, final=final)


def _dpm_solver(schedule: Schedule, settings: Settings, num_steps: int) -> Plan:
  sde = settings["algorithm_type"] == "sde-dpmsolver++"
  if sde and settings["solver_order"] == 3:
    raise ValueError(
      "solver_order=3 of the scheduler config is not supported with"
      " algorithm_type='sde-dpmsolver++': it must be 1 or 2."
    )
  snr_T = -np.log(ratios(schedule))
  quiet = int(np.sum(snr_T < settings["lambda_min_clipped"]))
  # The publisher cuts the times of a cosine schedule off instead.
  cosine = settings["beta_schedule"] in ("squaredcos_cap_v2", "cosine")
  steps = _solver_steps(
    schedule,
    settings,
    num_steps,
    to_whole=np.floor if cosine else np.round,
    total=schedule.num_steps - quiet,
  )
  solver = settings["solver_type"]
  return plan_dpm_solver(
    steps,
    prediction=schedule.prediction,
    bounds=read_bounds(settings),
    order=settings["solver_order"],
    solver=solver if solver in dpm_solver.SOLVERS else "midpoint",
    sde=sde,
    lower_order_final=settings["lower_order_final"],
    euler_at_final=settings["euler_at_final"],
  )


def _unipc(schedule: Schedule, settings: Settings, num_steps: int) -> Plan:
  if settings["thresholding"] and not settings["predict_x0"]:
    raise ValueError(
      "thresholding=True of the scheduler config needs predict_x0=True: what is"
      " extrapolated otherwise is the noise."
    )
  solver = settings["solver_type"]
  return plan_unipc(
    _solver_steps(schedule, settings, num_steps),
    prediction=schedule.prediction,
    bounds=read_bounds(settings),
    order=settings["solver_order"],
    solver=solver if solver in unipc.SOLVERS else "bh2",
    predict_x0=settings["predict_x0"],
    lower_order_final=settings["lower_order_final"],
    uncorrected=settings["disable_corrector"],
  )


_PLANNERS: Mapping[str, Callable[[Schedule, Settings, int], Plan]] = {
  "DDPMScheduler": _ddpm,
  "DDIMScheduler": _ddim,
  "PNDMScheduler": _pndm,
  "EulerDiscreteScheduler": _euler,
  "EulerAncestralDiscreteScheduler": partial(_euler, plan=plan_euler_ancestral),
  "DPMSolverMultistepScheduler": _dpm_solver,
  "UniPCMultistepScheduler": _unipc,
}
