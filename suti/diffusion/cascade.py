# SPDX-License-Identifier: Apache-2.0
"""Cascades: how a super-resolution stage is conditioned on the stage before.

On the small picture, upscaled and with noise, and on the level of that noise
(conditioning augmentation; Ho et al., arXiv 2106.15282, section 3), so that the
net does not trust artefacts. How the net takes it, beside x_t in its channels,
is up to the caller.

Shape legend: `B` batch, `H` `W` `C` picture; `I` upscaled height or width.
"""

import jax
import jax.numpy as jnp
import numpy as np

from suti.diffusion.schedule import Schedule, add_noise

Array = jax.Array


def upscale(image_BHWC: Array, *, height_px: int, width_px: int) -> Array:
  """Resizes linearly, corners on corners, as DeepFloyd IF's second stage does.

  Args:
    image_BHWC: float32.
    height_px: of the result.
    width_px: of the result.

  Returns:
    Pictures (B, height_px, width_px, C), float32.
  """
  _, height, width, _ = image_BHWC.shape
  return jnp.einsum(
    "IH,JW,BHWC->BIJC",
    _between(height, height_px),
    _between(width, width_px),
    image_BHWC,
    precision="highest",
  )


def _between(size: int, new_size: int) -> Array:
  """Weight of each old pixel in each new one, float32 (I, H)."""
  at_I1 = np.linspace(0, size - 1, new_size)[:, None]
  weight_IH = np.maximum(1 - np.abs(at_I1 - np.arange(size)), 0)
  return jnp.asarray(weight_IH, jnp.float32)


def augment(
  schedule: Schedule, image_BHWC: Array, noise_BHWC: Array, *, level: int
) -> Array:
  """Adds noise of a level to the upscaled picture.

  Args:
    schedule: of the file `image_noising_scheduler`, not of the sampler.
    image_BHWC: as from `upscale`, in [-1, 1], float32.
    noise_BHWC: standard normal; other than what sampling starts from.
    level: a step of the schedule, on which the net is conditioned too; IF takes
      250.

  Returns:
    The net's conditioning picture, float32.

  Raises:
    ValueError: the schedule has no such step.
  """
  if not 0 <= level < schedule.num_steps:
    raise ValueError(
      f"level={level} must be between 0 and {schedule.num_steps - 1}, the steps"
      " of the noising schedule."
    )
  t_B = jnp.full((len(image_BHWC),), level)
  return add_noise(schedule, image_BHWC, noise_BHWC, t_B)
