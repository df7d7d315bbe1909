# SPDX-License-Identifier: Apache-2.0
"""The samplers that configs and commands name; what they do is in diffusion/.

A published model samples by its own scheduler or another's (`PUBLISHED`, run by
`suti.diffusion.scheduler_config`). Experts and apprentices sample by one
that needs a noise schedule alone (`OWN`, functions of
`suti.diffusion.samplers`).
"""

from collections.abc import Mapping

OWN = ("ddpm", "ddim", "dpmpp_2m")
# Our name -> the publisher's class, as in a scheduler_config.json.
PUBLISHED: Mapping[str, str] = {
  "ddim": "DDIMScheduler",
  "ddpm": "DDPMScheduler",
  "dpmpp_2m": "DPMSolverMultistepScheduler",
  "euler": "EulerDiscreteScheduler",
  "euler_ancestral": "EulerAncestralDiscreteScheduler",
  "pndm": "PNDMScheduler",
  "unipc": "UniPCMultistepScheduler",
}
