# SPDX-License-Identifier: Apache-2.0
"""Sphere tracing of one subject.

A coarse pass of one ray a pixel, then SUPERSAMPLE squared rays a pixel start
where it ended. No vmap inside: the caller maps over pictures.

Shape legend: N rays.
"""

import jax
import jax.numpy as jnp

from suti.world import sdf

SUPERSAMPLE = 2
APPROACHING = 1.1
LEAVING = 2.0
LEAST = 0.025
TOUCH = 0.5
COARSE_STEPS = 14
FINE_STEPS = 12


def apart(s, compute, *args):
  """compute(*args), in a computation of its own.

  XLA on CPU would else fuse formulas across stages and evaluate them again at
  every use: 10 times slower, and minutes to compile. It removes an
  optimization_barrier before it fuses; a branch that is always taken, which
  it cannot know, it keeps.
  """
  shapes = jax.eval_shape(compute, *args)
  return jax.lax.cond(
    s["focal"] > 0,
    compute,
    lambda *_: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    *args,
  )


def rays(s, count):
  """Frame positions and unit directions of count x count rays, from the top.

  Returns:
    x, y (N,) in [-1, 1]; direction 3 x (N,); cosine to the view axis (N,).
  """

  def compute(s):
    grid = (jnp.arange(count, dtype=jnp.float32) + 0.5) / count * 2 - 1
    x = jnp.broadcast_to(grid[None], (count, count)).ravel()
    y = jnp.broadcast_to(-grid[:, None], (count, count)).ravel()
    px, py = x / s["focal"], y / s["focal"]
    cosine = jax.lax.rsqrt(px * px + py * py + 1)
    d = [
      (s["right"][i] * px + s["up"][i] * py - s["back"][i]) * cosine
      for i in range(3)
    ]
    return x, y, d, cosine

  return apart(s, compute, s)


def march(s, eye, d, t, far, steps, cone):
  """Sphere tracing for a fixed number of steps.

  With `cone`, the tangent of a pixel's half diagonal, a ray stops where the
  subject may be anywhere in its pixel. A ray that is leaving a surface it
  grazed steps farther than is safe: without that it creeps along it, and what
  lies behind is missed.
  """

  def advance(carry, _):
    t, last = carry
    p = [eye[i] + d[i] * t for i in range(3)]
    gap = sdf.distance(s, p)
    gain = gap * jnp.where(gap > last, LEAVING, APPROACHING)
    if cone is not None:
      gain = jnp.maximum(gap * 0.95 - cone * t, 0.0)
    else:
      gain = jnp.where(gap > 0.004, jnp.maximum(gain, LEAST), gain)
    return (jnp.minimum(t + gain, far), gap), None

  start = (t, jnp.full_like(t, 1e3))
  (t, _), _ = jax.lax.scan(advance, start, None, length=steps)
  return t


def trace(s, eye, d, count, sign):
  """Distance along each ray to the subject, its point, whether it hit."""
  coarse = count // SUPERSAMPLE
  _, _, d_coarse, _ = rays(s, coarse)
  d_coarse = [d_coarse[0], d_coarse[1] * sign, d_coarse[2]]
  away = jnp.sqrt(sum((eye[i] - s["middle"][i]) ** 2 for i in range(3)))
  near = jnp.maximum(away - s["reach"], 0.3)
  far = away + s["reach"] + 0.1
  pixel = 1.0 / (s["focal"] * coarse)  # half a coarse pixel at distance 1
  start = jnp.full((coarse * coarse,), near)
  t = march(s, eye, d_coarse, start, far, COARSE_STEPS, pixel * 1.5)
  t = t.reshape(coarse, coarse)
  for axis in (0, 1):
    t = jnp.repeat(t, SUPERSAMPLE, axis)
  t = march(s, eye, d, t.ravel(), far, FINE_STEPS, None)

  def end(s, eye, d, t):
    p = [eye[i] + d[i] * t for i in range(3)]
    return p, sdf.distance(s, p)

  p, clear = apart(s, end, s, eye, d, t)
  return t, p, (t < far - 1e-3) & (clear < pixel * t * TOUCH + 1e-3)
