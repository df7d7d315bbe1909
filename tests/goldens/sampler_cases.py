# SPDX-License-Identifier: Apache-2.0
"""Scheduler configs that are compared with the publisher's own code.

A case is a config and a number of steps. In the place of a net stands a smooth
function of x and t that is nobody's denoiser, so that errors of a high order do
not cancel. `make_samplers.py` ran the publisher's schedulers on the cases and
stored what the net saw at every evaluation, and the result; the tests run ours.
Nothing here needs torch.

Shape legend: `N` net evaluations, `B` batch, `H` `W` `C` picture.
"""

from typing import Any

import numpy as np

SHAPE_BHWC = (2, 3, 2, 3)
MOST_EVALUATIONS = 32

_SD = {
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "num_train_timesteps": 1000,
  "trained_betas": None,
}
_COSINE = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}
_V = {"prediction_type": "v_prediction"}
_X0 = {"prediction_type": "sample"}
_ZERO = _V | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_KARRAS = {"use_karras_sigmas": True}
_TO_SIGMA = {"final_sigmas_type": "sigma_min"}
_LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
_TRAILING = {"timestep_spacing": "trailing"}
_LINSPACE = {"timestep_spacing": "linspace"}
_THRESHOLD = {
  "thresholding": True,
  "dynamic_thresholding_ratio": 0.9,
  "sample_max_value": 1.5,
}

# As published, but for the publisher's version: Stable Diffusion 1.5 and 2.1,
# SDXL base and turbo, DeepFloyd IF.
SD15 = _SD | {
  "_class_name": "PNDMScheduler",
  "clip_sample": False,
  "set_alpha_to_one": False,
  "skip_prk_steps": True,
  "steps_offset": 1,
}
SD21 = (
  _SD
  | _V
  | {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
  }
)
SDXL = _SD | {
  "_class_name": "EulerDiscreteScheduler",
  "clip_sample": False,
  "interpolation_type": "linear",
  "prediction_type": "epsilon",
  "sample_max_value": 1.0,
  "set_alpha_to_one": False,
  "skip_prk_steps": True,
  "steps_offset": 1,
  "timestep_spacing": "leading",
  "use_karras_sigmas": False,
}
TURBO = SDXL | {
  "_class_name": "EulerAncestralDiscreteScheduler",
  "timestep_spacing": "trailing",
}
IF = _COSINE | {
  "_class_name": "DDPMScheduler",
  "beta_start": 0.0001,
  "beta_end": 0.02,
  "clip_sample": True,
  "clip_sample_range": 1.0,
  "dynamic_thresholding_ratio": 0.95,
  "prediction_type": "epsilon",
  "sample_max_value": 1.5,
  "thresholding": True,
  "trained_betas": None,
  "variance_type": "learned_range",
}

_DDPM = _SD | {"_class_name": "DDPMScheduler"}
_DDIM = _SD | {"_class_name": "DDIMScheduler"}
_PNDM = _SD | {"_class_name": "PNDMScheduler"}
_PLMS = _PNDM | {"skip_prk_steps": True}
_EULER = _SD | {"_class_name": "EulerDiscreteScheduler"}
_ANCESTRAL = _SD | {"_class_name": "EulerAncestralDiscreteScheduler"}
_DPM = _SD | {"_class_name": "DPMSolverMultistepScheduler"}
_DPM_COSINE = _DPM | _COSINE | _THRESHOLD
_SDE = _DPM | {"algorithm_type": "sde-dpmsolver++"}
_UNIPC = _SD | {"_class_name": "UniPCMultistepScheduler"}
_NO_LOWER = {"lower_order_final": False}


def _order(order: int) -> dict[str, int]:
  return {"solver_order": order}


CASES: dict[str, tuple[dict[str, Any], int]] = {
  "sd15": (SD15, 12),
  "sd21": (SD21, 10),
  "sdxl": (SDXL, 10),
  "turbo": (TURBO, 4),
  "if": (IF, 10),
  "sd15_as_ddim": (SD15 | {"_class_name": "DDIMScheduler"}, 10),
  "sd15_as_euler": (SD15 | {"_class_name": "EulerDiscreteScheduler"}, 10),
  "sd15_as_dpm": (SD15 | {"_class_name": "DPMSolverMultistepScheduler"}, 20),
  "sd21_as_unipc": (SD21 | {"_class_name": "UniPCMultistepScheduler"}, 10),
  "if_as_dpm": (IF | {"_class_name": "DPMSolverMultistepScheduler"}, 10),
  # DDPM
  "ddpm_small": (_DDPM, 10),
  "ddpm_small_log": (
    _DDPM | _TRAILING | {"variance_type": "fixed_small_log"},
    7,
  ),
  # As a file says it that was made of another class's.
  "ddpm_null": (_DDPM | {"variance_type": None}, 7),
  "ddpm_large": (_DDPM | {"variance_type": "fixed_large"}, 7),
  "ddpm_large_ends_noisy": (
    _DDPM | _LEADING | {"variance_type": "fixed_large"},
    7,
  ),
  "ddpm_learned_ends_noisy": (IF | _TRAILING, 7),
  "ddpm_range": (_DDPM | _LINSPACE | _X0 | {"clip_sample_range": 0.6}, 6),
  "ddpm_zero": (_DDPM | _ZERO, 7),
  "ddpm_unclipped": (_DDPM | _V | _LINSPACE | {"clip_sample": False}, 7),
  # DDIM
  "ddim_clipped": (_DDIM, 10),
  "ddim_eta": (_DDIM | _LEADING | {"eta": 0.6}, 10),
  "ddim_eta_clean": (_DDIM | _X0 | {"eta": 1.0, "clip_sample_range": 0.8}, 6),
  "ddim_threshold": (_DDIM | _COSINE | _THRESHOLD, 6),
  "ddim_uneven": (_DDIM | _TRAILING | {"clip_sample": False}, 7),
  "ddim_linspace": (_DDIM | _LINSPACE | _V | {"set_alpha_to_one": False}, 7),
  "ddim_zero": (_DDIM | _ZERO, 6),
  "ddim_given_betas": (
    _DDIM
    | {
      "num_train_timesteps": 20,
      "trained_betas": [0.01 + 0.004 * i for i in range(20)],
    },
    5,
  ),
  # PNDM
  "plms_uneven": (_PLMS | _TRAILING, 7),
  "plms_linspace": (_PLMS | _LINSPACE | {"set_alpha_to_one": True}, 7),
  "plms_v": (_PLMS | _V | _LEADING, 7),
  "plms_one": (_PLMS, 1),
  "plms_two": (_PLMS, 2),
  "prk": (_PNDM, 9),
  "prk_four": (_PNDM | _LEADING, 4),
  "prk_v": (_PNDM | _V | _LINSPACE | {"set_alpha_to_one": True}, 7),
  # Euler
  "euler": (_EULER, 7),
  "euler_trailing": (_EULER | _TRAILING | _X0, 7),
  "euler_karras": (_EULER | _KARRAS, 7),
  "euler_karras_leading": (_EULER | _KARRAS | _LEADING | _V, 7),
  "euler_karras_range": (
    _EULER | _KARRAS | {"sigma_min": 0.05, "sigma_max": 12.0},
    7,
  ),
  "euler_to_sigma": (_EULER | _TO_SIGMA, 7),
  "euler_zero": (_EULER | _ZERO, 7),
  "ancestral": (_ANCESTRAL, 7),
  "ancestral_v": (_ANCESTRAL | _V | _LEADING, 7),
  "ancestral_zero": (_ANCESTRAL | _ZERO, 7),
  # DPM-Solver++
  "dpm_1": (_DPM | _order(1), 6),
  "dpm_2": (_DPM | _order(2), 6),
  "dpm_3": (_DPM | _order(3), 7),
  "dpm_3_long": (_DPM | _order(3) | _LEADING, 16),
  "dpm_3_no_lower": (_DPM | _order(3) | _NO_LOWER | _TO_SIGMA, 7),
  "dpm_heun": (_DPM | {"solver_type": "heun"} | _TRAILING, 7),
  "dpm_euler_at_final": (
    _DPM | {"euler_at_final": True} | _TO_SIGMA | _NO_LOWER,
    7,
  ),
  "dpm_to_sigma_long": (_DPM | _TO_SIGMA | {"algorithm_type": "deis"}, 16),
  "dpm_karras": (_DPM | _KARRAS, 9),
  "dpm_clipped_cosine": (_DPM_COSINE | {"lambda_min_clipped": -5.1}, 7),
  "dpm_clipped_trailing": (
    _DPM_COSINE | _TRAILING | {"lambda_min_clipped": -5.1},
    7,
  ),
  "dpm_v": (_DPM | _V | {"solver_type": "bh2"}, 7),
  "dpm_zero": (_DPM | _ZERO, 7),
  "dpm_sample": (_DPM | _X0 | _THRESHOLD, 7),
  "sde_1": (_SDE | _order(1), 6),
  "sde_2": (_SDE | _KARRAS, 7),
  "sde_heun": (_SDE | {"solver_type": "heun"} | _V, 7),
  # UniPC
  "unipc_1": (_UNIPC | _order(1), 6),
  "unipc_2": (_UNIPC, 7),
  "unipc_3": (_UNIPC | _order(3) | _LEADING, 8),
  "unipc_3_bh1": (
    _UNIPC | _order(3) | {"solver_type": "bh1"} | _TO_SIGMA | _NO_LOWER,
    7,
  ),
  "unipc_noise": (_UNIPC | {"predict_x0": False} | _TO_SIGMA, 7),
  "unipc_noise_v": (
    _UNIPC | _V | _order(3) | {"predict_x0": False} | _TO_SIGMA,
    7,
  ),
  "unipc_karras": (_UNIPC | _KARRAS, 7),
  "unipc_karras_to_sigma": (_UNIPC | _KARRAS | _TO_SIGMA | _order(3), 7),
  "unipc_karras_range": (
    _UNIPC | _KARRAS | _TO_SIGMA | {"sigma_min": 0.1, "sigma_max": 10.0},
    7,
  ),
  "unipc_uncorrected": (
    _UNIPC | {"disable_corrector": [0, 2], "solver_type": "midpoint"},
    7,
  ),
  "unipc_threshold": (_UNIPC | _COSINE | _THRESHOLD | _TRAILING | _X0, 7),
  "unipc_zero": (_UNIPC | _ZERO | _order(3), 7),
}


def atol(case: str) -> float:
  """How far a case may be from what the publisher computed in float32.

  Where nothing of the picture is left at the start, the publisher's Euler holds
  x / alpha, about 10,000, of which float32 keeps the third digit after the
  point.
  """
  return 1e-4 if case in ("euler_zero", "ancestral_zero") else 1e-5


def draw(case: str) -> tuple[np.ndarray, np.ndarray]:
  """The noise to start from (B, H, W, C), that of each evaluation (N, ...)."""
  rng = np.random.default_rng(len(case))
  fresh = rng.standard_normal((MOST_EVALUATIONS, *SHAPE_BHWC))
  start = rng.standard_normal(SHAPE_BHWC)
  return start.astype(np.float32), fresh.astype(np.float32)


def say(config: dict[str, Any], x, t, *, library, axis: int) -> Any:
  """Stands in the place of a net, for numpy, jax and torch.

  Args:
    config: of the case; says what is predicted.
    x: what the net sees, of any layout.
    t: the step, float32, of a shape that goes with x.
    library: has `tanh`, `sin` and `concatenate`.
    axis: of the channels.

  Returns:
    A prediction; with learned variance it has twice the channels.
  """
  kind = config.get("prediction_type", "epsilon")
  if kind == "epsilon":
    said = 0.9 * x + 0.2 * library.tanh(2.0 * x + library.sin(t / 90.0))
  elif kind == "v_prediction":
    said = 0.8 * library.tanh(1.5 * x + library.sin(t / 90.0))
  else:
    said = 1.6 * library.tanh(x + library.sin(t / 90.0))
  if config.get("variance_type") == "learned_range":
    place = library.tanh(1.3 * x - library.sin(t / 40.0))
    said = library.concatenate([said, place], axis)
  return said
