# SPDX-License-Identifier: Apache-2.0
"""Toys: duck, monster, robot, car.

Each function builds a batch of one variant into `Parts` from the subjects' own
random numbers. The front is +z, feet stand at y = 0.
"""

import numpy as np

from suti.world.faces import DARK, WHITE
from suti.world.palette import INK, PAPER, STEEL
from suti.world.parts import turn


def monster(b, g, c):
  """A round toy monster: one, two or three eyes, horns, teeth, big feet."""
  wide = g.uniform(0.42, 0.54)
  tall = g.uniform(0.40, 0.56)
  eyes = g.choice(3) + 1
  horn = g.uniform(0.14, 0.26)
  y = tall + 0.10
  front = wide * 0.88
  soft = dict(patterned=1.0, smooth=0.05, gloss=0.1)
  b.ball((0, y, 0), (wide, tall, wide * 0.9), c.main, **soft)
  for s in (-1, 1):
    b.ball(
      (s * wide * 0.5, 0.09, wide * 0.35),
      (0.20, 0.11, 0.28),
      c.second,
      kept=True,
    )
    b.ball(
      (s * (wide + 0.07), y - 0.12, 0.12),
      (0.10, 0.20, 0.12),
      c.main,
      rotation=turn(b.n, z=s * 0.5),
      smooth=0.05,
      kept=True,
    )
  size = np.where(eyes == 1, 0.22, np.where(eyes == 2, 0.16, 0.125))
  for place in (-1, 0, 1):
    there = (eyes != 2) if place == 0 else (eyes != 1)
    x = place * np.where(eyes == 3, 0.27, 0.18)
    lift = np.where(eyes == 3, 0.05 * (1 - abs(place)), 0)
    b.ball(
      (x, y + tall * 0.25 + lift, front * 0.92),
      (size, size, size * 0.6),
      WHITE,
      when=there,
      gloss=0.6,
      kept=True,
    )
    b.decal(
      (x, y + tall * 0.25 + lift, front * 1.1),
      (size * 0.5, size * 0.5, size),
      DARK,
      when=there,
    )
  for s in (-1, 1):
    b.cylinder(
      (s * wide * 0.55, y + tall * 0.82 + horn * 0.4, 0),
      0.085,
      horn,
      c.third,
      axis=(s * 0.45, 1, 0),
      taper=-0.34,
      edge=0.02,
      kept=True,
    )
  b.decal(
    (0, y - tall * 0.28, front), (wide * 0.52, tall * 0.17, wide * 0.5), DARK
  )
  for s in (-1, 1):
    b.decal(
      (s * wide * 0.2, y - tall * 0.20, front),
      (0.055, 0.07, wide * 0.5),
      WHITE,
      box=1.0,
    )
  return dict(noun="monster", accent=np.full(b.n, "feet"))


def duck(b, g, c):
  """A bath duck: round body, big head, beak, wings, a tail that points up."""
  long = g.uniform(0.42, 0.56)
  fat = g.uniform(0.33, 0.42)
  head = g.uniform(0.25, 0.33)
  beak = g.uniform(0.11, 0.18)
  neck = g.uniform(0.0, 0.12)
  bill = np.array([0.97, 0.50, 0.10])
  soft = dict(patterned=1.0, smooth=0.08, gloss=0.5)
  head_y = fat * 1.55 + head * 0.72 + neck
  head_z = long * 0.52
  b.ball((0, fat * 0.9, 0), (fat, fat * 0.9, long), c.main, **soft)
  b.ball(
    (0, head_y, head_z), (head, head, head), c.main, smooth=0.08, gloss=0.5
  )
  b.ball(
    (0, fat * 1.5, -long * 0.95),
    (fat * 0.5, 0.10, 0.2),
    c.main,
    rotation=turn(b.n, x=0.7),
    smooth=0.10,
    gloss=0.5,
    kept=True,
  )
  b.ball(
    (0, head_y - head * 0.22, head_z + head * 0.95),
    (head * 0.55, 0.065, beak + 0.05),
    bill,
    smooth=0.02,
    gloss=0.5,
    kept=True,
  )
  for s in (-1, 1):
    b.ball(
      (s * fat * 0.93, fat * 1.02, -0.06),
      (0.09, fat * 0.45, long * 0.52),
      c.second,
      rotation=turn(b.n, x=0.25),
      smooth=0.03,
      gloss=0.5,
      kept=True,
    )
  g.unit(2)  # free
  b.cylinder(
    (0, head_y + head * 0.95, head_z),
    head * 0.62,
    0.11,
    c.third,
    edge=0.03,
    when=g.chance(0.35),
    kept=True,
  )
  scarf = g.chance(0.4)
  b.torus(
    (0, fat * 1.62 + neck, head_z * 0.86),
    head * 0.62,
    0.06,
    c.third,
    axis=(0, 1, 0.2),
    when=scarf,
  )
  for s in (-1, 1):
    x = s * head * 0.62
    b.decal(
      (x, head_y + head * 0.2, head_z + head * 0.72), (head * 0.26,) * 3, WHITE
    )
    b.decal(
      (x * 1.02, head_y + head * 0.2, head_z + head * 0.78),
      (head * 0.17,) * 3,
      DARK,
    )
  return dict(noun="duck", accent=np.full(b.n, "wings"))


def robot(b, g, c):
  """A tin robot: box head and chest, antenna, buttons, claws."""
  wide = g.uniform(0.26, 0.38)
  tall = g.uniform(0.26, 0.36)
  head = g.uniform(0.20, 0.30)
  leg = g.uniform(0.14, 0.26)
  tin = dict(gloss=0.7, patterned=1.0)
  y = leg * 2 + tall
  head_y = y + tall + head * 0.78 + 0.05
  b.box((0, y, 0), (wide, tall, wide * 0.7), c.main, edge=0.05, **tin)
  b.box(
    (0, head_y, 0),
    (head * 1.15, head * 0.78, head * 0.85),
    c.second,
    edge=0.05,
    gloss=0.7,
  )
  _robot_limbs(b, c, wide, tall, leg, y)
  b.ball(
    (0, head_y + head + 0.24, 0),
    (0.075,) * 3,
    [0.95, 0.25, 0.2],
    gloss=0.6,
    kept=True,
  )
  b.limb(
    (0, head_y + head * 0.7, 0),
    (0, head_y + head + 0.2, 0),
    0.028,
    STEEL,
    kept=True,
  )
  _robot_face(b, g.chance(0.35), head, head_y)
  b.decal(
    (0, y + tall * 0.15, wide * 0.7),
    (wide * 0.68, tall * 0.52, 0.1),
    PAPER * 0.85,
    box=1.0,
  )
  for i, tint in enumerate(
    ([0.9, 0.2, 0.2], [0.98, 0.8, 0.2], [0.25, 0.7, 0.35])
  ):
    b.decal(
      ((i - 1) * wide * 0.40, y + tall * 0.15, wide * 0.7),
      (wide * 0.15,) * 3,
      tint,
    )
  return dict(noun="robot", accent=np.full(b.n, "head"))


def _robot_limbs(b, c, wide, tall, leg, y):
  """Legs, feet, arms and claws."""
  for s in (-1, 1):
    b.box(
      (s * wide * 0.55, leg, 0), (0.10, leg, 0.11), STEEL, edge=0.03, gloss=0.8
    )
    b.box(
      (s * wide * 0.58, 0.07, 0.07),
      (0.14, 0.07, 0.20),
      c.main,
      edge=0.04,
      gloss=0.6,
      kept=True,
    )
    b.limb(
      (s * (wide + 0.06), y + tall * 0.6, 0),
      (s * (wide + 0.14), y - tall * 0.6, 0.12),
      0.07,
      STEEL,
      gloss=0.8,
      kept=True,
    )
    b.ball(
      (s * (wide + 0.15), y - tall * 0.8, 0.15),
      (0.11, 0.11, 0.11),
      c.second,
      gloss=0.6,
      kept=True,
    )


def _robot_face(b, visor, head, head_y):
  """Two lamps, or a visor across the face, and a mouth."""
  z = head * 0.85
  for s in (-1, 1):
    b.decal(
      (s * head * 0.48, head_y + head * 0.15, z),
      (head * 0.26, head * 0.26, 0.1),
      [0.98, 0.93, 0.45],
      when=~visor,
    )
    b.decal(
      (s * head * 0.48, head_y + head * 0.15, z),
      (head * 0.12, head * 0.12, 0.1),
      INK,
      when=~visor,
    )
  b.decal(
    (0, head_y + head * 0.15, z),
    (head * 0.85, head * 0.22, 0.1),
    [0.35, 0.9, 0.95],
    box=1.0,
    when=visor,
  )
  b.decal(
    (0, head_y - head * 0.40, z), (head * 0.5, head * 0.10, 0.1), INK, box=1.0
  )


def car(b, g, c):
  """A toy car, front to +z: four big wheels, cabin, headlights."""
  long = g.uniform(0.62, 0.80)
  wide = g.uniform(0.30, 0.40)
  high = g.uniform(0.13, 0.20)
  wheel = g.uniform(0.15, 0.24)
  cabin = g.uniform(0.14, 0.24)
  back = g.uniform(-0.30, 0.05)
  paint = dict(gloss=0.8, patterned=1.0)
  y = wheel + high * 0.9
  b.box((0, y, 0), (wide, high, long), c.main, edge=0.10, **paint)
  b.box(
    (0, y + high + cabin * 0.75, back * long),
    (wide * 0.82, cabin, long * 0.42),
    c.second,
    edge=0.10,
    gloss=0.8,
    smooth=0.04,
    kept=True,
  )
  for s in (-1, 1):
    for end in (-1, 1):
      b.cylinder(
        (s * (wide + 0.02), wheel, end * long * 0.60),
        wheel,
        0.09,
        INK + 0.04,
        axis=(1, 0, 0),
        edge=0.04,
        gloss=0.2,
        kept=True,
      )
  for end in (-1, 1):
    b.box(
      (0, wheel * 0.95, end * long),
      (wide * 0.92, 0.06, 0.06),
      STEEL,
      edge=0.03,
      gloss=0.9,
      kept=True,
    )
  spoiler = g.chance(0.4)
  b.box(
    (0, y + high + 0.17, -long * 0.9),
    (wide * 0.95, 0.03, 0.09),
    c.third,
    edge=0.02,
    when=spoiler,
    kept=True,
  )
  _car_windows(b, wide, long, cabin, y + high + cabin * 0.9, back)
  for s in (-1, 1):
    b.decal(
      (s * wide * 0.58, y + 0.02, long), (0.085, 0.085, 0.1), [1.0, 0.95, 0.65]
    )
    for end in (-1, 1):
      b.decal(
        (s * (wide + 0.11), wheel, end * long * 0.60),
        (0.04, wheel * 0.5, wheel * 0.5),
        c.third,
      )
  stripe = g.chance(0.4)
  b.decal(
    (0, y + high, long * 0.3),
    (wide * 0.22, 0.2, long),
    c.third,
    box=1.0,
    when=stripe,
  )
  return dict(noun="car", accent=np.full(b.n, "roof"))


def _car_windows(b, wide, long, cabin, y, back):
  """Side windows, and those in front and behind."""
  glass = np.array([0.62, 0.82, 0.93])
  b.decal(
    (0, y, back * long), (wide * 2, cabin * 0.52, long * 0.33), glass, box=1.0
  )
  b.decal(
    (0, y, back * long), (wide * 0.68, cabin * 0.52, long), glass, box=1.0
  )
