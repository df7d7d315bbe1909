# SPDX-License-Identifier: Apache-2.0
"""Things to wear or carry: backpack, sneaker, boot, glasses.

Each function builds a batch of one class into `Parts` from the subjects' own
random numbers. The front is +z, feet stand at y = 0.
"""

import numpy as np

from suti.world.palette import INK, PAPER
from suti.world.parts import turn


def backpack(b, g, c):
  """A school bag: body, flap, front pocket, side pockets, straps, a handle."""
  wide = g.uniform(0.38, 0.52)
  tall = g.uniform(0.50, 0.68)
  deep = g.uniform(0.20, 0.28)
  pocket = g.uniform(0.36, 0.52)
  cloth = dict(patterned=1.0, smooth=0.02, gloss=0.1)
  y = tall + 0.02
  b.box((0, y, 0), (wide, tall, deep), c.main, edge=0.14, **cloth)
  flap = g.choice(3)  # rounded top, straight flap, none
  b.ball(
    (0, y + tall * 0.72, 0.02),
    (wide * 0.99, tall * 0.42, deep * 1.08),
    c.main,
    when=flap == 0,
    patterned=1.0,
    smooth=0.06,
    gloss=0.1,
  )
  b.box(
    (0, y + tall * 0.62, deep * 0.55),
    (wide * 0.94, tall * 0.36, deep * 0.62),
    c.second,
    edge=0.08,
    when=flap == 1,
    smooth=0.01,
    gloss=0.1,
    kept=True,
  )
  b.box(
    (0, tall * pocket, deep + 0.06),
    (wide * 0.70, tall * pocket * 0.72, 0.12),
    c.second,
    edge=0.09,
    smooth=0.01,
    gloss=0.1,
    kept=True,
  )
  for s in (-1, 1):
    b.box(
      (s * (wide + 0.03), tall * 0.46, 0),
      (0.09, tall * 0.34, deep * 0.7),
      c.second,
      edge=0.07,
      when=g.chance(0.65),
      smooth=0.01,
      gloss=0.1,
      kept=True,
    )
  _backpack_straps(b, c.third, wide, tall, deep, y)
  b.decal(
    (0, tall * pocket * 1.35, deep + 0.18),
    (wide * 0.55, 0.022, 0.1),
    c.third,
    box=1.0,
  )
  b.decal(
    (0, y + tall * 0.42, deep),
    (wide * 0.80, 0.022, deep * 0.6),
    c.third,
    box=1.0,
    when=flap != 1,
  )
  at = (0, tall * pocket * 0.85, deep + 0.18)
  _backpack_badge(b, c.third, g.choice(3), at)
  return dict(noun="backpack", accent=np.full(b.n, "pocket"))


def _backpack_straps(b, colour, wide, tall, deep, y):
  """A loop to hang it by, and two shoulder straps."""
  b.torus(
    (0, y + tall + 0.04, -deep * 0.3),
    0.09,
    0.032,
    colour,
    axis=(0, 0, 1),
    stretch=(0.06, 0),
    kept=True,
  )
  for s in (-1, 1):
    b.torus(
      (s * wide * 0.62, y + 0.02, -deep - 0.06),
      0.10,
      0.05,
      colour,
      axis=(1, 0, 0),
      stretch=(0.0, tall * 0.62),
      kept=True,
    )


def _backpack_badge(b, colour, badge, at):
  """A disc, a diamond or nothing on the pocket."""
  b.decal(
    at,
    (0.13, 0.13, 0.1),
    colour,
    when=badge == 0,
  )
  b.decal(
    at,
    (0.11, 0.11, 0.1),
    colour,
    rotation=turn(b.n, z=0.785),
    box=1.0,
    when=badge == 1,
  )


def sneaker(b, g, c):
  """A sports shoe, toe to +z: thick sole, laces, a stripe on the side."""
  long = g.uniform(0.62, 0.78)
  wide = g.uniform(0.22, 0.28)
  sole = g.uniform(0.07, 0.12)
  ankle = g.uniform(0.0, 0.16)
  pale = np.where(g.chance(0.7)[:, None], PAPER, c.third)
  y = sole * 2
  cloth = dict(patterned=1.0, smooth=0.08, gloss=0.25)
  b.ball((0, y + 0.10, long * 0.55), (wide, 0.20, long * 0.44), c.main, **cloth)
  b.ball((0, y + 0.18, 0.0), (wide * 0.92, 0.27, long * 0.62), c.main, **cloth)
  b.ball(
    (0, y + 0.17, -long * 0.58),
    (wide * 0.92, 0.30, long * 0.36),
    c.second,
    smooth=0.03,
  )
  b.ball(
    (0, y + 0.02, long * 0.80),
    (wide * 0.86, 0.14, long * 0.20),
    pale,
    smooth=0.02,
    when=g.chance(0.6),
    kept=True,
  )
  b.solid(
    (0, sole, 0.0),
    (0.0, long * 0.66, sole),
    pale,
    corner=wide + 0.01,
    edge=0.05,
    rotation=turn(b.n, x=np.pi / 2),
    gloss=0.2,
    kept=True,
  )
  b.cylinder(
    (0, y + 0.24 + ankle * 0.5, -long * 0.44),
    wide * 0.88,
    0.16 + ankle * 0.5,
    c.main,
    axis=(0, 1, -0.18),
    patterned=1.0,
    smooth=0.10,
    edge=0.05,
  )
  top = y + 0.40 + ankle
  b.torus(
    (0, top - 0.01, -long * 0.46 - ankle * 0.1),
    wide * 0.72,
    0.055,
    c.second,
    axis=(0, 1, -0.18),
    kept=True,
  )
  b.box(
    (0, y + 0.46 + ankle * 0.7, -long * 0.14),
    (wide * 0.50, 0.13, 0.045),
    c.second,
    edge=0.04,
    rotation=turn(b.n, x=-0.35),
    kept=True,
  )
  lace = np.where(g.chance(0.6)[:, None], PAPER, c.third)
  _laces(b, lace, wide, long, y)
  b.decal((0, top + 0.06, -long * 0.46), (wide * 0.56, 0.10, wide * 0.56), INK)
  _sneaker_marks(b, c.third, g.choice(3), wide, y)
  return dict(noun="sneaker", accent=np.full(b.n, "heel"))


def _laces(b, colour, wide, long, y):
  """Three laces across the tongue."""
  for i in range(3):
    t = i / 2
    z = long * (0.36 - 0.34 * t)
    height = y + 0.315 + 0.115 * t
    b.limb(
      (-wide * 0.5, height, z),
      (wide * 0.5, height, z),
      0.028,
      colour,
      kept=True,
    )


def _sneaker_marks(b, colour, mark, wide, y):
  """A stripe, two bars or a disc on either side."""
  for s in (-1, 1):
    x = s * wide
    tilt = turn(b.n, x=0.6)
    b.decal(
      (x, y + 0.16, -0.05),
      (0.12, 0.035, 0.30),
      colour,
      rotation=tilt,
      box=1.0,
      when=mark == 0,
    )
    for shift in (-0.09, 0.09):
      b.decal(
        (x, y + 0.16, shift),
        (0.12, 0.20, 0.03),
        colour,
        rotation=tilt,
        box=1.0,
        when=mark == 1,
      )
    b.decal((x, y + 0.18, -0.05), (0.12, 0.10, 0.10), colour, when=mark == 2)


def boot(b, g, c):
  """A tall boot, toe to +z: shaft, heel, cuff, buckle or laces."""
  tall = g.uniform(0.42, 0.66)
  wide = g.uniform(0.20, 0.27)
  long = g.uniform(0.40, 0.54)
  flare = g.uniform(0.0, 0.16)
  heel = g.uniform(0.05, 0.16)
  leather = dict(patterned=1.0, smooth=0.09, gloss=0.45)
  y = 0.10 + heel * 0.6
  b.ball(
    (0, y + 0.15, long * 0.45),
    (wide * 0.98, 0.20, long * 0.62),
    c.main,
    **leather,
  )
  b.ball(
    (0, y + 0.16, -long * 0.25),
    (wide * 0.98, 0.22, wide * 1.25),
    c.main,
    **leather,
  )
  b.cylinder(
    (0, y + 0.10 + tall, -long * 0.25),
    wide * 0.95,
    tall,
    c.main,
    taper=flare,
    edge=0.03,
    **leather,
  )
  b.solid(
    (0, 0.05 + heel * 0.55, long * 0.16),
    (0.0, long * 0.62, 0.055),
    c.second * 0.85,
    corner=wide + 0.02,
    edge=0.03,
    rotation=turn(b.n, x=np.pi / 2 - heel * 0.35),
    kept=True,
  )
  b.box(
    (0, heel, -long * 0.36),
    (wide * 0.85, heel + 0.02, wide * 0.75),
    c.second * 0.85,
    edge=0.03,
    kept=True,
  )
  top = y + 0.10 + tall * 2
  cuff = g.choice(3)  # fur, band, plain
  radius = wide * 0.95 + flare * tall
  _boot_cuff(b, c.second, cuff, radius, flare, top, long)
  strap = g.choice(3)  # strap, laces, plain
  _boot_closure(b, c.third, strap, wide, long, y)
  b.decal(
    (0, top + 0.02, -long * 0.25), (radius * 0.78, 0.05, radius * 0.78), INK
  )
  b.decal(
    (0, y + 0.10, long * 0.95),
    (wide, 0.18, long * 0.22),
    c.second,
    when=g.chance(0.35),
  )
  for s in (-1, 1):
    b.decal(
      (s * wide, y + 0.40, -long * 0.2),
      (0.1, 0.07, 0.07),
      [0.95, 0.8, 0.35],
      box=1.0,
      when=strap == 0,
    )
  return dict(noun="boot", accent=np.full(b.n, "sole"))


def _boot_cuff(b, colour, cuff, radius, flare, top, long):
  """Fur or a band around the top of the shaft."""
  b.torus(
    (0, top - 0.04, -long * 0.25),
    radius * 0.92,
    0.10,
    colour,
    when=cuff == 0,
    gloss=0.05,
    kept=True,
  )
  b.cylinder(
    (0, top - 0.10, -long * 0.25),
    radius + 0.03,
    0.10,
    colour,
    taper=flare,
    edge=0.03,
    when=cuff == 1,
    kept=True,
  )


def _boot_closure(b, colour, strap, wide, long, y):
  """A strap around the ankle, or four laces."""
  b.torus(
    (0, y + 0.34, -long * 0.22),
    wide * 0.96,
    0.045,
    colour,
    axis=(0, 1, 0.3),
    when=strap == 0,
    kept=True,
  )
  for i in range(4):
    up = y + 0.34 + i * 0.15
    b.limb(
      (-wide * 0.5, up, -long * 0.25 + wide * 0.95),
      (wide * 0.5, up, -long * 0.25 + wide * 0.95),
      0.026,
      colour,
      when=strap == 1,
      kept=True,
    )


def glasses(b, g, c):
  """Thick-rimmed sunglasses that stand on the ground."""
  kind = g.choice(3)  # round, square, cat-eye
  wide = g.uniform(0.30, 0.38)
  rim = g.uniform(0.045, 0.075)
  gap = g.uniform(0.05, 0.10)
  high = np.where(kind == 0, wide, wide * g.uniform(0.62, 0.85))
  lens = np.where(
    g.chance(0.5)[:, None], INK + 0.08, np.array([[0.35, 0.55, 0.75]])
  )
  lens = np.where(g.chance(0.35)[:, None], c.third, lens)
  y = high + rim
  x = wide + gap
  square = kind > 0
  corner = np.where(square, high * 0.45, wide)
  stretch = (
    np.where(square, wide - corner, 0.0),
    np.where(square, high - corner, 0.0),
  )
  for s in (-1, 1):
    tilt = turn(b.n, z=np.where(kind == 2, s * 0.22, 0.0))
    b.torus(
      (s * x, y, 0),
      corner,
      rim,
      c.main,
      rotation=tilt,
      stretch=stretch,
      patterned=1.0,
      gloss=0.6,
    )
    b.solid(
      (s * x, y, 0),
      (*stretch, 0.032),
      lens,
      corner=corner,
      edge=0.02,
      rotation=tilt,
      gloss=0.9,
      kept=True,
    )
    b.limb(
      (s * (x + wide), y + high * 0.35, 0.0),
      (s * (x + wide + 0.02), y + high * 0.30, -0.85),
      rim * 0.85,
      c.second,
      patterned=0.0,
      gloss=0.5,
      kept=True,
    )
    b.limb(
      (s * (x + wide + 0.02), y + high * 0.30, -0.85),
      (s * (x + wide + 0.01), 0.06, -1.08),
      rim * 0.85,
      c.second,
      gloss=0.5,
      kept=True,
    )
  b.torus(
    (0, y + high * 0.10, 0),
    gap + rim * 0.7,
    rim * 0.8,
    c.main,
    axis=(0, 0, 1),
    gloss=0.6,
    kept=True,
  )
  return dict(noun="glasses", accent=np.full(b.n, "temples"))
