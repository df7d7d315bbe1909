# SPDX-License-Identifier: Apache-2.0
"""Things that stand on a shelf: candle and clock.

Each function builds a batch of one class into `Parts` from the subjects' own
random numbers. The front is +z, feet stand at y = 0.
"""

import numpy as np

from suti.world.palette import INK, PAPER
from suti.world.parts import turn


def candle(b, g, c):
  """A burning candle: pillar, candlestick, chamberstick or jar."""
  kind = g.choice(4)
  radius = g.uniform(0.22, 0.34)
  tall = g.uniform(0.34, 0.60)
  thin = kind == 1
  radius = np.where(thin, radius * 0.5, radius)
  radius = np.where(kind == 3, radius * 1.15, radius)
  tall = np.where(thin, tall * 0.9, np.where(kind == 3, tall * 0.8, tall))
  base = np.where(thin, 0.42, np.where(kind == 3, 0.0, 0.10))
  top = base + tall * 2
  wax = dict(patterned=1.0, gloss=0.2)
  b.cylinder((0, base + tall, 0), radius, tall, c.main, edge=0.035, **wax)
  # Drips of wax over the rim.
  for angle, fall in ((0.4, 0.20), (2.2, 0.12), (-1.2, 0.16)):
    x, z = radius * np.sin(angle), radius * np.cos(angle)
    b.ball(
      (x, top - fall * 0.6, z),
      (0.055, fall, 0.055),
      c.main,
      when=(kind < 3) & g.chance(0.7),
      smooth=0.04,
    )
  _flame(b, top)
  _candle_holder(b, c.second, kind, radius)
  _candle_jar(b, c, kind == 3, radius, tall)
  b.decal((0, top + 0.16, 0.0), (0.04, 0.09, 0.2), [1.0, 0.95, 0.7])
  return dict(
    noun="candle",
    accent=np.array(["base", "candlestick", "holder", "jar"])[kind],
  )


def _flame(b, top):
  """A flame of two balls that glow, and the wick below them."""
  b.ball(
    (0, top + 0.20, 0),
    (0.075, 0.15, 0.075),
    [1.0, 0.72, 0.20],
    emit=1.0,
    kept=True,
  )
  b.ball(
    (0, top + 0.32, 0),
    (0.032, 0.12, 0.032),
    [1.0, 0.80, 0.30],
    emit=1.0,
    smooth=0.06,
    kept=True,
  )
  b.limb((0, top - 0.02, 0), (0, top + 0.08, 0), 0.02, INK, kept=True)


def _candle_holder(b, colour, kind, radius):
  """A plate, a candlestick's stem and cup, a chamberstick's handle."""
  thin = kind == 1
  plate = np.where(thin, 0.34, np.where(kind == 2, 0.52, 0.40))
  holder = kind < 3
  b.cylinder(
    (0, 0.05, 0),
    plate,
    0.05,
    colour,
    taper=0.3,
    edge=0.02,
    when=holder,
    gloss=0.6,
    kept=True,
  )
  b.cylinder(
    (0, 0.24, 0),
    0.07,
    0.2,
    colour,
    edge=0.02,
    when=thin,
    gloss=0.6,
    smooth=0.06,
  )
  b.cylinder(
    (0, 0.42, 0),
    radius + 0.07,
    0.07,
    colour,
    taper=0.5,
    edge=0.02,
    when=thin,
    gloss=0.6,
    smooth=0.04,
  )
  b.torus(
    (plate + 0.10, 0.14, 0),
    0.10,
    0.032,
    colour,
    axis=(0, 0, 1),
    when=kind == 2,
    gloss=0.6,
    kept=True,
  )


def _candle_jar(b, c, when, radius, tall):
  """A glass jar around the wax, with a label."""
  b.cylinder(
    (0, tall * 1.05, 0),
    radius + 0.05,
    tall * 1.05,
    c.second,
    wall=0.025,
    edge=0.02,
    when=when,
    gloss=0.8,
  )
  b.decal(
    (0, tall, radius),
    (radius * 0.75, tall * 0.42, radius),
    PAPER,
    box=1.0,
    when=when,
  )
  b.decal(
    (0, tall, radius), (radius * 0.34, tall * 0.20, radius), c.main, when=when
  )


def clock(b, g, c):
  """A clock that faces the viewer: alarm clock with bells, or mantel clock."""
  kind = g.choice(3)  # alarm, square, arched
  radius = g.uniform(0.44, 0.56)
  deep = g.uniform(0.12, 0.20)
  lift = np.where(kind == 0, 0.14, 0.08)
  y = radius + lift + 0.03
  _clock_case(b, c.main, kind, radius, deep, y)
  face = np.where(g.chance(0.75)[:, None], PAPER, [[0.98, 0.93, 0.78]])
  b.cylinder(
    (0, y, deep),
    radius * 0.88,
    0.015,
    face,
    axis=(0, 0, 1),
    gloss=0.3,
    kept=True,
  )
  b.torus(
    (0, y, deep + 0.01),
    radius * 0.90,
    0.045,
    c.second,
    axis=(0, 0, 1),
    gloss=0.6,
    kept=True,
  )
  _bells(b, c.second, kind == 0, radius, y)
  b.box(
    (0, 0.05, 0),
    (radius + 0.18, 0.05, deep + 0.06),
    c.second,
    edge=0.03,
    when=kind > 0,
    kept=True,
  )
  _dial(b, g, c.second, radius, y, deep + 0.02)
  return dict(noun="clock", accent=np.array(["bells", "frame", "base"])[kind])


def _clock_case(b, colour, kind, radius, deep, y):
  """A round, a square or an arched case."""
  b.cylinder(
    (0, y, 0),
    radius + 0.04,
    deep,
    colour,
    axis=(0, 0, 1),
    edge=0.05,
    when=kind == 0,
    gloss=0.5,
    patterned=1.0,
  )
  b.box(
    (0, y, 0),
    (radius + 0.10, radius + 0.10, deep),
    colour,
    edge=0.06,
    when=kind == 1,
    gloss=0.4,
    patterned=1.0,
  )
  b.box(
    (0, y * 0.55, 0),
    (radius + 0.09, y * 0.55, deep),
    colour,
    edge=0.05,
    when=kind == 2,
    gloss=0.4,
    patterned=1.0,
  )
  b.cylinder(
    (0, y, 0),
    radius + 0.09,
    deep,
    colour,
    axis=(0, 0, 1),
    edge=0.05,
    when=kind == 2,
    gloss=0.4,
    patterned=1.0,
  )


def _bells(b, colour, when, radius, y):
  """What an alarm clock has: two bells, two feet and a handle."""
  for s in (-1, 1):
    b.ball(
      (s * radius * 0.62, y + radius * 0.95, 0),
      (0.20, 0.15, 0.17),
      colour,
      rotation=turn(b.n, z=-s * 0.6),
      when=when,
      gloss=0.8,
      kept=True,
    )
    b.limb(
      (s * radius * 0.5, 0.14, 0),
      (s * radius * 0.78, 0.05, 0),
      0.055,
      colour,
      when=when,
      kept=True,
    )
  b.torus(
    (0, y + radius + 0.16, 0),
    0.11,
    0.03,
    colour,
    axis=(0, 0, 1),
    when=when,
    kept=True,
  )


def _dial(b, g, colour, radius, y, z):
  """Marks of four hours, and hands at a random time."""
  for angle in (0.0, 0.5, 1.0, 1.5):
    a = angle * np.pi
    b.decal(
      (np.sin(a) * radius * 0.72, y + np.cos(a) * radius * 0.72, z),
      (0.05, 0.05, 0.03),
      colour * 0.8,
    )
  hour, minute = g.uniform(0, 6.283), g.uniform(0, 6.283)
  for angle, long, thick in ((hour, 0.20, 0.035), (minute, 0.29, 0.026)):
    b.decal(
      (
        np.sin(angle) * long * radius * 2 * 0.45,
        y + np.cos(angle) * long * radius * 2 * 0.45,
        z,
      ),
      (thick, long * radius * 2 * 0.5, 0.04),
      INK,
      rotation=turn(b.n, z=-angle),
      box=1.0,
    )
  b.decal((0, y, z), (0.055, 0.055, 0.05), colour)
