# SPDX-License-Identifier: Apache-2.0
"""Cartoons: a rubber-hose character.

Builds a batch into `Parts` from the subjects' own random numbers. The front is
+z, feet stand at y = 0.
"""

import numpy as np

from suti.world.faces import DARK, WHITE


def cartoon(b, g, c):
  """A rubber-hose character: one big body, huge eyes, thin limbs, gloves."""
  wide = g.uniform(0.34, 0.46)
  tall = g.uniform(0.38, 0.60)
  leg = g.uniform(0.18, 0.34)
  top = g.choice(4)  # horns, antenna, sprout, cap
  square = g.chance(0.35)
  eye = g.uniform(0.16, 0.22) * np.minimum(wide, tall) / 0.42
  arm = g.uniform(-0.25, 0.45)
  y = leg + tall
  soft = dict(patterned=1.0, smooth=0.02, gloss=0.35)
  b.ball((0, y, 0), (wide, tall, wide * 0.85), c.main, when=~square, **soft)
  b.box(
    (0, y, 0),
    (wide * 0.92, tall * 0.92, wide * 0.62),
    c.main,
    edge=0.14,
    when=square,
    **soft,
  )
  front = np.where(square, wide * 0.62, wide * 0.80)
  head_y = y + tall * 0.28
  for s in (-1, 1):
    b.ball(
      (s * eye * 0.98, head_y, front * 0.92),
      (eye, eye * 1.25, eye * 0.6),
      WHITE,
      gloss=0.6,
      kept=True,
    )
  _cartoon_limbs(b, c, wide, tall, leg, arm)
  up = y + tall * 0.93
  _cartoon_top(b, c, top, wide, up)
  for s in (-1, 1):
    b.decal(
      (s * eye * 0.80, head_y - eye * 0.1, front + eye * 0.5),
      (eye * 0.42, eye * 0.58, eye),
      DARK,
    )
    b.decal(
      (s * eye * 0.80 + eye * 0.15, head_y + eye * 0.2, front + eye * 0.5),
      (eye * 0.16, eye * 0.18, eye),
      WHITE,
    )
  _cartoon_mouth(b, c.main, g.choice(3), wide, tall, y - tall * 0.30, front)
  return dict(
    noun="cartoon", accent=np.array(["horns", "shoes", "sprout", "cap"])[top]
  )


def _cartoon_limbs(b, c, wide, tall, leg, arm):
  """Shoes and gloves at the ends of thin legs and arms."""
  y = leg + tall
  for s in (-1, 1):
    b.ball(
      (s * 0.17, 0.085, 0.09),
      (0.13, 0.10, 0.21),
      c.second,
      gloss=0.4,
      kept=True,
    )
    b.ball(
      (s * (wide + 0.30), y - 0.05 + arm, 0.10),
      (0.12, 0.12, 0.11),
      WHITE,
      gloss=0.2,
      kept=True,
    )
  for s in (-1, 1):
    b.limb(
      (s * 0.17, leg + tall * 0.25, 0),
      (s * 0.17, 0.1, 0.0),
      0.05,
      DARK,
      kept=True,
    )
    b.limb(
      (s * wide * 0.85, y - 0.05, 0),
      (s * (wide + 0.27), y - 0.05 + arm, 0.09),
      0.05,
      DARK,
      kept=True,
    )


def _cartoon_top(b, c, top, wide, up):
  """What grows on the head; horns, antenna and sprout share two slots."""
  for s in (-1, 1):
    slot = b.cylinder(
      (s * wide * 0.5, up + 0.06, 0),
      0.09,
      0.17,
      c.second,
      axis=(s * 0.5, 1, 0),
      taper=-0.48,
      when=top == 0,
      gloss=0.3,
      kept=True,
    )
    b.limb(
      (s * 0.06, up, 0),
      (s * 0.22, up + 0.26, 0),
      0.035,
      DARK,
      when=top == 1,
      slot=slot,
      kept=True,
    )
    b.limb(
      (0, up, 0),
      (s * 0.19, up + 0.22, 0),
      0.06,
      c.second,
      grow=0.04,
      when=top == 2,
      slot=slot,
      kept=True,
    )
  b.cylinder(
    (0, up + 0.02, 0),
    wide * 0.62,
    0.12,
    c.second,
    taper=-0.35,
    edge=0.05,
    when=top == 3,
    kept=True,
  )
  b.cylinder(
    (0, up - 0.07, wide * 0.3),
    wide * 0.66,
    0.025,
    c.second * 0.8,
    edge=0.02,
    when=top == 3,
    kept=True,
  )
  for s in (-1, 1):
    b.ball(
      (s * 0.22, up + 0.28, 0),
      (0.07, 0.07, 0.07),
      c.second,
      when=top == 1,
      kept=True,
    )


def _cartoon_mouth(b, colour, smile, wide, tall, y, front):
  """A smile, an open mouth with a tongue, or a line."""
  b.decal(
    (0, y, front),
    (wide * 0.42, tall * 0.20, wide * 0.6),
    DARK,
    when=smile < 2,
  )
  b.decal(
    (0, y + tall * 0.11, front),
    (wide * 0.50, tall * 0.15, wide * 0.65),
    colour,
    when=smile == 0,
  )
  b.decal(
    (0, y - tall * 0.08, front),
    (wide * 0.22, tall * 0.10, wide * 0.6),
    [0.93, 0.40, 0.42],
    when=smile == 1,
  )
  b.decal(
    (0, y, front),
    (wide * 0.40, 0.035, wide * 0.6),
    DARK,
    when=smile == 2,
    box=1.0,
  )
