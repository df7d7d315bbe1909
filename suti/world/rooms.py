# SPDX-License-Identifier: Apache-2.0
"""Backdrops that people built: floors, rugs, streets, the Eiffel Tower.

Each function colours the ground plane and an upright wall behind the subject
for one place; nothing is marched. They are large and calm on purpose: a small
diffusion model must learn them. `backdrops.py` lists what `v` holds.

Shape legend: N samples; colours (3, N).
"""

import jax.numpy as jnp

from suti.world.strokes import (
  TAU,
  blob,
  clouds,
  fract,
  mix,
  noise,
  rect,
  rgb,
  sky,
  slab,
  soft_noise,
  step,
  turned,
)


def studio(v):
  """A seamless neutral backdrop with a soft spot of light."""
  tone = mix(rgb(0.80, 0.79, 0.78), rgb(0.64, 0.69, 0.74), v["j"][0])
  tone = mix(tone, rgb(0.88, 0.83, 0.75), step(0.6, 1.0, v["j"][1]))
  ground = tone * (1.06 - 0.10 * step(0.8, 2.2, v["far"]))
  wall = tone * (0.96 - 0.16 * step(0.0, 1.2, v["w"]))
  spot = blob(v["u"], v["w"], 0.0, 0.25, 0.45, 0.6)
  return ground, wall * (1 + 0.08 * spot)


def cobblestone(v):
  """Rounded grey stones in rows, old house fronts."""
  u, w, j = v["u"], v["w"], v["j"]
  x, z = turned(v["x"], v["z"], (j[0] - 0.5) * 0.8)
  row = jnp.floor(z / 0.30)
  column = jnp.floor(x / 0.36 + 0.5 * row)
  a = fract(x / 0.36 + 0.5 * row) - 0.5
  b = fract(z / 0.30) - 0.5
  gap = jnp.maximum(jnp.abs(a), jnp.abs(b)) + 0.35 * (a * a + b * b)
  stone = 0.62 + 0.22 * (noise(column, row) - 0.5) - 0.35 * (a * a + b * b)
  tone = rgb(0.98, 0.95, 0.92) * stone
  ground = mix(tone, rgb(0.27, 0.26, 0.27), step(0.40, 0.50, gap))
  ground = mix(ground, rgb(0.52, 0.50, 0.49), step(1.3, 2.6, v["far"]) * 0.7)
  house = jnp.floor(u * 1.25 + j[1] * 4)
  t = fract(u * 1.25 + j[1] * 4)
  pick = noise(house, 3.0)
  front = mix(
    rgb(0.87, 0.70, 0.50), rgb(0.80, 0.52, 0.40), step(0.4, 0.6, pick)
  )
  front = mix(front, rgb(0.88, 0.82, 0.70), step(0.75, 0.8, pick))
  for at in (0.27, 0.73):
    for low in (0.30, 0.80):
      window = rect(t, w, at - 0.12, at + 0.12, low, low + 0.30, 0.01)
      pane = rect(t, w, at - 0.09, at + 0.09, low + 0.03, low + 0.27, 0.01)
      front = mix(front, rgb(0.96, 0.94, 0.88), window)
      front = mix(front, rgb(0.30, 0.38, 0.46), pane)
  front = mix(front, rgb(0.42, 0.26, 0.18), rect(t, w, 0.41, 0.59, -0.1, 0.24))
  front = front * (0.86 + 0.14 * step(0.0, 0.05, t) * step(1.0, 0.95, t))
  return ground, front


def pink_fabric(v):
  """Pink cloth everywhere, in soft folds."""
  x, z = turned(v["x"], v["z"], v["j"][0] * TAU)
  bend = x + 0.18 * jnp.sin(z * 2.1 + v["j"][1] * 6)
  fold = jnp.sin(bend * 4.2) + 0.4 * jnp.sin(bend * 7.7 + z * 1.3)
  ground = mix(rgb(0.98, 0.66, 0.78), rgb(0.86, 0.42, 0.60), 0.45 - 0.32 * fold)
  drape = jnp.sin(v["u"] * 9 + 0.8 * jnp.sin(v["w"] * 2) + v["j"][2] * 6)
  wall = mix(rgb(0.97, 0.62, 0.75), rgb(0.82, 0.38, 0.56), 0.45 - 0.4 * drape)
  return ground, wall


def wooden_floor(v):
  """Warm planks, a cream wall with a skirting board."""
  j = v["j"]
  x, z = turned(v["x"], v["z"], (j[0] - 0.5) * 1.0)
  plank = jnp.floor(x / 0.42)
  shift = z + 1.3 * noise(plank, 5.0)
  board = jnp.floor(shift / 2.0)
  tone = noise(plank, board)
  grain = 0.5 + 0.5 * jnp.sin(x * 40 + 2 * jnp.sin(z * 2 + plank))
  ground = mix(
    rgb(0.74, 0.48, 0.26), rgb(0.60, 0.36, 0.18), tone * 0.8 + 0.15 * grain
  )
  seam = step(0.46, 0.5, jnp.abs(fract(x / 0.42) - 0.5)) + step(
    0.485, 0.5, jnp.abs(fract(shift / 2.0) - 0.5)
  )
  ground = mix(ground, rgb(0.32, 0.18, 0.09), jnp.minimum(seam, 1) * 0.8)
  wall = rgb(0.93, 0.88, 0.78) * (1 - 0.08 * step(0.1, 0.8, v["w"]))
  wall = mix(wall, rgb(0.99, 0.98, 0.95), step(0.13, 0.12, v["w"]))
  wall = mix(wall, rgb(0.75, 0.70, 0.62), slab(v["w"], 0.125, 0.135))
  return ground, wall


def city(v):
  """A skyline with lit windows, pale paving."""
  u, w, j = v["u"], v["w"], v["j"]
  joint = jnp.maximum(
    step(0.47, 0.5, jnp.abs(fract(v["x"] / 0.9) - 0.5)),
    step(0.47, 0.5, jnp.abs(fract(v["z"] / 0.9) - 0.5)),
  )
  ground = mix(rgb(0.70, 0.71, 0.73), rgb(0.58, 0.59, 0.62), joint)
  wall = sky(v, rgb(0.88, 0.92, 0.96), rgb(0.46, 0.69, 0.93))
  for layer, (count, base, colour) in enumerate(
    (
      (5.0, 0.52, rgb(0.60, 0.69, 0.80)),
      (3.6, 0.30, rgb(0.34, 0.42, 0.55)),
    )
  ):
    place = u * count / 2 + j[layer] * 7
    tower, t = jnp.floor(place), fract(place)
    tall = base + 0.52 * noise(tower, 3.0 + layer)
    shape = step(tall + 0.01, tall - 0.01, w) * slab(t, 0.06, 0.94, 0.015)
    pane_u = step(0.30, 0.36, jnp.abs(fract(t * 4) - 0.5)) < 0.5
    pane_w = jnp.abs(fract(w * 9) - 0.5) < 0.30
    lit = noise(jnp.floor(t * 4) + tower * 7, jnp.floor(w * 9)) > 0.4
    window = jnp.where(pane_u & pane_w & lit, 0.9 if layer else 0.35, 0.0)
    body = mix(colour, rgb(0.98, 0.90, 0.62), window * slab(t, 0.1, 0.9))
    wall = mix(wall, body, shape)
  return ground, wall


def blue_house(v):
  """A blue house with a red roof and white windows on a lawn."""
  u, w, j, side = v["u"], v["w"], v["j"], v["side"]
  mow = step(-0.3, 0.3, jnp.sin(v["x"] * 3.2 + j[0]))
  ground = mix(rgb(0.47, 0.71, 0.30), rgb(0.41, 0.65, 0.26), mow)
  wall = clouds(v, sky(v, rgb(0.87, 0.94, 0.98), rgb(0.52, 0.76, 0.96)))
  wall = mix(
    wall,
    rgb(0.32, 0.56, 0.26),
    step(0.01, -0.01, w - 0.10 - 0.03 * jnp.sin(u * 14)),
  )
  x = (u - side * 0.38) / 0.62
  body = rect(x, w, -0.86, 0.86, -0.1, 0.58)
  wall = mix(wall, rgb(0.16, 0.40, 0.82), body)
  wall = mix(
    wall,
    rgb(0.12, 0.33, 0.72),
    body * step(0.1, 0.0, jnp.abs(fract(w * 11) - 0.5)),
  )
  roof = step(0.01, -0.01, w - (1.02 - 0.50 * jnp.abs(x))) * step(0.56, 0.58, w)
  wall = mix(wall, rgb(0.72, 0.24, 0.18), roof)
  wall = mix(
    wall, rgb(0.55, 0.36, 0.30), rect(x, w, 0.40, 0.60, 0.70, 1.04) * (1 - roof)
  )
  for at in (-0.52, 0.52):
    wall = mix(
      wall, rgb(0.98, 0.98, 0.97), rect(x, w, at - 0.22, at + 0.22, 0.22, 0.50)
    )
    wall = mix(
      wall, rgb(0.98, 0.88, 0.55), rect(x, w, at - 0.16, at - 0.02, 0.26, 0.46)
    )
    wall = mix(
      wall, rgb(0.98, 0.88, 0.55), rect(x, w, at + 0.02, at + 0.16, 0.26, 0.46)
    )
  wall = mix(wall, rgb(0.98, 0.98, 0.97), rect(x, w, -0.16, 0.16, -0.1, 0.36))
  return ground, wall


def purple_rug(v):
  """A purple rug with a pale border between tree trunks."""
  u, w, j = v["u"], v["w"], v["j"]
  leaf = soft_noise(v["x"], v["z"], period=0.9, phase=j[0] * 6)
  ground = mix(rgb(0.30, 0.36, 0.16), rgb(0.42, 0.36, 0.20), 0.5 + 0.5 * leaf)
  x, z = turned(v["x"], v["z"], (j[1] - 0.5) * 0.5)
  edge = jnp.maximum(jnp.abs(x) / 1.30, jnp.abs(z) / 1.05)
  rug = mix(
    rgb(0.52, 0.22, 0.68), rgb(0.44, 0.16, 0.60), 0.5 + 0.5 * jnp.sin(x * 9)
  )
  rug = mix(rug, rgb(0.90, 0.78, 0.95), slab(edge, 0.78, 0.86, 0.02))
  ground = mix(ground, rug, step(1.01, 0.98, edge))
  wall = mix(rgb(0.17, 0.30, 0.17), rgb(0.36, 0.54, 0.28), step(0.1, 1.0, w))
  for layer, (count, wide, colour) in enumerate(
    (
      (7.0, 0.15, rgb(0.24, 0.27, 0.18)),
      (4.2, 0.17, rgb(0.40, 0.27, 0.17)),
    )
  ):
    place = u * count / 2 + j[2 + layer] * 5
    t = fract(place) - 0.5 + 0.4 * (noise(jnp.floor(place), 2.0) - 0.5)
    trunk = step(wide + 0.03, wide - 0.03, jnp.abs(t))
    wall = mix(wall, colour * (1 + 0.5 * t / wide * 0.4), trunk)
  canopy = 0.82 + 0.07 * jnp.sin(u * 8 + j[4] * 6) + 0.04 * jnp.sin(u * 19)
  wall = mix(wall, rgb(0.22, 0.44, 0.20), step(-0.02, 0.02, w - canopy))
  bush = 0.06 + 0.04 * jnp.abs(jnp.sin(u * 7 + j[5] * 6))
  wall = mix(wall, rgb(0.24, 0.40, 0.18), step(0.01, -0.01, w - bush))
  return ground, wall


def eiffel_tower(v):
  """The tower with its arch and two platforms, lawn and trees."""
  u, w, j, side = v["u"], v["w"], v["j"], v["side"]
  ground = rgb(0.50, 0.70, 0.34) * (0.97 + 0.03 * jnp.sin(v["z"] * 3 + j[0]))
  wall = clouds(v, sky(v, rgb(0.97, 0.92, 0.88), rgb(0.58, 0.76, 0.94)))
  trees = 0.10 + 0.035 * jnp.abs(jnp.sin(u * 9 + j[1] * 6))
  x, h = (u - side * 0.58) / 1.25, w / 1.12
  half = 0.30 * jnp.exp(-3.4 * h) + 0.018
  iron = rgb(0.45, 0.35, 0.28) * (1.0 + 0.18 * step(0.0, 0.04, x * side))
  tower = step(0.008, -0.008, jnp.abs(x) - half) * step(1.02, 1.0, h)
  inner = step(0.0, 0.012, 0.30 * jnp.exp(-3.4 * h) - 0.085 - jnp.abs(x))
  arch = step(0.0, 0.02, 0.17 - jnp.sqrt(x * x + (h - 0.02) ** 2 * 0.75))
  hole = jnp.maximum(
    jnp.where(h < 0.24, arch, 0.0), inner * slab(h, 0.29, 0.50, 0.005)
  )
  tower = tower * (1 - hole)
  for low, high, grow in ((0.235, 0.275, 0.03), (0.50, 0.53, 0.025)):
    tower = jnp.maximum(
      tower, rect(jnp.abs(x), h, -1, half + grow, low, high, 0.006)
    )
  tower = jnp.maximum(tower, rect(jnp.abs(x), h, -1, 0.012, 0.9, 1.10, 0.004))
  mesh = 0.88 + 0.12 * jnp.sin((x + h) * 90) * jnp.sin((x - h) * 90)
  wall = mix(wall, iron * mesh, tower)
  wall = mix(wall, rgb(0.30, 0.50, 0.26), step(0.01, -0.01, w - trees))
  return ground, wall


def mirror(v):
  """A round mirror with a golden frame on a table, a plain room."""
  j = v["j"]
  r = jnp.sqrt(v["x"] ** 2 + v["z"] ** 2)
  glass = mix(
    rgb(0.80, 0.88, 0.92),
    rgb(0.60, 0.72, 0.80),
    step(-0.8, 0.9, v["x"] * 0.5 - v["z"]),
  )
  gleam = slab(v["x"] + 0.6 * v["z"], 0.45, 0.62, 0.05) + slab(
    v["x"] + 0.6 * v["z"], 0.72, 0.78, 0.03
  )
  glass = mix(glass, rgb(0.93, 0.97, 0.99), gleam * 0.6)
  table = mix(rgb(0.42, 0.25, 0.20), rgb(0.36, 0.24, 0.30), j[0])
  ground = mix(table, rgb(0.90, 0.72, 0.30), step(1.30, 1.28, r))
  ground = mix(ground, rgb(0.70, 0.50, 0.16), slab(r, 1.19, 1.215, 0.01))
  ground = mix(ground, glass, step(1.17, 1.15, r))
  wall = mix(rgb(0.62, 0.66, 0.70), rgb(0.72, 0.64, 0.60), j[1])
  return ground, wall * (1.02 - 0.15 * step(0.0, 0.9, v["w"]))


def _person(colour, u, w, at, tall, shirt, legs, skin):
  """A walking passer-by in flat colours."""
  x, h = (u - at) / tall, w / tall
  stride = jnp.maximum(slab(x, -0.10, -0.02), slab(x, 0.02, 0.10))
  colour = mix(colour, legs, stride * slab(h, -0.1, 0.45))
  body = step(
    0.012,
    -0.012,
    jnp.maximum(
      jnp.abs(x) - 0.15 + 0.08 * step(0.70, 0.80, h), jnp.abs(h - 0.61) - 0.19
    ),
  )
  colour = mix(colour, shirt, body)
  colour = mix(colour, skin, blob(x, h, 0.0, 0.90, 0.088, 0.012))
  return mix(
    colour,
    rgb(0.20, 0.14, 0.10),
    blob(x, h, 0.0, 0.94, 0.088, 0.012) * step(0.90, 0.93, h),
  )


def sidewalk(v):
  """Large pale slabs with a kerb, a crowd of passers-by, shop fronts."""
  u, w, j = v["u"], v["w"], v["j"]
  joint = jnp.maximum(
    step(0.472, 0.49, jnp.abs(fract(v["x"] / 1.0 + j[0]) - 0.5)),
    step(0.472, 0.49, jnp.abs(fract(v["z"] / 1.0 + 0.5) - 0.5)),
  )
  ground = mix(rgb(0.78, 0.76, 0.73), rgb(0.56, 0.54, 0.52), joint)
  shop = fract(u * 0.8 + j[1] * 3)
  pick = noise(jnp.floor(u * 0.8 + j[1] * 3), 6.0)
  wall = mix(
    rgb(0.62, 0.40, 0.34), rgb(0.45, 0.48, 0.54), step(0.45, 0.55, pick)
  )
  wall = mix(wall, rgb(0.70, 0.82, 0.86), rect(shop, w, 0.10, 0.90, -0.1, 0.62))
  awning = rect(shop, w, 0.05, 0.95, 0.62, 0.80)
  wall = mix(
    wall,
    mix(
      rgb(0.85, 0.25, 0.22),
      rgb(0.97, 0.95, 0.90),
      step(-0.1, 0.1, jnp.sin(shop * 44)),
    ),
    awning,
  )
  shirts = (
    rgb(0.85, 0.30, 0.25),
    rgb(0.20, 0.45, 0.75),
    rgb(0.95, 0.78, 0.30),
    rgb(0.30, 0.60, 0.40),
    rgb(0.93, 0.93, 0.93),
    rgb(0.55, 0.32, 0.62),
    rgb(0.95, 0.55, 0.30),
    rgb(0.30, 0.62, 0.68),
  )
  skins = (rgb(0.95, 0.78, 0.64), rgb(0.62, 0.42, 0.29), rgb(0.84, 0.63, 0.47))
  for i in range(8):
    at = -1.0 + 0.285 * i + 0.14 * (fract(j[2] + i * 0.61) - 0.5)
    tall = (0.78 if i % 2 else 0.92) + 0.10 * (fract(j[3] + i * 0.37) - 0.5)
    wall = _person(
      wall, u, w, at, tall, shirts[i], rgb(0.19, 0.21, 0.30), skins[i % 3]
    )
  return ground, wall


def white_rug(v):
  """A fluffy white rug on a dark floor, a teal room with a lamp."""
  u, w, j, side = v["u"], v["w"], v["j"], v["side"]
  plank = step(0.46, 0.5, jnp.abs(fract(v["x"] / 0.5) - 0.5))
  floor = mix(rgb(0.40, 0.31, 0.27), rgb(0.30, 0.23, 0.20), plank)
  angle = jnp.arctan2(v["z"], v["x"])
  r = jnp.sqrt((v["x"] / 1.30) ** 2 + (v["z"] / 1.05) ** 2)
  fringe = 0.025 * jnp.sin(angle * 34) + 0.015 * jnp.sin(angle * 53 + 1)
  fluff = soft_noise(v["x"], v["z"], period=0.30, phase=j[1] * 6)
  rug = mix(rgb(0.98, 0.97, 0.95), rgb(0.88, 0.87, 0.86), 0.4 + 0.4 * fluff)
  ground = mix(floor, rug, step(1.02, 0.98, r + fringe))
  wall = mix(rgb(0.36, 0.55, 0.56), rgb(0.56, 0.52, 0.60), step(0.5, 1.0, j[0]))
  wall = wall * (1.0 - 0.12 * step(0.0, 0.7, w))
  wall = mix(wall, rgb(0.95, 0.95, 0.93), step(0.07, 0.06, w))
  at = side * 0.78
  wall = mix(
    wall, rgb(0.96, 0.93, 0.85), rect(u, w, at - 0.2, at + 0.2, 0.22, 0.62)
  )
  wall = mix(
    wall, rgb(0.93, 0.60, 0.40), rect(u, w, at - 0.15, at + 0.15, 0.27, 0.57)
  )
  return ground, wall
