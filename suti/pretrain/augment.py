# SPDX-License-Identifier: Apache-2.0
"""Augmentation of the pictures that the judges are trained on.

The judges must read samples of a diffusion model as well as renders: soft,
slightly noisy, a little off in colour. So they are trained on such pictures.
"""

import jax
import jax.numpy as jnp

from suti.images import to_pm1

# B batch, H W C image.


def augment(image_u8_BHWC: jax.Array, key: jax.Array) -> jax.Array:
  """Mirrors, shifts, softens, tints and adds noise, at random.

  Args:
    image_u8_BHWC: uint8 pictures.
    key: of the random numbers.

  Returns: float32 in [-1, 1], same shape.
  """
  b, h, w, _ = image_u8_BHWC.shape
  keys = jax.random.split(key, 6)
  x = to_pm1(image_u8_BHWC)

  mirror_B = jax.random.bernoulli(keys[0], 0.5, (b, 1, 1, 1))
  x = jnp.where(mirror_B, x[:, :, ::-1], x)

  # Crop and resize by a tenth at most, as one linear map of coordinates.
  scale_B2 = jax.random.uniform(keys[1], (b, 2), minval=0.9, maxval=1.0)
  shift_B2 = jax.random.uniform(keys[2], (b, 2)) * (1 - scale_B2)

  def crop(image, scale, shift):
    return jax.image.scale_and_translate(
      image,
      image.shape,
      (0, 1),
      1 / scale,
      -shift * jnp.array([h, w], jnp.float32) / scale,
      method="linear",
      antialias=False,
    )

  x = jax.vmap(crop)(x, scale_B2, shift_B2)

  soft_BHWC = (
    jax.lax.reduce_window(
      x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    )
    / 9.0
  )
  softness_B = jax.random.uniform(keys[3], (b, 1, 1, 1))
  x = x + jnp.where(softness_B > 0.5, softness_B, 0.0) * (soft_BHWC - x)

  tint_B = 0.05 * jax.random.normal(keys[4], (b, 1, 1, 3))
  noise_keys = jax.random.split(keys[5])
  sigma_B = 0.08 * jax.random.uniform(noise_keys[0], (b, 1, 1, 1))
  noise = sigma_B * jax.random.normal(noise_keys[1], x.shape)
  return jnp.clip(x + tint_B + noise, -1.0, 1.0)
