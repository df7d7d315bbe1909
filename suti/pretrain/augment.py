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
  b = len(image_u8_BHWC)
  keys = jax.random.split(key, 6)
  x = _moved(to_pm1(image_u8_BHWC), keys)

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


def augment_both(
  image_u8_BHWC: jax.Array, mask_BHW: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The same, and what is where: masks move with their pictures.

  Args:
    image_u8_BHWC: uint8 pictures.
    mask_BHW: bool.
    key: of the random numbers.

  Returns: pictures as `augment` makes them; float32 (B, H, W), the share of
    each pixel that is inside.
  """
  inside_BHW1 = mask_BHW.astype(jnp.float32)[..., None]
  moved = _moved(inside_BHW1, jax.random.split(key, 6))
  return augment(image_u8_BHWC, key), moved[..., 0].clip(0.0, 1.0)


def _moved(x: jax.Array, keys: jax.Array) -> jax.Array:
  """Mirrors and shifts; the first three keys say how."""
  b, h, w, _ = x.shape
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

  return jax.vmap(crop)(x, scale_B2, shift_B2)


_SHARPEST = 0.3  # px, a Gaussian that changes nothing one can see


def damage(image_u8_BHWC: jax.Array, key: jax.Array) -> jax.Array:
  """Mirrors, shifts, scales and tints; blurs, coarsens, adds noise to some.

  Half of the pictures stay sharp, and half free of noise.

  Args:
    image_u8_BHWC: uint8 pictures, square.
    key: of the random numbers.

  Returns: float32 in [-1, 1], same shape.
  """
  b, size, _, _ = image_u8_BHWC.shape
  keys = jax.random.split(key, 11)
  x = to_pm1(image_u8_BHWC)
  mirror_B = jax.random.bernoulli(keys[0], 0.5, (b, 1, 1, 1))
  x = jnp.where(mirror_B, x[:, :, ::-1], x)

  # All that moves or mixes pixels is one matrix for rows and one for columns.
  scale_B = jnp.where(
    jax.random.bernoulli(keys[1], 0.5, (b,)),
    jax.random.uniform(keys[2], (b,), minval=0.88, maxval=1.0),
    1.0,
  )
  spare_B = size * (1 - scale_B)
  # Whole pixels where the scale is 1: nothing is softened.
  shift_B2 = jnp.where(
    scale_B[:, None] < 1,
    jax.random.uniform(keys[3], (b, 2)) * spare_B[:, None],
    jax.random.randint(keys[10], (b, 2), -3, 4).astype(jnp.float32),
  )
  blurred_B = jax.random.bernoulli(keys[4], 0.5, (b,)).astype(jnp.float32)
  blur_B = blurred_B * jax.random.uniform(keys[5], (b,), minval=0.2, maxval=1.5)
  coarse_B = jax.random.bernoulli(keys[6], 0.15, (b,))
  at_S = jnp.arange(size, dtype=jnp.float32)

  def matrix(scale, shift, blur, coarse):
    source = ((at_S + 0.5) * scale + shift - 0.5).clip(0, size - 1)
    move = _cubic(source[:, None] - at_S)
    move = move / move.sum(-1, keepdims=True)
    width = jnp.maximum(blur, _SHARPEST)
    near = jnp.exp(-jnp.square(at_S[:, None] - at_S) / (2 * width**2))
    near = near / near.sum(-1, keepdims=True)
    pairs = jnp.where(at_S[:, None] // 2 == at_S // 2, 0.5, 0.0)
    mixed = jnp.where(coarse, pairs, jnp.eye(size))
    return mixed @ near @ move

  of_row = jax.vmap(matrix)
  rows_BHH = of_row(scale_B, shift_B2[:, 0], blur_B, coarse_B)
  columns_BWW = of_row(scale_B, shift_B2[:, 1], blur_B, coarse_B)
  x = jnp.einsum("bhy,bywc->bhwc", rows_BHH, x)
  x = jnp.einsum("bwx,bhxc->bhwc", columns_BWW, x)

  tints = jax.random.normal(keys[7], (2, b, 1, 1, 3))
  x = x * (1 + 0.08 * tints[0]) + 0.05 * tints[1]
  noisy_B = jax.random.bernoulli(keys[8], 0.5, (b,)).astype(jnp.float32)
  noise_keys = jax.random.split(keys[9])
  noise_B = noisy_B * jax.random.uniform(noise_keys[0], (b,))
  noise = jax.random.normal(noise_keys[1], x.shape)
  x = x + 0.1 * noise_B[:, None, None, None] * noise
  return jnp.clip(x, -1.0, 1.0)


def _cubic(distance: jax.Array) -> jax.Array:
  """Keys' kernel (1981, eq. 15) with the slope -0.5, which keeps edges."""
  d = jnp.abs(distance)
  near = 1.5 * d**3 - 2.5 * d**2 + 1
  far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
  return jnp.where(d <= 1, near, jnp.where(d < 2, far, 0.0))
