# SPDX-License-Identifier: Apache-2.0
"""Backdrops under the sky: jungle to dirt road, in closed form.

Each function colours the ground plane and an upright wall behind the subject
for one place; nothing is marched. They are large and calm on purpose: a small
diffusion model must learn them. `backdrops.py` lists what `v` holds.

Shape legend: N samples; colours (3, N).
"""

import jax.numpy as jnp

from suti.world.strokes import (
  blob,
  clouds,
  fract,
  mix,
  noise,
  rgb,
  sky,
  slab,
  soft_noise,
  step,
  turned,
  wave,
)


def jungle(v):
  """Palm fronds in three greens, trunks, mossy ground."""
  u, w, j = v["u"], v["w"], v["j"]
  moss = 0.5 + 0.5 * soft_noise(v["x"], v["z"], period=1.1, phase=j[0] * 6)
  ground = mix(rgb(0.15, 0.29, 0.10), rgb(0.28, 0.42, 0.14), moss)
  wall = mix(rgb(0.12, 0.30, 0.16), rgb(0.52, 0.72, 0.36), step(0.2, 1.3, w))
  for at in (-0.62, 0.25, 0.85):
    at = at + 0.25 * (j[1] - 0.5)
    bend = at + 0.08 * jnp.sin(w * 3 + at * 9)
    wall = mix(wall, rgb(0.30, 0.21, 0.12), slab(u, bend - 0.05, bend + 0.05))
  greens = (
    rgb(0.07, 0.30, 0.13), rgb(0.12, 0.46, 0.16), rgb(0.28, 0.62, 0.20)
  )  # fmt: skip
  places = (
    (-0.2, 0.75, 0.45), (0.55, 0.70, 0.50), (-0.95, 0.62, 0.50),
    (1.05, 0.15, 0.42), (-0.55, 0.15, 0.38), (0.4, 0.05, 0.3),
    (-1.05, -0.02, 0.34), (0.85, 0.95, 0.45), (-0.6, 1.05, 0.4),
  )  # fmt: skip
  for i, (at_u, at_w, size) in enumerate(places):
    du = u - at_u - 0.2 * (fract(j[2] + i * 0.31) - 0.5)
    dw = w - at_w
    angle = jnp.arctan2(dw, du)
    radius = jnp.sqrt(du * du + dw * dw)
    frond = size * (
      0.22 + 0.78 * jnp.abs(jnp.cos(angle * 3.5 + i * 1.3)) ** 1.5
    )
    leaf = 1 - step(frond - 0.03, frond + 0.02, radius)
    vein = 1 - 0.35 * step(0.15, 0.0, radius / size)
    wall = mix(wall, greens[i % 3] * vein, leaf)
  return ground, wall


def snow(v):
  """White drifts, snowy pines, large flakes."""
  u, w, j = v["u"], v["w"], v["j"]
  drift = soft_noise(v["x"], v["z"], period=1.7, phase=j[0] * 6)
  ground = mix(rgb(0.92, 0.95, 1.0), rgb(0.78, 0.86, 0.96), 0.5 + 0.5 * drift)
  wall = sky(v, rgb(0.86, 0.91, 0.96), rgb(0.62, 0.74, 0.88))
  hill = 0.12 + 0.06 * jnp.sin(u * 3 + j[1] * 6)
  for i in range(6):
    at = -1.05 + 0.42 * i + 0.2 * (fract(j[2] + i * 0.29) - 0.5)
    tall = 0.55 + 0.35 * fract(j[3] + i * 0.41)
    rise = (w - 0.04) / tall
    half = 0.20 * (1 - rise) * (0.75 + 0.5 * fract(rise * 3.0 + 0.02) ** 0.7)
    half = jnp.where((rise > 0) & (rise < 1), half, 0.0)
    tree = step(0.015, -0.015, jnp.abs(u - at) - half)
    tree = jnp.where(half > 0, tree, 0.0)
    white = step(0.35, 0.75, fract(rise * 3.0 + 0.02))
    wall = mix(
      wall, mix(rgb(0.20, 0.38, 0.34), rgb(0.93, 0.96, 1.0), 1 - white), tree
    )
  wall = mix(wall, rgb(0.93, 0.96, 1.0), step(0.01, -0.01, w - hill))
  for i in range(14):
    at_u = -1 + 2 * noise(i, 1.0 + jnp.floor(j[4] * 50))
    at_w = -0.1 + 1.2 * noise(i, 2.0 + jnp.floor(j[5] * 50))
    wall = mix(wall, rgb(1, 1, 1), blob(u, w, at_u, at_w, 0.028, 0.015))
  return ground, wall


def beach(v):
  """Sand, a foam line, turquoise sea, a parasol and a palm."""
  u, w, j, side = v["u"], v["w"], v["j"], v["side"]
  ripple = wave(v["x"], v["z"], angle=1.2 + j[0], period=0.55)
  sand = mix(rgb(0.95, 0.84, 0.62), rgb(0.89, 0.75, 0.52), 0.35 + 0.25 * ripple)
  ground = mix(sand, rgb(0.80, 0.68, 0.50), step(1.5, 1.9, v["far"]) * 0.6)
  air = clouds(v, sky(v, rgb(0.80, 0.93, 0.99), rgb(0.36, 0.68, 0.95)))
  sea = mix(rgb(0.25, 0.78, 0.80), rgb(0.08, 0.42, 0.72), step(0.02, 0.28, w))
  crest = slab(w + 0.012 * jnp.sin(u * 9), 0.12, 0.135) + slab(
    w + 0.01 * jnp.sin(u * 7 + 2), 0.20, 0.21
  )
  sea = mix(sea, rgb(0.9, 0.98, 1.0), crest * 0.7)
  foam = 0.045 + 0.02 * jnp.sin(u * 6 + j[1] * 6)
  sea = mix(sea, rgb(1, 1, 1), step(0.015, -0.015, w - foam))
  wall = mix(sea, air, step(0.275, 0.285, w))
  at = side * 0.72
  dome = blob(u, w, at, 0.62, 0.34, 0.01, squash=1.25) * step(0.60, 0.62, w)
  part = step(-0.1, 0.1, jnp.sin((u - at) * 23))
  wall = mix(
    wall,
    rgb(0.93, 0.92, 0.88),
    slab(u, at - 0.014, at + 0.014) * slab(w, -0.05, 0.62),
  )
  wall = mix(
    wall, mix(rgb(0.92, 0.23, 0.20), rgb(0.98, 0.97, 0.94), part), dome
  )
  wall = mix(
    wall, rgb(1.0, 0.93, 0.60), blob(u, w, -side * 0.72, 0.82, 0.12, 0.02)
  )
  return ground, wall


def mountain(v):
  """Blue peaks with snow caps, a meadow."""
  u, w, j = v["u"], v["w"], v["j"]
  tuft = soft_noise(v["x"], v["z"], period=1.2, phase=j[0] * 6)
  ground = mix(rgb(0.52, 0.72, 0.30), rgb(0.40, 0.62, 0.24), 0.5 + 0.5 * tuft)
  wall = clouds(v, sky(v, rgb(0.86, 0.93, 0.98), rgb(0.46, 0.71, 0.95)))
  far = (
    (0.35, 0.62, 1.0, rgb(0.58, 0.67, 0.80)),
    (-0.75, 0.55, 1.05, rgb(0.52, 0.61, 0.75)),
    (0.62 * v["side"], 0.88, 0.95, rgb(0.40, 0.48, 0.62)),
  )
  for at, tall, slope, colour in far:
    at = at + 0.16 * (j[1] - 0.5)
    ragged = 0.035 * jnp.sin(u * 19) + 0.02 * jnp.sin(u * 41)
    edge = tall - slope * jnp.abs(u - at) + ragged * 0.6
    inside = step(0.012, -0.012, w - edge)
    line = tall * 0.66 + 0.055 * jnp.sin(u * 26 + j[2] * 6)
    lit = 1.0 + 0.14 * step(0.0, 0.06, u - at)
    body = mix(
      colour * lit,
      rgb(0.97, 0.98, 1.0) * (0.84 + 0.16 * step(0, 0.05, u - at)),
      step(-0.01, 0.02, w - line),
    )
    wall = mix(wall, body, inside)
  hill = 0.10 + 0.05 * jnp.sin(u * 2.6 + j[3] * 6)
  wall = mix(wall, rgb(0.36, 0.58, 0.27), step(0.012, -0.012, w - hill))
  return ground, wall


def wheat_field(v):
  """Golden ears up to the height of a hip."""
  u, w, j = v["u"], v["w"], v["j"]
  straw = wave(v["x"], v["z"], angle=0.2, period=0.42, phase=j[0] * 6)
  ground = mix(rgb(0.86, 0.68, 0.30), rgb(0.76, 0.57, 0.22), 0.5 + 0.4 * straw)
  air = clouds(v, sky(v, rgb(0.93, 0.94, 0.92), rgb(0.50, 0.74, 0.95)))
  wall = air
  for layer, (top, count, colour) in enumerate(
    (
      (0.52, 13.0, rgb(0.87, 0.68, 0.28)),
      (0.36, 10.0, rgb(0.94, 0.77, 0.35)),
    )
  ):
    place = u * count / 2 + layer * 0.5 + j[1] * 3
    t = fract(place) - 0.5
    tall = top + 0.10 * (noise(jnp.floor(place), 4.0 + layer) - 0.5)
    ear = blob(t / count * 2, w, 0.0, tall, 0.12, 0.02, squash=0.42)
    notch = 0.86 + 0.14 * jnp.sin(w * 60)
    body = step(0.02, -0.02, w - (top - 0.09))
    stalk = 0.80 + 0.20 * step(0.42, 0.2, jnp.abs(t))
    wall = mix(wall, colour * 0.86 * stalk, body)
    ear = jnp.where(jnp.abs(t) < 0.30, ear, 0.0)
    wall = mix(wall, colour * notch * 1.03, ear)
  return ground, wall


def _tree(v, colour, at, size, *, leaves, trunk=None):
  """A tree of round leaf clusters on a trunk, on the wall."""
  u, w = (v["u"] - at) / size, v["w"] / size
  trunk = rgb(0.36, 0.23, 0.14) if trunk is None else trunk
  width = 0.085 + 0.05 * step(0.3, 0.0, w)
  out = mix(colour, trunk, slab(u, -width, width, 0.02) * slab(w, -0.1, 0.75))
  for i, (du, dw, r) in enumerate(
    (
      (-0.34, 0.72, 0.30), (0.34, 0.74, 0.30), (0.0, 0.66, 0.30),
      (-0.18, 1.02, 0.30), (0.20, 1.04, 0.28), (0.0, 0.88, 0.26),
    )
  ):  # fmt: skip
    shade = leaves[i % len(leaves)] * (0.82 + 0.25 * step(0.4, 1.2, w))
    out = mix(out, shade, blob(u, w, du, dw, r, 0.03))
  return out


def autumn_tree(v):
  """A tree in orange and red, leaves on the ground and in the air."""
  u, w, j, side = v["u"], v["w"], v["j"], v["side"]
  base = soft_noise(v["x"], v["z"], period=1.6, phase=j[0] * 6)
  ground = mix(rgb(0.62, 0.58, 0.30), rgb(0.54, 0.47, 0.24), 0.5 + 0.5 * base)
  tints = (rgb(0.93, 0.49, 0.13), rgb(0.82, 0.25, 0.12), rgb(0.97, 0.74, 0.22))
  for k in range(3):
    x, z = turned(v["x"] + 0.17 * k, v["z"] - 0.11 * k, 0.5 + k)
    cell_x, cell_z = jnp.floor(x / 0.42), jnp.floor(z / 0.42)
    a = fract(x / 0.42) - 0.3 - 0.4 * noise(cell_x, cell_z + k)
    b = fract(z / 0.42) - 0.3 - 0.4 * noise(cell_z, cell_x + 5 + k)
    leaf = step(0.24, 0.17, jnp.sqrt(a * a + 2.2 * b * b))
    ground = mix(ground, tints[k], leaf * 0.9)
  wall = sky(v, rgb(0.98, 0.93, 0.83), rgb(0.70, 0.83, 0.93))
  wall = mix(
    wall,
    rgb(0.66, 0.52, 0.26),
    step(0.02, -0.02, w - 0.10 - 0.04 * jnp.sin(u * 4 + j[1] * 6)),
  )
  wall = _tree(v, wall, -side * 0.85, 0.55, leaves=(tints[2], tints[0]))
  wall = _tree(v, wall, side * 0.50, 0.88, leaves=tints)
  for i in range(7):
    at_u = -1 + 2 * noise(i, 1.0 + jnp.floor(j[4] * 50))
    at_w = 0.05 + 0.9 * noise(i, 2.0 + jnp.floor(j[5] * 50))
    wall = mix(
      wall, tints[i % 3], blob(u, w, at_u, at_w, 0.035, 0.012, squash=1.4)
    )
  return ground, wall


def water(v):
  """Blue water with rings around the subject, a far shore."""
  u, w, j = v["u"], v["w"], v["j"]
  r = jnp.sqrt(v["x"] ** 2 + v["z"] ** 2)
  ring = jnp.sin(r * 15 - j[0] * 6) * step(2.0, 0.6, r)
  swell = wave(v["x"] * 0.5, v["z"], angle=1.4, period=0.5, phase=j[1] * 6)
  swell = swell + 0.6 * wave(v["x"] * 0.5, v["z"], angle=1.9, period=0.31)
  deep = mix(
    rgb(0.12, 0.48, 0.78), rgb(0.30, 0.68, 0.90), step(0.9, 2.6, v["far"])
  )
  ground = mix(
    deep, rgb(0.70, 0.90, 0.99), step(0.55, 1.5, 0.55 * swell + 0.6 * ring)
  )
  ground = mix(
    ground,
    rgb(0.06, 0.34, 0.64),
    step(-0.5, -1.4, 0.55 * swell + 0.6 * ring) * 0.6,
  )
  wall = clouds(v, sky(v, rgb(0.88, 0.95, 0.99), rgb(0.45, 0.72, 0.96)))
  shore = 0.05 + 0.03 * jnp.sin(u * 3 + j[2] * 6) + 0.015 * jnp.sin(u * 11)
  wall = mix(wall, rgb(0.42, 0.58, 0.52), step(0.01, -0.01, w - shore))
  return ground, wall


def milk(v):
  """Cream-white waves to the horizon under a pale pink sky."""
  u, w, j = v["u"], v["w"], v["j"]
  r = jnp.sqrt(v["x"] ** 2 + v["z"] ** 2)
  ring = jnp.sin(r * 9 - j[0] * 6) * step(2.4, 0.5, r)
  swell = wave(
    v["x"] * 0.45,
    v["z"],
    angle=1.45,
    period=0.95,
    phase=j[1] * 6 + 0.5 * jnp.sin(v["x"] * 1.7),
  )
  ground = mix(
    rgb(0.99, 0.97, 0.92),
    rgb(0.86, 0.82, 0.76),
    step(0.1, 1.6, -0.75 * swell - 0.8 * ring),
  )
  ground = mix(ground, rgb(1, 1, 0.99), step(0.6, 1.4, swell + 0.6 * ring))
  wall = sky(v, rgb(0.99, 0.90, 0.86), rgb(0.96, 0.74, 0.76))
  for i, (low, tone) in enumerate(((0.20, 0.90), (0.09, 0.97))):
    crest = low + 0.05 * jnp.abs(jnp.sin(u * (4 - i) + j[2 + i] * 6))
    lip = mix(
      rgb(0.99, 0.96, 0.90) * tone, rgb(1, 1, 1), step(-0.05, 0.0, w - crest)
    )
    wall = mix(wall, lip, step(0.008, -0.008, w - crest))
  return ground, wall


def _sunflower(colour, u, w, at, foot, high, size):
  """One sunflower: stem, leaf, petals, brown centre."""
  colour = mix(
    colour,
    rgb(0.22, 0.50, 0.17),
    slab(u, at - 0.022, at + 0.022) * slab(w, foot, high),
  )
  colour = mix(
    colour,
    rgb(0.27, 0.57, 0.20),
    blob(u, w, at + 0.09, (foot + high) / 2, 0.09, 0.015, squash=2.2),
  )
  du, dw = u - at, w - high
  angle = jnp.arctan2(dw, du)
  petal = size * (0.80 + 0.20 * jnp.cos(angle * 10))
  radius = jnp.sqrt(du * du + dw * dw)
  colour = mix(
    colour, rgb(0.99, 0.79, 0.10), step(0.015, -0.015, radius - petal)
  )
  return mix(
    colour, rgb(0.36, 0.20, 0.09), step(0.012, -0.012, radius - size * 0.48)
  )


def sunflowers(v):
  """Bright grass, sunflowers on both sides."""
  u, w, j = v["u"], v["w"], v["j"]
  blade = wave(v["x"], v["z"], angle=0.1, period=0.22) * wave(
    v["x"], v["z"], angle=1.5, period=0.6
  )
  ground = mix(rgb(0.38, 0.68, 0.22), rgb(0.29, 0.57, 0.17), 0.5 + 0.4 * blade)
  wall = sky(v, rgb(0.86, 0.95, 0.98), rgb(0.50, 0.76, 0.96))
  wall = mix(
    wall,
    rgb(0.33, 0.60, 0.22),
    step(0.015, -0.015, w - 0.14 - 0.03 * jnp.abs(jnp.sin(u * 16))),
  )
  places = (
    (-0.42, 0.62, 0.15),
    (0.47, 0.55, 0.15),
    (0.05, 0.80, 0.14),
    (-0.86, 0.46, 0.19),
    (0.88, 0.50, 0.19),
  )
  for i, (at, high, size) in enumerate(places):
    shift = fract(j[1] + i * 0.38) - 0.5
    wall = _sunflower(
      wall, u, w, at + 0.12 * shift, -0.1, high + 0.1 * shift, size
    )
  # Two large ones in front, in frame coordinates, left and right.
  front = ground
  for at, high in ((-0.90, -0.34), (0.92, -0.42)):
    front = _sunflower(
      front,
      v["frame_x"],
      v["frame_y"],
      at,
      -1.1,
      high + 0.1 * (j[2] - 0.5),
      0.20,
    )
    wall = _sunflower(
      wall,
      v["frame_x"],
      v["frame_y"],
      at,
      -1.1,
      high + 0.1 * (j[2] - 0.5),
      0.20,
    )
  return front, wall


def dirt_road(v):
  """A brown road with two tracks that runs to the hills."""
  u, w, j = v["u"], v["w"], v["j"]
  x = v["x"] + 0.10 * (j[0] - 0.5) * v["z"]
  tuft = soft_noise(v["x"], v["z"], period=0.8, phase=j[1] * 6)
  grass = mix(rgb(0.62, 0.66, 0.30), rgb(0.48, 0.57, 0.24), 0.5 + 0.5 * tuft)
  dirt = mix(
    rgb(0.66, 0.47, 0.30),
    rgb(0.57, 0.39, 0.24),
    0.5 + 0.5 * soft_noise(v["x"], v["z"], period=0.5),
  )
  track = slab(jnp.abs(x), 0.46, 0.76, 0.06)
  dirt = mix(dirt, rgb(0.45, 0.30, 0.18), track * 0.75)
  edge = 1.22 + 0.08 * jnp.sin(v["z"] * 4 + j[2] * 6)
  ground = mix(grass, dirt, step(edge + 0.05, edge - 0.05, jnp.abs(x)))
  wall = clouds(v, sky(v, rgb(0.94, 0.95, 0.93), rgb(0.55, 0.77, 0.94)))
  hill = 0.16 + 0.09 * jnp.sin(u * 2.3 + j[3] * 6)
  wall = mix(wall, rgb(0.55, 0.62, 0.36), step(0.012, -0.012, w - hill))
  near = 0.07 + 0.04 * jnp.sin(u * 3.7 + j[4] * 6)
  wall = mix(wall, rgb(0.50, 0.56, 0.28), step(0.012, -0.012, w - near))
  lane = 0.30 * step(0.12, -0.02, w) + 0.06
  wall = mix(
    wall,
    rgb(0.63, 0.45, 0.29),
    step(0.012, -0.012, jnp.abs(u) - lane) * step(0.10, 0.06, w),
  )
  return ground, wall
