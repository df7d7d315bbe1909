# SPDX-License-Identifier: Apache-2.0
"""The look of a subject's surface: patterns, decals, light, shine, droplets.

No vmap inside: the caller maps over pictures.

Shape legend: N samples, P parts, D decals; points p (stage) and q (subject) are
3 x (N,).
"""

import functools

import jax
import jax.numpy as jnp

from suti.world import sdf
from suti.world.march import apart
from suti.world.parts import NUM_DECALS
from suti.world.strokes import fract, mix, noise, slab, step


def _pattern(s, q):
  """Weight of the pattern's second colour at subject points q, (N,)."""
  axis, scale, phase = s["pattern_axis"], s["pattern_scale"], s["pattern_phase"]
  along = sum(axis[i] * q[i] for i in range(3))
  turn = 6.2831853 * scale
  stripes = step(-0.25, 0.25, jnp.sin(along * turn + phase[0]))
  a = [q[i] * turn + phase[i] for i in range(3)]
  # A cubic lattice seen askew, so that dots do not line up with the parts.
  b = [
    0.80 * a[0] + 0.60 * a[1],
    -0.48 * a[0] + 0.64 * a[1] + 0.60 * a[2],
    0.36 * a[0] - 0.48 * a[1] + 0.80 * a[2],
  ]
  dots = step(0.28, 0.48, (jnp.cos(b[0]) + jnp.cos(b[1]) + jnp.cos(b[2])) / 3)
  patch = (
    jnp.sin(b[0] + 0.6 * jnp.sin(b[1]))
    + jnp.sin(1.3 * b[1] + 1.0)
    + jnp.sin(1.1 * b[2] + 2.0)
  )
  patches = step(0.15, 0.45, patch)
  half = step(-0.02, 0.02, along - axis[1] * 0.6 + (phase[0] - 3.14) * 0.03)
  bands = step(-0.1, 0.1, jnp.sin(along * turn + phase[0]) - 0.25)
  w = s["pattern"]
  return (
    w[1] * stripes + w[2] * dots + w[3] * patches + w[4] * half + w[5] * bands
  )


def _rainbow(x):
  """Bands of six clean colours along x."""
  k = jnp.floor(fract(x) * 6)
  table = jnp.array(
    [
      [0.92, 0.20, 0.20], [0.98, 0.58, 0.15], [0.98, 0.88, 0.25],
      [0.30, 0.72, 0.35], [0.22, 0.48, 0.90], [0.60, 0.30, 0.80],
    ]
  )  # fmt: skip
  out = 0.0
  for i in range(6):
    out = jnp.where(k == i, table[i][:, None], out)
  return out


def _normal(s, p):
  """The unit normal at points p, by four distances around each: 3 x (N,)."""
  n = [0.0, 0.0, 0.0]
  for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):

    def compute(s, p, corner=corner):
      return sdf.distance(s, [p[i] + 0.0025 * corner[i] for i in range(3)])

    d = apart(s, compute, s, p)
    n = [n[i] + corner[i] * d for i in range(3)]
  long = jax.lax.rsqrt(sum(a * a for a in n) + 1e-12)
  return [a * long for a in n]


def _paint(s, p):
  """What blends over parts, weighted by nearness: (7, N).

  Rows: colour, pattern, rainbow, gloss, emission.
  """
  d_PN = jnp.stack(apart(s, sdf.distances, s, p))

  def weigh(d_PN):
    w_PN = jnp.exp(jnp.maximum((d_PN.min(0) - d_PN) / 0.007, -30.0))
    return w_PN / w_PN.sum(0)

  w_PN = apart(s, weigh, d_PN)
  return jnp.dot(s["paint"].T, w_PN, precision=jax.lax.Precision.HIGHEST)


def _decals(s, q):
  """How much of each decal shows at subject points q, (D, N); the rest (N,)."""
  inside = []
  for i in range(NUM_DECALS):
    m, shift = s["decal_map"][i], s["decal_shift"][i]
    local = [sum(m[k, c] * q[c] for c in range(3)) - shift[k] for k in range(3)]
    ball = jnp.sqrt(sum(a * a for a in local) + 1e-9)
    cube = functools.reduce(jnp.maximum, [jnp.abs(a) for a in local])
    inside.append(step(1.05, 0.95, mix(ball, cube, s["decal_box"][i])))
  return inside


def _over(inside):
  """Later decals lie over earlier ones: share of each, and what is left."""
  left, shares = 1.0, []
  for weight in reversed(inside):
    shares.append(weight * left)
    left = left * (1 - weight)
  return shares[::-1], left


def _surface(s, p):
  """Colour, gloss and emission of the subject at points p.

  Returns:
    colour (3, N), gloss (N,), emission (N,), subject-frame points 3 x (N,).
  """
  blended = _paint(s, p)
  # To the subject's own frame, where patterns and decals live.
  r = s["rotation"]
  lifted = [p[0], p[1] - s["drop"], p[2]]
  q = [sum(r[j, i] * lifted[j] for j in range(3)) for i in range(3)]

  def pattern(s, q, p):
    angle = jnp.arctan2(p[0] - s["middle"][0], p[2])
    return _pattern(s, q), angle * 0.55 + (p[1] - s["drop"]) * 1.9

  weight, band = apart(s, pattern, s, q, p)
  inside = apart(s, _decals, s, q)
  shares, left = apart(s, _over, inside)
  marks = jnp.dot(
    s["decal_colour"].T,
    jnp.stack(shares),
    precision=jax.lax.Precision.HIGHEST,
  )

  def colour(s, blended, weight, band, marks, left):
    base = mix(blended[:3], s["pattern_colour"][:, None], weight * blended[3])
    return mix(base, _rainbow(band), blended[4]) * left + marks

  colour = apart(s, colour, s, blended, weight, band, marks, left)
  return colour, blended[5], blended[6], q


def _droplets(q):
  """A drop in most cells of a lattice: weight, and its bright spot, (N,)."""
  cell = [jnp.floor(a * 9.0) for a in q]
  pick = noise(cell[0] + 3 * cell[2], cell[1])
  spot = [
    fract(a * 9.0) - 0.5 - 0.3 * (noise(pick * 91 + k, k) - 0.5)
    for k, a in enumerate(q)
  ]
  r = jnp.sqrt(sum(a * a for a in spot))
  bright = jnp.sqrt((spot[0] + 0.10) ** 2 + (spot[1] - 0.12) ** 2)
  drop = jnp.where(pick > 0.35, step(0.36, 0.26, r), 0.0)
  return drop, step(0.12, 0.02, bright)


def shade(s, p, d):
  """The subject's light towards the viewer, (3, N)."""
  colour, gloss, emit, q = _surface(s, p)
  n = _normal(s, p)
  away = 0.11

  def open_space(s, p, n):
    return sdf.distance(s, [p[i] + n[i] * away for i in range(3)]) / away

  open_ = apart(s, open_space, s, p, n)
  drop, bright = jax.lax.cond(
    s["wet"] > 0,
    _droplets,
    lambda q: (jnp.zeros_like(q[0]), jnp.zeros_like(q[0])),
    q,
  )
  light = apart(s, _light, s, p, n, d, gloss, open_)
  return apart(s, _combine, s, colour, emit, drop, bright, n[1], *light)


def _light(s, p, n, d, gloss, open_):
  """Diffuse light, highlight, mirrored room and its weight: each (N,)."""
  wet, shiny, light = s["wet"], s["shiny"], s["light"]
  facing = jnp.maximum(-sum(n[i] * d[i] for i in range(3)), 0.0)
  lambert = sum(n[i] * light[i] for i in range(3))
  wrapped = jnp.clip(0.62 * lambert + 0.38, 0.0, 1.0)
  direct = wrapped * (0.65 + 0.35 * wrapped)
  # Occlusion: how much closer the surface is than open space would be.
  floor = jnp.clip((p[1] + n[1] * 0.12) / 0.20, 0, 1)
  ao = (0.45 + 0.55 * jnp.clip(open_, 0, 1)) * (0.72 + 0.28 * floor)
  sky = 0.5 + 0.5 * n[1]
  diffuse = (0.34 + 0.22 * sky + 0.66 * direct) * ao
  half = [light[i] - d[i] for i in range(3)]
  long = jax.lax.rsqrt(sum(a * a for a in half) + 1e-9)
  spec = jnp.maximum(sum(n[i] * half[i] for i in range(3)) * long, 1e-3)
  gloss = jnp.maximum(gloss, jnp.maximum(0.95 * shiny, 0.8 * wet))
  sheen = spec ** (10 + 70 * gloss) * gloss * 0.75
  rim = (1 - facing) ** 3 * (0.10 + 0.25 * gloss) * sky
  # Shiny: a mirrored studio, bands of light and dark by the reflected ray.
  up = 2 * facing * n[1] + d[1]
  across = 2 * facing * n[0] + d[0]
  room = 0.25 + 0.75 * step(-0.05, 0.25, up) - 0.45 * slab(up, 0.32, 0.55, 0.05)
  room = room + 0.5 * slab(across, 0.35, 0.6, 0.06) * step(0.0, 0.2, up)
  polish = shiny * (0.30 + 0.35 * (1 - facing) ** 2)
  return diffuse, sheen + rim, room, polish


def _combine(
  s, colour, emit, drop, bright, up, diffuse, highlight, room, polish
):
  """Colour under light, with droplets and glow, (3, N)."""
  tint = (s["light_colour"] * s["tint"])[:, None]
  colour = colour * (1 - 0.21 * s["wet"])
  body = colour * diffuse * tint
  body = mix(body, mix(1.0, colour, 0.45) * room, polish)
  out = body + highlight * tint
  blue = jnp.array([[0.62], [0.80], [0.95]])
  water = mix(mix(out * 0.8, blue, 0.45), 1.0, bright)
  out = mix(out, water, drop)
  return mix(out, colour * (1.12 + 0.12 * up), emit)
