# SPDX-License-Identifier: Apache-2.0
"""Furry subjects: dog, cat and stuffed animal.

Each function builds a batch of one class into `Parts` from the subjects' own
random numbers. The front is +z, feet stand at y = 0. No templates here: what
a live subject wears is in `wardrobe.py`.
"""

import numpy as np

from suti.world.faces import DARK, EYE_BLUE, EYE_TINTS, NOSE_PINK, WHITE, face
from suti.world.parts import turn

# Surfaces, as keywords of `Parts`.
_DOG_FUR = dict(patterned=1.0, smooth=0.10, gloss=0.12)
_CAT_FUR = dict(patterned=1.0, smooth=0.09, gloss=0.12)
_PLUSH_SOFT = dict(patterned=1.0, smooth=0.03, gloss=0.04)
_PLUSH_PLAIN = dict(smooth=0.02, gloss=0.04)


def dog(b, g, c):
  """A standing dog; floppy or pointed ears, a muzzle, a tail that wags."""
  length = g.uniform(0.30, 0.50)
  thick = g.uniform(0.22, 0.31)
  leg = g.uniform(0.16, 0.42)
  head = g.uniform(0.27, 0.35)
  muzzle = g.uniform(0.12, 0.22)
  floppy = g.chance(0.55)
  ear = g.uniform(0.16, 0.32)
  tail = g.uniform(0.25, 0.5)
  curl = g.uniform(-0.1, 1.0)
  neck = g.uniform(0.10, 0.30)
  accent = g.choice(4)  # ears, muzzle, paws and chest, tail
  color = [np.where((accent == i)[:, None], c.second, c.main) for i in range(4)]
  body_y = leg + thick * 0.8
  head_y = body_y + thick * 0.55 + neck + head * 0.35
  head_z = length * 0.85 + head * 0.30

  snout_z = head_z + head * 0.72 + muzzle * 0.25
  body = b.ball(
    (0, body_y, 0), (thick, thick * 0.95, length + 0.1), c.main, **_DOG_FUR
  )
  chest = b.ball(
    (0, body_y + 0.03, length * 0.55),
    (thick * 0.98, thick * 1.08, thick * 0.95),
    color[2],
    **_DOG_FUR,
  )
  _dog_head(
    b,
    at=(0, head_y, head_z),
    snout_z=snout_z,
    head=head,
    muzzle=muzzle,
    ear=ear,
    floppy=floppy,
    colours=(c.main, color[1], color[0]),
  )
  paw = np.where((accent == 2)[:, None], c.second, c.main)
  for side in (-1, 1):
    for end in (-1, 1):
      _dog_leg(b, side * thick * 0.58, end * length * 0.72, body_y, thick, paw)
  _dog_tail(b, body_y + thick * 0.35, length, tail, curl, color[3])
  _dog_face(b, g, c.second, head, (0, head_y, head_z), snout_z + muzzle)
  anchors = dict(
    head=(0 * head, head_y, head_z),
    radius=head,
    body=[body, chest],
    neck=(
      0 * head,
      (head_y + body_y) / 2 + 0.06 * head,
      (head_z + length * 0.55) / 2 + 0.02,
    ),
    neck_radius=np.maximum(head * 0.72, thick * 0.85),
    neck_axis=(0.0, 1.0, 0.45),
    eye_spread=0.42,
    eye_high=0.22,
    eye_front=0.9,
    chest=(0 * head, body_y + 0.02, length * 0.55 + thick * 0.9),
    chest_size=thick,
  )
  words = np.array(["ears", "muzzle", "paws", "tail"])[accent]
  return dict(noun="dog", accent=words, anchors=anchors)


def _dog_head(b, *, at, snout_z, head, muzzle, ear, floppy, colours):
  """Skull, snout and two ears; `colours` are of these three, in order."""
  _, head_y, head_z = at
  fur, nose, ears = colours
  b.ball(
    (0, head_y, head_z),
    (head, head * 0.93, head * 0.92),
    fur,
    **_DOG_FUR,
    kept=False,
  )
  b.ball(
    (0, head_y - head * 0.28, snout_z),
    (head * 0.50, head * 0.38, muzzle + head * 0.25),
    nose,
    smooth=0.06,
    gloss=0.12,
    kept=True,
  )
  for side in (-1, 1):
    b.ball(
      (side * head * 0.98, head_y + head * 0.12 - ear * 0.35, head_z - 0.03),
      (0.075, ear * 1.05, 0.15),
      ears,
      rotation=turn(b.n, z=side * 0.28, x=0.1),
      when=floppy,
      smooth=0.02,
      gloss=0.1,
      kept=True,
    )
    b.cylinder(
      (side * head * 0.58, head_y + head * 0.75 + ear * 0.32, head_z - 0.03),
      0.085,
      ear * 0.75,
      ears,
      axis=(side * 0.35, 1, -0.05),
      taper=-0.34,
      edge=0.02,
      when=~floppy,
      smooth=0.03,
      gloss=0.1,
      kept=True,
    )


def _dog_leg(b, x, z, body_y, thick, paw):
  """One leg below the trunk."""
  b.limb(
    (x, body_y - thick * 0.3, z),
    (x, 0.085, z + 0.02),
    0.085 + thick * 0.05,
    paw,
    smooth=0.05,
    gloss=0.12,
    kept=True,
  )


def _dog_tail(b, root_y, length, tail, curl, colour):
  """A tail of length `tail`; `curl` lifts its end."""
  b.limb(
    (0, root_y, -length - 0.02),
    (0, root_y + tail * curl, -length - tail * (1.15 - 0.6 * curl)),
    0.075,
    colour,
    grow=-0.02,
    smooth=0.05,
    gloss=0.12,
    kept=True,
  )


def _dog_face(b, g, patch_colour, head, at, nose_z):
  """Eyes, a nose, and on some a patch around one eye."""
  _, head_y, head_z = at
  eye = np.where(g.chance(0.8)[:, None], DARK, EYE_BLUE)
  size = head * g.uniform(0.17, 0.22)
  patch = g.chance(0.35)
  side = np.where(g.chance(0.5), 1.0, -1.0)
  b.decal(
    (side * head * 0.42, head_y + head * 0.2, head_z + head * 0.8),
    (head * 0.36, head * 0.42, head * 0.5),
    patch_colour,
    when=patch,
  )
  face(
    b,
    at=at,
    radius=head,
    spread=0.42,
    size=size,
    eye=eye,
    high=0.22,
    front=0.84,
  )
  b.decal(
    (0, head_y - head * 0.10, nose_z + head * 0.12),
    (head * 0.21, head * 0.16, head * 0.28),
    DARK,
  )


def cat(b, g, c):
  """A sitting cat: triangle ears, green or amber eyes, a tail that curls up."""
  wide = g.uniform(0.27, 0.37)
  tall = g.uniform(0.34, 0.48)
  head = g.uniform(0.29, 0.37)
  ear = g.uniform(0.13, 0.24)
  tail = g.uniform(0.35, 0.75)
  side_tail = np.where(g.chance(0.5), 1.0, -1.0)
  accent = g.choice(4)  # ears, belly, paws, tail
  color = [np.where((accent == i)[:, None], c.second, c.main) for i in range(4)]
  head_y = tall * 1.65 + head * 0.55
  head_z = 0.14

  body = b.ball(
    (0, tall * 0.86, -0.03),
    (wide, tall * 0.95, wide * 1.05),
    c.main,
    **_CAT_FUR,
  )
  hips = [
    b.ball(
      (s * wide * 0.75, 0.20, 0.02),
      (wide * 0.55, 0.22, wide * 0.95),
      c.main,
      **_CAT_FUR,
    )
    for s in (-1, 1)
  ]
  _cat_head(b, c, head=head, ear=ear, at=(0, head_y, head_z), ears=color[0])
  g.unit(2)  # free
  for s in (-1, 1):
    b.limb(
      (s * wide * 0.42, tall * 0.9, wide * 0.72),
      (s * wide * 0.42, 0.09, wide * 1.05),
      0.095,
      color[2],
      smooth=0.05,
      gloss=0.12,
      kept=True,
    )
  _cat_tail(b, wide, tail, side_tail, color[3])
  eye = EYE_TINTS[g.choice(3)]
  b.decal(
    (0, tall * 0.95, wide * 0.9),
    (wide * 0.55, tall * 0.6, wide * 0.6),
    c.second,
    when=accent == 1,
  )
  face(
    b,
    at=(0, head_y, head_z),
    radius=head,
    spread=0.44,
    size=head * g.uniform(0.21, 0.26),
    eye=eye,
    pupil=DARK,
    high=0.10,
  )
  b.decal(
    (0, head_y - head * 0.20, head_z + head * 0.95),
    (head * 0.14, head * 0.10, head * 0.25),
    NOSE_PINK,
  )
  anchors = dict(
    head=(0 * head, head_y, np.full_like(head, head_z)),
    radius=head,
    body=[body, *hips],
    neck=(0 * head, tall * 1.58, np.full_like(head, 0.06)),
    neck_radius=np.maximum(wide * 0.8, head * 0.7),
    neck_axis=(0.0, 1.0, 0.15),
    eye_spread=0.44,
    eye_high=0.10,
    eye_front=0.9,
    chest=(0 * head, tall * 1.1, wide * 1.0),
    chest_size=wide,
  )
  words = np.array(["ears", "belly", "paws", "tail"])[accent]
  return dict(noun="cat", accent=words, anchors=anchors)


def _cat_head(b, c, *, head, ear, at, ears):
  """Skull, two cheeks and two triangular ears of colour `ears`."""
  _, head_y, head_z = at
  b.ball(
    (0, head_y, head_z),
    (head * 1.08, head * 0.90, head * 0.88),
    c.main,
    **_CAT_FUR,
  )
  for s in (-1, 1):
    b.ball(
      (s * head * 0.24, head_y - head * 0.34, head_z + head * 0.76),
      (head * 0.30, head * 0.23, head * 0.24),
      0.5 * c.second + 0.5 * WHITE,
      smooth=0.03,
      gloss=0.12,
      kept=True,
    )
  for s in (-1, 1):
    b.cylinder(
      (s * head * 0.68, head_y + head * 0.72 + ear * 0.35, head_z),
      0.085,
      ear * 0.8 + 0.03,
      ears,
      axis=(s * 0.42, 1, 0),
      taper=-0.085 / (ear * 0.8 + 0.03) * 0.95,
      edge=0.012,
      smooth=0.06,
      gloss=0.12,
      kept=True,
    )


def _cat_tail(b, wide, tail, side, colour):
  """A tail that lies on the ground beside the cat and turns upwards."""
  start = (side * wide * 0.5, 0.10, -wide * 0.8)
  bend = (side * (wide + 0.10), 0.12, -wide * 0.35)
  b.limb(start, bend, 0.07, colour, smooth=0.05, gloss=0.12)
  b.limb(
    bend,
    (side * (wide + 0.24), 0.14 + tail * 0.85, -wide * 0.35),
    0.07,
    colour,
    smooth=0.07,
    gloss=0.12,
    patterned=1.0,
    kept=True,
  )


def stuffed_animal(b, g, c):
  """A plush that sits with its soles to the viewer: bear, bunny or elephant."""
  kind = g.choice(4)  # bear, bunny, sloth-like, elephant
  fat = g.uniform(0.30, 0.40)
  head = g.uniform(0.31, 0.40)
  limb = g.uniform(0.10, 0.14)
  ear = g.uniform(0.11, 0.17)
  arm_up = g.uniform(-0.22, 0.16)
  head_y = fat * 1.75 + head * 0.62
  b.ball(
    (0, fat * 0.95, 0),
    (fat * 0.95, fat * 1.05, fat * 0.85),
    c.main,
    **_PLUSH_SOFT,
  )
  b.ball(
    (0, head_y, 0.03),
    (head * 1.05, head * 0.93, head * 0.9),
    c.main,
    **_PLUSH_SOFT,
  )
  b.ball(
    (0, head_y - head * 0.28, head * 0.80),
    (head * 0.46, head * 0.36, head * 0.34),
    c.second,
    **_PLUSH_PLAIN,
    kept=True,
  )
  _plush_ears(b, c.main, kind, head, ear, head_y)
  _plush_limbs(b, c, fat, limb, arm_up)
  b.limb(  # a trunk
    (0, head_y - head * 0.2, head * 0.85),
    (0, head_y - head * 1.0, head * 1.25),
    0.085,
    c.main,
    when=kind == 3,
    **_PLUSH_PLAIN,
    kept=True,
  )
  bow = g.chance(0.45)
  b.torus(
    (0, fat * 1.78, 0.02), fat * 0.66, 0.055, c.third, when=bow, gloss=0.3
  )
  b.decal(
    (0, fat * 0.95, fat * 0.8),
    (fat * 0.58, fat * 0.68, fat * 0.5),
    c.second,
    when=g.chance(0.6),
  )
  _plush_face(b, c, kind, head, ear, head_y)
  return dict(noun="stuffed animal", accent=np.full(b.n, "soles"))


def _plush_ears(b, colour, kind, head, ear, head_y):
  """Round, long or wide ears; the kinds share two slots."""
  for s in (-1, 1):
    slot = b.ball(
      (s * head * 0.82, head_y + head * 0.68, 0),
      (ear, ear, 0.08),
      colour,
      when=(kind == 0) | (kind == 2),
      **_PLUSH_PLAIN,
      kept=True,
    )
    b.ball(
      (s * head * 0.48, head_y + head * 0.80 + ear * 1.5, -0.02),
      (ear * 0.72, ear * 2.2, 0.08),
      colour,
      rotation=turn(b.n, z=-s * 0.18),
      when=kind == 1,
      slot=slot,
      **_PLUSH_PLAIN,
      kept=True,
    )
    b.ball(
      (s * head * 1.25, head_y + head * 0.08, -0.02),
      (ear * 1.9, ear * 2.2, 0.07),
      colour,
      when=kind == 3,
      slot=slot,
      **_PLUSH_PLAIN,
      kept=True,
    )


def _plush_limbs(b, c, fat, limb, arm_up):
  """Soles towards the viewer, legs and arms."""
  for s in (-1, 1):
    b.ball(  # soles, in the second colour
      (s * fat * 0.72, 0.15, fat * 1.18),
      (0.155, 0.165, 0.09),
      c.second,
      **_PLUSH_PLAIN,
      kept=True,
    )
  for s in (-1, 1):
    b.limb(
      (s * fat * 0.6, limb * 1.15, 0.1),
      (s * fat * 0.72, limb * 1.15, fat * 1.1),
      limb * 1.1,
      c.main,
      **_PLUSH_SOFT,
      kept=True,
    )
    b.limb(
      (s * fat * 0.78, fat * 1.4, 0.06),
      (s * (fat + 0.26), fat * 1.05 + arm_up, 0.20),
      limb,
      c.main,
      **_PLUSH_SOFT,
      kept=True,
    )


def _plush_face(b, c, kind, head, ear, head_y):
  """Eyes and a nose, and what a kind has besides: inner ears, eye patches."""
  for s in (-1, 1):
    b.decal(
      (s * head * 0.84, head_y + head * 0.70, 0.09),
      (ear * 0.6, ear * 0.6, 0.05),
      c.second,
      when=kind == 0,
    )
  patch = kind == 2
  for s in (-1, 1):
    b.decal(
      (s * head * 0.44, head_y + head * 0.08, head * 0.85),
      (head * 0.28, head * 0.20, head * 0.4),
      c.third * 0.45,
      rotation=turn(b.n, z=-s * 0.5),
      when=patch,
    )
  face(
    b,
    at=(0, head_y, 0.03),
    radius=head,
    spread=0.40,
    size=head * 0.145,
    eye=DARK,
    high=0.14,
  )
  b.decal(
    (0, head_y - head * 0.14, head * 1.08),
    (head * 0.17, head * 0.12, head * 0.25),
    DARK,
    when=kind != 3,
  )
