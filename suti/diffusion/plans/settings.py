# SPDX-License-Identifier: Apache-2.0
"""The keys of a published scheduler config: known, supported, and in range.

Which keys a class has and what it takes where the file does not say, as its
publisher does; what they mean is `suti.diffusion.scheduler_config`'s. Those
that fix the process are checked by `suti.diffusion.schedule`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from suti.config.values import check_kinds
from suti.diffusion.plan import Bounds
from suti.diffusion.plans import ddpm, dpm_solver, unipc
from suti.diffusion.plans.steps import SPACINGS

# What `make_schedule` reads.
_PROCESS = {
  "num_train_timesteps": 1000,
  "beta_start": 1e-4,
  "beta_end": 0.02,
  "beta_schedule": "linear",
  "trained_betas": None,
  "prediction_type": "epsilon",
}
_RESCALE = {"rescale_betas_zero_snr": False}
_THRESHOLD = {
  "thresholding": False,
  "dynamic_thresholding_ratio": 0.995,
  "sample_max_value": 1.0,
}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
_LEADING = {"timestep_spacing": "leading", "steps_offset": 0}
_LINSPACE = {"timestep_spacing": "linspace", "steps_offset": 0}
_RATIOS = {"use_karras_sigmas": False, "final_sigmas_type": "zero"}
_RANGE = {"sigma_min": None, "sigma_max": None}
_SOLVER = {"solver_order": 2, "lower_order_final": True}
# The keys of each class, and what it takes where a file does not say.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
  "DDPMScheduler": (
    _PROCESS
    | _RESCALE
    | _LEADING
    | _CLIP
    | _THRESHOLD
    | {"variance_type": "fixed_small"}
  ),
  "DDIMScheduler": (
    _PROCESS
    | _RESCALE
    | _LEADING
    | _CLIP
    | _THRESHOLD
    | {"set_alpha_to_one": True}
  ),
  "PNDMScheduler": (
    _PROCESS | _LEADING | {"set_alpha_to_one": False, "skip_prk_steps": False}
  ),
  "EulerDiscreteScheduler": (
    _PROCESS | _RESCALE | _LINSPACE | _RATIOS | _RANGE
  ),
  "EulerAncestralDiscreteScheduler": _PROCESS | _RESCALE | _LINSPACE,
  "DPMSolverMultistepScheduler": (
    _PROCESS
    | _RESCALE
    | _LINSPACE
    | _THRESHOLD
    | _RATIOS
    | _SOLVER
    | {
      "algorithm_type": "dpmsolver++",
      "solver_type": "midpoint",
      "euler_at_final": False,
      "lambda_min_clipped": -np.inf,
    }
  ),
  "UniPCMultistepScheduler": (
    _PROCESS
    | _RESCALE
    | _LINSPACE
    | _THRESHOLD
    | _RATIOS
    | _RANGE
    | _SOLVER
    | {"solver_type": "bh2", "predict_x0": True, "disable_corrector": ()}
  ),
}
CLASSES = tuple(_DEFAULTS)

# Options of the publishers' classes that are not supported, with the values at
# which they change nothing; other classes do not read them.
_SIGMAS = {
  "use_exponential_sigmas": (False, None),
  "use_beta_sigmas": (False, None),
}
_FLOW = _SIGMAS | {
  "use_flow_sigmas": (False, None),
  "use_dynamic_shifting": (False, None),
}
_UNSUPPORTED: Mapping[str, Mapping[str, tuple]] = {
  "EulerDiscreteScheduler": _SIGMAS
  | {
    "interpolation_type": ("linear", None),
    "timestep_type": ("discrete", None),
  },
  "DPMSolverMultistepScheduler": _FLOW | {"use_lu_lambdas": (False, None)},
  "UniPCMultistepScheduler": _FLOW
  | {"shift_terminal": (None,), "solver_p": (None,)},
}
# Passed over, as by the publisher's `from_config`: keys of other classes, or
# keys that count only beside an unsupported value above.
_PASSED_OVER = frozenset(
  {
    # Flow matching's, read where use_flow_sigmas is true.
    "flow_shift",
    "time_shift_type",
    # Latent consistency models' and TCD's: their own steps.
    "original_inference_steps",
    "timestep_scaling",
    # Those of SA-Solver and of DPM-Solver's stochastic variants.
    "predictor_order",
    "corrector_order",
    "tau_func",
    "noise_sampler_seed",
    # Of 2022: which library arrays were of.
    "tensor_format",
  }
)
# Of 2022, with these values alone; others meant another process.
_OLD: Mapping[str, tuple] = {
  "predict_epsilon": (True, None),
  "timestep_values": (None,),
}

# The values of null, which files of one class have for keys of another.
_NULLS = {"use_karras_sigmas": False, "variance_type": "fixed_small"}

_CHOICES: Mapping[str, tuple] = {
  "timestep_spacing": SPACINGS,
  "final_sigmas_type": ("zero", "sigma_min"),
  "variance_type": ddpm.VARIANCES,
  "solver_order": (1, 2, 3),
  # Names of another class's stand for the default, as published: so one file
  # serves several.
  "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis"),
  "solver_type": (*dpm_solver.SOLVERS, *unipc.SOLVERS, "logrho"),
}


def read_settings(config: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the settings of the class that a config names.

  Args:
    config: the content of `scheduler_config.json`.

  Returns:
    Every key of the class, with its defaults where the config is silent.

  Raises:
    ValueError: the class or a key is unknown, or a value is not supported.
  """
  name = config.get("_class_name")
  if name not in CLASSES:
    raise ValueError(
      f"_class_name={name!r} of the scheduler config is unknown: it must be one"
      f" of {', '.join(CLASSES)}."
    )
  defaults = _DEFAULTS[name]
  known = _PASSED_OVER.union(_OLD, *_DEFAULTS.values(), *_UNSUPPORTED.values())
  neutral = {**_OLD, **_UNSUPPORTED.get(name, {})}
  for key, value in config.items():
    if key.startswith("_"):
      continue
    if key not in known:
      raise ValueError(
        f"{key}={value!r} of the scheduler config is unknown: remove it if it"
        " does not matter."
      )
    if value not in neutral.get(key, (value,)):
      raise ValueError(
        f"{key}={value!r} of the scheduler config is not supported: it must be"
        f" {neutral[key][0]!r}, or take another sampler."
      )
    about_pictures = key in ("thresholding", "rescale_betas_zero_snr")
    if about_pictures and value and key not in defaults:
      raise ValueError(
        f"{key}={value!r} of the scheduler config is nothing that {name} does:"
        f" set it to {False!r}, or take one of"
        f" {', '.join(c for c in CLASSES if key in _DEFAULTS[c])}."
      )
  settings = {key: config.get(key, value) for key, value in defaults.items()}
  for key, null in _NULLS.items():
    if key in settings and settings[key] is None:
      settings[key] = null
  own = {k: v for k, v in defaults.items() if k not in _PROCESS}
  own |= {k: 1.0 for k in _RANGE if settings.get(k) is not None}
  check_kinds(settings, own, what="the scheduler config")
  for key, choices in _CHOICES.items():
    if key in settings and settings[key] not in choices:
      raise ValueError(
        f"{key}={settings[key]!r} of the scheduler config is not supported: it"
        f" must be one of {', '.join(map(str, choices))}."
      )
  return settings


def read_bounds(settings: Mapping[str, Any]) -> Bounds:
  """Reads the limits of x_0 from the settings of a class that has any.

  Raises:
    ValueError: a limit makes no sense.
  """
  if settings["thresholding"]:
    ratio = settings["dynamic_thresholding_ratio"]
    highest = settings["sample_max_value"]
    if not 0.01 < ratio <= 1:
      raise ValueError(
        f"dynamic_thresholding_ratio={ratio!r} of the scheduler config must be"
        " above 0.01 and at most 1."
      )
    if highest < 1:
      raise ValueError(
        f"sample_max_value={highest!r} of the scheduler config must be at least"
        " 1."
      )
    return Bounds(percentile=100 * ratio, max_value=highest)
  if settings.get("clip_sample"):
    return Bounds(clip=settings["clip_sample_range"])
  return Bounds()
