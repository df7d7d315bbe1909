# SPDX-License-Identifier: Apache-2.0
"""Names of the samplers in configs and commands; diffusion/ implements them.

A published model samples with its own scheduler or another one (`PUBLISHED`,
run by `suti.diffusion.scheduler_config`). Experts and apprentices sample with
one that needs only a noise schedule (`OWN`, functions of
`suti.diffusion.samplers`).
"""

from collections.abc import Mapping

# Modes of guidance by text and subject: `suti.diffusion.guidance_modes`.
GUIDANCE = (
  "joint",
  "two",
  "normalised",
  "interleaved",
  "agnostic",
  "independent",
)
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
