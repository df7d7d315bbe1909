# SPDX-License-Identifier: Apache-2.0
"""Vessels: bowl, can, teapot, vase.

Each function builds a batch of one class into `Parts` from the subjects' own
random numbers. The front is +z, feet stand at y = 0.
"""

import numpy as np

from suti.world.palette import INK, STEEL
from suti.world.parts import turn


def bowl(b, g, c):
  """A bowl with something in it: berries, rice, noodles or soup."""
  rim = g.uniform(0.52, 0.66)
  tall = g.uniform(0.22, 0.34)
  slope = g.uniform(0.30, 0.62)
  wall = 0.035
  y = tall + 0.07
  glaze = dict(patterned=1.0, gloss=0.5)
  b.ball(
    (0, y - tall * 0.35, 0),
    (rim - tall * slope * 0.9, tall * 0.78, rim - tall * slope * 0.9),
    c.main,
    patterned=1.0,
    gloss=0.5,
    smooth=0.04,
  )
  b.cylinder(
    (0, y, 0),
    rim - tall * slope,
    tall,
    c.main,
    taper=slope,
    wall=wall,
    edge=0.02,
    smooth=0.05,
    **glaze,
  )
  b.cylinder(
    (0, 0.06, 0), rim * 0.45, 0.06, c.second, edge=0.02, gloss=0.5, kept=True
  )
  b.torus((0, y + tall, 0), rim - wall, 0.04, c.second, gloss=0.5, kept=True)
  _food(b, g.choice(4), y + tall * 0.62, rim - wall * 2 - 0.02)
  return dict(noun="bowl", accent=np.full(b.n, "rim"))


def _food(b, food, level, inner):
  """Berries, rice, noodles or soup that fill a bowl of radius `inner`."""
  tint = np.array(
    [
      [0.72, 0.10, 0.16],
      [0.94, 0.91, 0.84],
      [0.93, 0.74, 0.34],
      [0.86, 0.36, 0.12],
    ]
  )[food]
  b.ball(
    (0, level, 0),
    (inner, np.where(food == 1, 0.24, 0.09), inner),
    tint,
    gloss=0.3,
  )
  berry = np.array([[0.85, 0.12, 0.18], [0.22, 0.24, 0.55]])
  spots = [
    (-0.24, 0.02, 0.18),
    (0.20, 0.03, 0.22),
    (0.02, 0.10, -0.05),
    (-0.20, 0.04, -0.22),
    (0.26, 0.03, -0.16),
  ]
  for i, (x, up, z) in enumerate(spots):
    b.ball(
      (x, level + 0.09 + up, z),
      (0.13, 0.125, 0.13),
      berry[i % 2],
      when=food == 0,
      gloss=0.6,
      kept=True,
    )
  for s in (-1, 1):
    b.limb(
      (0.12 + 0.05 * s, level + 0.05, 0),
      (0.62 + 0.06 * s, level + 0.45, -0.15),
      0.022,
      [0.45, 0.26, 0.14],
      when=food == 2,
      kept=True,
    )
  b.decal(
    (0.1, level + 0.1, 0.1),
    (0.16, 0.2, 0.10),
    [0.35, 0.65, 0.25],
    when=food == 3,
  )
  b.decal(
    (-0.2, level + 0.1, 0.12),
    (0.11, 0.2, 0.11),
    [0.98, 0.93, 0.80],
    when=(food == 3) | (food == 2),
  )


def can(b, g, c):
  """A drink can or a food tin: steel ends, a label with an emblem."""
  radius = g.uniform(0.27, 0.40)
  tall = g.uniform(0.42, 0.66)
  neck = g.chance(0.6)
  metal = dict(gloss=0.9)
  b.cylinder(
    (0, tall, 0),
    radius,
    tall * 0.90,
    c.main,
    edge=0.02,
    patterned=1.0,
    gloss=0.7,
  )
  top = np.where(neck, radius * 0.84, radius)
  b.cylinder(
    (0, tall * 1.92, 0),
    top,
    tall * 0.07,
    STEEL,
    edge=0.02,
    smooth=0.08,
    **metal,
    kept=True,
  )
  b.cylinder(
    (0, tall * 0.06, 0),
    top,
    tall * 0.06,
    STEEL,
    edge=0.02,
    smooth=0.08,
    **metal,
    kept=True,
  )
  b.torus((0, tall * 1.99, 0), top - 0.01, 0.02, STEEL, **metal, kept=True)
  b.torus(
    (0, tall * 2.0 + 0.01, 0.05),
    0.07,
    0.02,
    [0.55, 0.57, 0.6],
    **metal,
    when=neck,
    kept=True,
  )
  for s in (-1, 1):
    b.torus(
      (0, tall * (1 + 0.28 * s), 0), radius, 0.014, STEEL, when=~neck, **metal
    )
  _can_label(b, c, g.choice(3), radius, tall)
  return dict(noun="can", accent=np.full(b.n, "label"))


def _can_label(b, c, emblem, radius, tall):
  """Discs, bands or diamonds around the can."""
  for k, side in enumerate((0.0, 2.1, 4.2)):
    x, z = radius * np.sin(side), radius * np.cos(side)
    spin = turn(b.n, z=0.785)
    b.decal(
      (x, tall * 1.05, z),
      (radius * 0.55, tall * 0.36, radius * 0.55),
      c.second,
      when=emblem == 0,
    )
    b.decal(
      (x, tall * 1.05, z),
      (radius * 0.24, tall * 0.16, radius * 0.6),
      c.third,
      when=emblem == 0,
    )
    if k == 0:
      b.decal(
        (0, tall * 1.0, 0),
        (1, tall * 0.30, 1),
        c.second,
        box=1.0,
        when=emblem == 1,
      )
      b.decal(
        (0, tall * 1.0, 0),
        (1, tall * 0.10, 1),
        c.third,
        box=1.0,
        when=emblem == 1,
      )
    b.decal(
      (x, tall * 1.05, z),
      (radius * 0.42, radius * 0.42, radius * 0.5),
      c.second,
      box=1.0,
      rotation=spin,
      when=emblem == 2,
    )


def teapot(b, g, c):
  """A teapot in profile: spout to +x, handle to -x, lid with a knob."""
  radius = g.uniform(0.42, 0.52)
  tall = g.uniform(0.32, 0.46)
  knob = g.uniform(0.06, 0.10)
  spout = g.uniform(0.30, 0.42)
  foot = 0.05
  glaze = dict(patterned=1.0, gloss=0.7)
  y = tall + foot
  straight = g.chance(0.3)
  b.ball(
    (0, y, 0),
    (radius, tall, radius),
    c.main,
    when=~straight,
    smooth=0.03,
    **glaze,
  )
  b.cylinder(
    (0, y, 0),
    radius * 0.88,
    tall * 0.95,
    c.main,
    edge=0.09,
    taper=-0.18,
    when=straight,
    **glaze,
  )
  top = foot + tall * 1.93
  b.ball(
    (0, top - 0.04, 0),
    (radius * 0.58, 0.13, radius * 0.58),
    c.second,
    gloss=0.7,
    kept=True,
  )
  b.ball(
    (0, top + 0.09 + knob * 0.6, 0), (knob,) * 3, c.third, gloss=0.7, kept=True
  )
  b.cylinder((0, foot, 0), radius * 0.6, 0.05, c.second, edge=0.02, gloss=0.7)
  _teapot_spout(b, c.main, radius, tall, spout, y)
  _teapot_handle(b, c.second, g.chance(0.25), radius, tall, y, top)
  motif = g.choice(3)
  for s in (-1, 1):
    b.decal(
      (0, y, s * radius),
      (radius * 0.36, radius * 0.36, radius * 0.5),
      c.second,
      when=motif == 0,
    )
    b.decal(
      (0, y, s * radius),
      (radius * 0.16, radius * 0.16, radius * 0.6),
      c.third,
      when=motif == 0,
    )
  b.decal((0, y, 0), (2, tall * 0.14, 2), c.second, box=1.0, when=motif == 1)
  return dict(noun="teapot", accent=np.full(b.n, "lid"))


def _teapot_spout(b, colour, radius, tall, spout, y):
  """A spout that rises in a bend; `spout` is its length."""
  tip_y = y + tall * 0.75
  bend = (radius * 0.92 + spout * 0.42, y + tall * 0.02, 0)
  b.limb(
    (radius * 0.72, y - tall * 0.30, 0),
    bend,
    0.095,
    colour,
    grow=-0.03,
    smooth=0.07,
    gloss=0.7,
    kept=True,
  )
  b.limb(
    bend,
    (radius * 0.92 + spout * 0.75, tip_y + 0.02, 0),
    0.072,
    colour,
    grow=-0.02,
    smooth=0.05,
    gloss=0.7,
    kept=True,
  )


def _teapot_handle(b, colour, high, radius, tall, y, top):
  """A handle behind the pot, or a `high` one over the lid."""
  b.torus(
    (-radius * 1.02, y + 0.02, 0),
    tall * 0.40,
    0.055,
    colour,
    axis=(0, 0, 1),
    stretch=(0.06, tall * 0.2),
    when=~high,
    gloss=0.7,
    kept=True,
  )
  b.torus(
    (0, top + 0.05, 0),
    radius * 0.82,
    0.045,
    colour,
    axis=(0, 0, 1),
    when=high,
    gloss=0.5,
    kept=True,
  )


def vase(b, g, c):
  """A vase: foot, belly, neck and lip; some with handles or flowers."""
  belly = g.uniform(0.30, 0.44)
  tall = g.uniform(0.30, 0.46)
  neck = g.uniform(0.10, 0.20)
  neck_tall = g.uniform(0.12, 0.34)
  flare = g.uniform(0.1, 0.5)
  glaze = dict(patterned=1.0, gloss=0.6)
  y = 0.06 + tall
  tube = g.chance(0.25)
  b.ball(
    (0, y, 0), (belly, tall, belly), c.main, smooth=0.04, when=~tube, **glaze
  )
  b.cylinder(
    (0, y, 0),
    belly * 0.72,
    tall,
    c.main,
    taper=0.22,
    edge=0.05,
    when=tube,
    **glaze,
  )
  b.cylinder(
    (0, 0.05, 0),
    belly * 0.58,
    0.05,
    c.second,
    taper=-0.5,
    edge=0.02,
    gloss=0.6,
    smooth=0.03,
    kept=True,
  )
  top = 0.06 + tall * 1.8 + neck_tall * 2
  b.cylinder(
    (0, top - neck_tall, 0),
    neck + flare * neck_tall * 0.4,
    neck_tall + 0.03,
    c.main,
    taper=flare,
    edge=0.02,
    smooth=0.12,
    **glaze,
  )
  lip = neck + flare * neck_tall * 1.4
  b.torus((0, top, 0), lip, 0.04, c.second, gloss=0.6, kept=True)
  handles = g.chance(0.4)
  for s in (-1, 1):
    b.torus(
      (s * (belly * 0.62 + 0.05), y + tall * 0.72 + neck_tall * 0.4, 0),
      0.14,
      0.04,
      c.second,
      axis=(0, 0, 1),
      stretch=(0.0, neck_tall * 0.3),
      when=handles,
      gloss=0.6,
      kept=True,
    )
  flowers = g.chance(0.4)
  _flowers(b, g, flowers, top)
  b.decal(
    (0, top + 0.05, 0), (lip * 0.85, 0.06, lip * 0.85), INK, when=~flowers
  )
  b.decal(
    (0, y, 0), (2, tall * 0.16, 2), c.second, box=1.0, when=g.chance(0.35)
  )
  b.decal(
    (0, y + tall * 0.3, 0),
    (2, tall * 0.05, 2),
    c.third,
    box=1.0,
    when=g.chance(0.3),
  )
  return dict(noun="vase", accent=np.full(b.n, "lip"))


def _flowers(b, g, when, top):
  """Three flowers on their stems; each draws its own colour."""
  tint = np.array(
    [
      [0.95, 0.35, 0.42],
      [0.99, 0.82, 0.25],
      [0.96, 0.96, 0.97],
      [0.66, 0.42, 0.86],
    ]
  )
  for x, up, z in ((-0.2, 0.34, 0.05), (0.22, 0.3, 0.02), (0.02, 0.46, -0.05)):
    b.limb(
      (x * 0.2, top - 0.1, 0),
      (x, top + up, z),
      0.024,
      [0.25, 0.52, 0.22],
      when=when,
    )
    b.ball(
      (x, top + up, z),
      (0.135, 0.115, 0.135),
      tint[g.choice(4)],
      when=when,
      gloss=0.1,
      kept=True,
    )
