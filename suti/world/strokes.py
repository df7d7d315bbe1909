# SPDX-License-Identifier: Apache-2.0
"""Small drawing functions that the backdrops share, in JAX.

Shape legend: N samples; colours are (3, N), or (3, 1) constants; weights (N,).
"""

import jax.numpy as jnp
from jax.typing import ArrayLike

TAU = 6.2831853


def rgb(red, green, blue):
  """A constant colour, (3, 1)."""
  return jnp.array([[red], [green], [blue]], jnp.float32)


def mix(a, b, weight):
  """`a` where weight is 0, `b` where it is 1."""
  return a + (b - a) * weight


def step(low, high, x):
  """Smooth step from 0 at `low` to 1 at `high` (low > high falls)."""
  t = jnp.clip((x - low) / (high - low), 0.0, 1.0)
  return t * t * (3 - 2 * t)


def fract(x):
  """Fractional part."""
  return x - jnp.floor(x)


def noise(a, b: ArrayLike = 0.0):
  """A value in [0, 1) for each pair of integers."""
  return fract(jnp.sin(a * 12.9898 + b * 78.233 + 1.7) * 4375.5453)


def blob(u, v, at_u, at_v, radius, soft=0.02, *, squash=1.0):
  """A disc (ellipse) with a soft edge: weight (N,)."""
  r = jnp.sqrt((u - at_u) ** 2 + ((v - at_v) * squash) ** 2)
  return 1 - step(radius - soft, radius + soft, r)


def slab(x, low, high, soft=0.01):
  """1 between low and high."""
  return step(low - soft, low + soft, x) * (
    1 - step(high - soft, high + soft, x)
  )


def rect(u, v, u0, u1, v0, v1, soft=0.01):
  """1 inside a rectangle."""
  return slab(u, u0, u1, soft) * slab(v, v0, v1, soft)


def wave(x, y, *, angle, period, phase: ArrayLike = 0.0):
  """A plane sine wave in [-1, 1]."""
  return jnp.sin(
    (x * jnp.cos(angle) + y * jnp.sin(angle)) * (TAU / period) + phase
  )


def soft_noise(x, y, *, period, phase: ArrayLike = 0.0):
  """Calm, smooth unevenness in about [-1, 1]."""
  return (
    wave(x, y, angle=0.3, period=period, phase=phase)
    + wave(x, y, angle=1.5, period=period * 0.83, phase=phase * 2 + 1)
    + wave(x, y, angle=2.4, period=period * 0.61, phase=phase * 3 + 2)
  ) / 3


def turned(x, y, angle):
  """Coordinates turned by an angle."""
  c, s = jnp.cos(angle), jnp.sin(angle)
  return c * x + s * y, c * y - s * x


def sky(v, low, high):
  """A gradient, lighter at the foot of the wall."""
  return mix(low, high, step(0.0, 1.1, v["w"]))


def clouds(v, air):
  """Three white clouds on the colour of the air."""
  puff = 0.0
  for i in range(3):
    at = -0.9 + 0.8 * i + 0.5 * v["j"][3]
    high = 0.62 + 0.16 * fract(v["j"][4] + i * 0.37)
    for du, dr in ((0.0, 0.11), (0.13, 0.085), (-0.13, 0.075)):
      puff = jnp.maximum(
        puff, blob(v["u"], v["w"], at + du, high, dr, 0.05, squash=1.7)
      )
  return mix(air, rgb(0.99, 0.99, 1.0), puff * 0.75)
