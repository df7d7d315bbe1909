# SPDX-License-Identifier: Apache-2.0
"""What live subjects wear: hats, outfits, a scarf, glasses, a shirt.

Each accessory is built, in numpy, into part and decal slots that the dog and
the cat leave free.

Shape legend: n subjects.
"""

import numpy as np

from suti.world.faces import DARK
from suti.world.parts import NUM_DECALS, NUM_PARTS, NUM_ROUND, Parts, turn

RED = np.array([0.86, 0.10, 0.10])
PINK = np.array([1.0, 0.40, 0.66])
YELLOW = np.array([0.99, 0.82, 0.12])
GOLD = np.array([0.97, 0.78, 0.25])
NAVY = np.array([0.10, 0.14, 0.36])
PURPLE = np.array([0.47, 0.17, 0.72])
BLACK = np.array([0.09, 0.09, 0.10])
FUR_WHITE = np.array([0.97, 0.97, 0.96])


class _Fitting:
  """Adds parts to finished subjects, on the axes of their head."""

  def __init__(self, arrays, subjects):
    self.n = len(subjects.kept)
    self.parts = Parts(self.n)
    self.parts.arrays = arrays
    self.anchors = subjects.anchors
    free = subjects.free
    self._round = list(range(free["round"], NUM_ROUND))
    self._solid = list(range(free["solid"], NUM_PARTS))
    self._decal = list(range(free["decal"], NUM_DECALS))

  def at(self, x, y, z, *, base="head"):
    """A place in units of the head's radius from an anchor."""
    point = self.anchors[base]
    radius = self.anchors["radius"]
    return (
      point[:, 0] + x * radius,
      point[:, 1] + y * radius,
      point[:, 2] + z * radius,
    )

  def ball(self, at, size, colour, **kw):
    r = self.anchors["radius"]
    self.parts.ball(
      at, [s * r for s in size], colour, slot=self._round.pop(0), **kw
    )

  def cylinder(self, at, radius, height, colour, **kw):
    r = self.anchors["radius"]
    kw.setdefault("edge", 0.03)
    kw["edge"] = kw["edge"] * r
    self.parts.cylinder(
      at, radius * r, height * r, colour, slot=self._solid.pop(0), **kw
    )

  def torus(self, at, radius, thickness, colour, **kw):
    r = self.anchors["radius"]
    self.parts.torus(
      at, radius * r, thickness * r, colour, slot=self._solid.pop(0), **kw
    )

  def limb(self, start, end, radius, colour, **kw):
    r = self.anchors["radius"]
    self.parts.limb(
      start, end, radius * r, colour, slot=self._solid.pop(0), **kw
    )

  def decal(self, at, size, colour, **kw):
    r = self.anchors["radius"]
    self.parts.decal(
      at, [s * r for s in size], colour, slot=self._decal.pop(0), **kw
    )

  def clothe(self, colour, *, grow=1.05):
    """Dresses the trunk: a plain colour, a little wider."""
    a = self.parts.arrays
    for part in self.anchors["body"]:
      a["colour"][:, part] = colour
      a["patterned"][:, part] = 0.0
      a["smooth"][:, part] = 0.03
      a["gloss"][:, part] = 0.15
      a["round_size"][:, part] *= grow

  def chest(self, x, y, size, colour, **kw):
    """A mark on the chest, in units of the chest's size."""
    point, s = self.anchors["chest"], self.anchors["chest_size"]
    self.parts.decal(
      (point[:, 0] + x * s, point[:, 1] + y * s, point[:, 2]),
      (size[0] * s, size[1] * s, 0.6 * s),
      colour,
      slot=self._decal.pop(0),
      **kw,
    )


_TILT = (0.10, 1.0, -0.12)


def _red_hat(f):
  """A wide-brimmed red hat with a dark band."""
  f.cylinder(f.at(0, 0.78, -0.08), 1.18, 0.05, RED, axis=_TILT, kept=True)
  f.cylinder(
    f.at(0.04, 1.10, -0.12),
    0.66,
    0.36,
    RED,
    axis=_TILT,
    taper=-0.15,
    edge=0.12,
    kept=True,
  )
  f.cylinder(
    f.at(0.015, 0.90, -0.09), 0.72, 0.09, RED * 0.45, axis=_TILT, kept=True
  )


def _santa_hat(f):
  """A red cone that flops over, white fur and a white bobble."""
  f.torus(
    f.at(0, 0.70, -0.05),
    0.66,
    0.19,
    FUR_WHITE,
    axis=_TILT,
    gloss=0.02,
    kept=True,
  )
  f.cylinder(
    f.at(0.06, 1.22, -0.12),
    0.44,
    0.55,
    RED,
    axis=(0.22, 1, -0.1),
    taper=-0.42,
    edge=0.05,
    gloss=0.05,
    kept=True,
  )
  f.limb(
    f.at(0.20, 1.60, -0.16),
    f.at(0.62, 1.45, -0.02),
    0.21,
    RED,
    gloss=0.05,
    smooth=0.02,
    kept=True,
  )
  f.ball(
    f.at(0.80, 1.30, 0.02), (0.24, 0.24, 0.24), FUR_WHITE, gloss=0.02, kept=True
  )


def _rainbow_scarf(f):
  """A thick striped scarf with one end hanging down."""
  a = f.anchors
  neck, radius = a["neck"], a["neck_radius"]
  at = tuple(neck.T)
  slot = f._solid.pop(0)
  f.parts.torus(
    at,
    radius * 0.92,
    0.26 * a["radius"],
    RED,
    axis=a["neck_axis"],
    rainbow=1.0,
    gloss=0.03,
    slot=slot,
    kept=True,
  )
  start = (
    neck[:, 0] + 0.35 * radius,
    neck[:, 1] - 0.05,
    neck[:, 2] + radius * 1.02,
  )
  end = (
    neck[:, 0] + 0.42 * radius,
    neck[:, 1] - 1.25 * a["radius"],
    neck[:, 2] + radius * 1.22,
  )
  f.limb(start, end, 0.22, RED, rainbow=1.0, gloss=0.03, kept=True)


def _top_hat(f):
  """A tall black hat with a grey band, and a gold monocle."""
  f.cylinder(f.at(0, 0.80, -0.08), 1.02, 0.055, BLACK, gloss=0.5, kept=True)
  f.cylinder(
    f.at(0, 1.45, -0.08), 0.64, 0.66, BLACK, taper=0.08, gloss=0.5, kept=True
  )
  a = f.anchors
  x, y = a["eye_spread"], a["eye_high"]
  f.torus(
    f.at(x, y, a["eye_front"] + 0.06),
    0.30,
    0.055,
    GOLD,
    axis=(0.25, 0, 1),
    gloss=0.9,
    kept=True,
  )
  f.decal(f.at(0, 0.98, 0), (1.0, 0.11, 1.0), [0.75, 0.12, 0.16], box=1.0)
  f.decal(f.at(x, y, a["eye_front"]), (0.001, 0.001, 0.001), DARK)


def _chef(f):
  """A puffy white toque, a white jacket with buttons, a red neckerchief."""
  f.clothe(FUR_WHITE)
  f.cylinder(
    f.at(0, 0.98, -0.06),
    0.64,
    0.36,
    FUR_WHITE,
    taper=0.05,
    gloss=0.05,
    kept=True,
  )
  f.ball(
    f.at(0, 1.50, -0.06),
    (0.95, 0.42, 0.92),
    FUR_WHITE,
    gloss=0.05,
    smooth=0.03,
    kept=True,
  )
  a = f.anchors
  f.parts.torus(
    tuple(a["neck"].T),
    a["neck_radius"] * 0.85,
    0.14 * a["radius"],
    RED,
    axis=a["neck_axis"],
    slot=f._solid.pop(0),
    kept=True,
  )
  for y in (0.12, -0.30):
    f.chest(0.22, y, (0.10, 0.10), DARK)
    f.chest(-0.22, y, (0.10, 0.10), DARK)


def _firefighter(f):
  """A red helmet with a gold shield, a dark coat with yellow bands."""
  f.clothe([0.17, 0.16, 0.17])
  f.ball(f.at(0, 0.66, -0.08), (0.92, 0.72, 0.95), RED, gloss=0.8, kept=True)
  f.cylinder(
    f.at(0, 0.62, -0.12),
    1.20,
    0.05,
    RED,
    axis=(0, 1, 0.10),
    gloss=0.8,
    kept=True,
  )
  f.ball(f.at(0, 1.0, 0.62), (0.26, 0.32, 0.14), GOLD, gloss=0.8, kept=True)
  a = f.anchors
  s = a["chest_size"]
  for dy in (0.30, -0.28):
    f.parts.decal(
      (a["chest"][:, 0], a["chest"][:, 1] + dy * s, a["chest"][:, 2] - 0.7 * s),
      (2.2 * s, 0.12 * s, 2.4 * s),
      [0.92, 0.93, 0.20],
      box=1.0,
      slot=f._decal.pop(0),
    )


def _police(f):
  """A navy peaked cap with a gold badge, a navy uniform with a gold star."""
  f.clothe(NAVY)
  f.cylinder(
    f.at(0, 0.86, -0.06),
    0.74,
    0.20,
    NAVY,
    axis=(0, 1, 0.15),
    gloss=0.3,
    kept=True,
  )
  f.cylinder(
    f.at(0, 1.14, -0.04),
    1.0,
    0.14,
    NAVY,
    axis=(0, 1, 0.22),
    taper=0.4,
    gloss=0.3,
    kept=True,
  )
  f.ball(
    f.at(0, 0.72, 0.70),
    (0.62, 0.06, 0.40),
    BLACK,
    rotation=turn(f.n, x=0.3),
    gloss=0.9,
    kept=True,
  )
  f.decal(f.at(0, 1.08, 0.95), (0.22, 0.26, 0.5), GOLD)
  f.chest(0.35, 0.15, (0.22, 0.22), GOLD, rotation=turn(f.n, z=0.785), box=1.0)
  f.chest(0.0, -0.30, (0.09, 0.35), [0.05, 0.06, 0.10], box=1.0)


def _pink_glasses(f):
  """Large round pink glasses."""
  a = f.anchors
  x, y, z = a["eye_spread"] * 1.08, a["eye_high"], a["eye_front"] + 0.10
  for s in (-1, 1):
    f.torus(
      f.at(s * x, y, z),
      0.36,
      0.085,
      PINK,
      axis=(s * 0.28, 0, 1),
      gloss=0.7,
      kept=True,
    )
  f.limb(
    f.at(-0.12, y + 0.05, z + 0.10),
    f.at(0.12, y + 0.05, z + 0.10),
    0.08,
    PINK,
    gloss=0.7,
    kept=True,
  )


def _yellow_shirt(f):
  """A yellow shirt with a collar."""
  f.clothe(YELLOW, grow=1.07)
  a = f.anchors
  f.parts.torus(
    tuple(a["neck"].T),
    a["neck_radius"] * 0.82,
    0.12 * a["radius"],
    YELLOW * 0.93,
    axis=a["neck_axis"],
    slot=f._solid.pop(0),
    kept=True,
  )
  for y in (0.25, -0.10, -0.45):
    f.chest(0.0, y, (0.08, 0.08), FUR_WHITE)


def _wizard(f):
  """A tall pointed purple hat with stars, a purple robe with a gold star."""
  f.clothe(PURPLE, grow=1.08)
  f.cylinder(
    f.at(0, 0.74, -0.06), 1.22, 0.05, PURPLE, axis=_TILT, gloss=0.1, kept=True
  )
  f.cylinder(
    f.at(0.09, 1.55, -0.16),
    0.40,
    0.86,
    PURPLE,
    axis=_TILT,
    taper=-0.42,
    edge=0.03,
    gloss=0.1,
    kept=True,
  )
  f.torus(
    f.at(0.01, 0.84, -0.07), 0.66, 0.07, GOLD, axis=_TILT, gloss=0.7, kept=True
  )
  spin = turn(f.n, z=0.5)
  f.decal(
    f.at(-0.16, 1.22, 0.5), (0.15, 0.15, 0.5), GOLD, rotation=spin, box=1.0
  )
  f.decal(
    f.at(0.20, 1.60, 0.3), (0.12, 0.12, 0.5), GOLD, rotation=spin, box=1.0
  )
  f.chest(0.0, -0.05, (0.24, 0.24), GOLD, rotation=turn(f.n, z=0.785), box=1.0)


WARDROBE = {
  "red hat": _red_hat,
  "santa hat": _santa_hat,
  "rainbow scarf": _rainbow_scarf,
  "top hat": _top_hat,
  "chef": _chef,
  "firefighter": _firefighter,
  "police": _police,
  "pink glasses": _pink_glasses,
  "yellow shirt": _yellow_shirt,
  "wizard": _wizard,
}


def dress(arrays, subjects, wardrobe: str):
  """Puts on a key of WARDROBE, in place.

  Args:
    arrays: of the subjects, to be changed.
    subjects: `subjects.Subjects` with anchors, for places and free slots.
    wardrobe: what to wear.
  """
  WARDROBE[wardrobe](_Fitting(arrays, subjects))
