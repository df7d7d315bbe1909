# SPDX-License-Identifier: Apache-2.0
"""The parts a subject is built of, as arrays of one fixed shape.

Every subject is NUM_ROUND ellipsoids, NUM_SOLID solids (one formula that is a
box, cylinder, cone, tube, torus or capsule, after the "uberprim" idea known
from shader programming) and NUM_DECALS colour marks, so that one compiled
program draws all classes. Parts that a subject does not need are parked far
below the ground. Plain numpy, vectorised over subjects; the distance functions
are in `sdf.py`.

Shape legend: n subjects, R round parts, U solids, D decals, P = R + U parts.
"""

import numpy as np
from numpy.typing import ArrayLike

NUM_ROUND = 9
NUM_SOLID = 10
NUM_PARTS = NUM_ROUND + NUM_SOLID
NUM_DECALS = 12
_PARKED = (0.0, -60.0, 0.0)
_SOLID_WALL = 10.0  # a wall thicker than any part: not hollow

PATTERNS = ("plain", "striped", "spotted", "patchy", "two-tone", "banded")


def vec(*values, n=None):
  """Stacks numbers or (n,) arrays to (n, len(values))."""
  arrays = [np.asarray(v, np.float64) for v in values]
  n = n or max((a.shape[0] for a in arrays if a.ndim), default=1)
  return np.stack([np.broadcast_to(a, (n,)) for a in arrays], -1)


def turn(
  n, *, x: ArrayLike = 0.0, y: ArrayLike = 0.0, z: ArrayLike = 0.0
) -> np.ndarray:
  """Rotation matrices Rz @ Ry @ Rx from angles in radians, (n, 3, 3)."""
  out = np.broadcast_to(np.eye(3), (n, 3, 3))
  for axis, angle in ((0, x), (1, y), (2, z)):
    angle_n = np.broadcast_to(np.asarray(angle, np.float64), (n,))
    c, s = np.cos(angle_n), np.sin(angle_n)
    m = np.zeros((n, 3, 3))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    m[:, axis, axis] = 1
    m[:, i, i], m[:, j, j], m[:, i, j], m[:, j, i] = c, c, -s, s
    out = m @ out
  return out


def frame(axis_n3):
  """A rotation whose third column is `axis`, (n, 3, 3)."""
  axis = axis_n3 / np.linalg.norm(axis_n3, axis=-1, keepdims=True)
  helper = np.where(
    np.abs(axis[:, 1:2]) < 0.9, np.array([[0.0, 1, 0]]), [[0.0, 0, 1]]
  )
  side = np.cross(helper, axis)
  side /= np.linalg.norm(side, axis=-1, keepdims=True)
  return np.stack([side, np.cross(axis, side), axis], -1)


class Parts:
  """A batch of subjects under construction.

  The front of a subject is +z, up is +y, its feet are at y = 0. Numbers may be
  scalars or (n,) arrays; `when` is a bool (n,) array that parks the part where
  it is False. Colours are (3,) or (n, 3).
  """

  def __init__(self, n: int):
    self.n = n
    self.num_round = self.num_solid = self.num_decals = 0
    eye = np.eye(3)
    self.arrays = {
      "round_at": np.tile(np.array(_PARKED), (n, NUM_ROUND, 1)),
      "round_turn": np.tile(eye, (n, NUM_ROUND, 1, 1)),
      "round_size": np.full((n, NUM_ROUND, 3), 0.1),
      "solid_at": np.tile(np.array(_PARKED), (n, NUM_SOLID, 1)),
      "solid_turn": np.tile(eye, (n, NUM_SOLID, 1, 1)),
      # half x, half y, corner, taper, wall, edge, half z
      "solid_size": np.tile(
        np.array([0.05, 0.05, 0.01, 0, _SOLID_WALL, 0.01, 0.05]),
        (n, NUM_SOLID, 1),
      ),
      "smooth": np.full((n, NUM_PARTS), 0.01),
      "colour": np.full((n, NUM_PARTS, 3), 0.5),
      "patterned": np.zeros((n, NUM_PARTS)),
      "rainbow": np.zeros((n, NUM_PARTS)),
      "emit": np.zeros((n, NUM_PARTS)),
      "gloss": np.full((n, NUM_PARTS), 0.25),
      "decal_at": np.tile(np.array(_PARKED), (n, NUM_DECALS, 1)),
      "decal_turn": np.tile(eye, (n, NUM_DECALS, 1, 1)),
      "decal_size": np.full((n, NUM_DECALS, 3), 0.1),
      "decal_box": np.zeros((n, NUM_DECALS)),
      "decal_colour": np.full((n, NUM_DECALS, 3), 0.5),
      "pattern": np.zeros((n, len(PATTERNS))),
      "pattern_axis": np.tile(np.array([0.0, 1, 0]), (n, 1)),
      "pattern_scale": np.full((n,), 6.0),
      "pattern_phase": np.zeros((n, 3)),
      "pattern_colour": np.full((n, 3), 0.9),
    }
    # Which parts a cube shaped subject keeps (ears, handles, ...), see
    # `looks.alter`.
    self.kept = np.zeros((n, NUM_PARTS), bool)
    # Independent of `when`: slots must not depend on the batch.
    self.may_be_kept = np.zeros(NUM_PARTS, bool)

  def _set(self, part, when, *, at, rotation, size, prefix, index):
    a = self.arrays
    when = np.broadcast_to(when, (self.n,))
    a[prefix + "_at"][when, index] = np.broadcast_to(at, (self.n, 3))[when]
    a[prefix + "_turn"][when, index] = np.broadcast_to(
      rotation, (self.n, 3, 3)
    )[when]
    a[prefix + "_size"][when, index] = size[when]
    return part

  def _paint(
    self, part, when, colour, patterned, smooth, gloss, emit, rainbow, kept
  ):
    a = self.arrays
    when = np.broadcast_to(when, (self.n,))
    a["colour"][when, part] = np.broadcast_to(colour, (self.n, 3))[when]
    for name, value in (
      ("patterned", patterned),
      ("smooth", smooth),
      ("gloss", gloss),
      ("emit", emit),
      ("rainbow", rainbow),
    ):
      value_n = np.broadcast_to(np.asarray(value, np.float64), (self.n,))
      a[name][when, part] = value_n[when]
    self.kept[when, part] = kept
    self.may_be_kept[part] |= kept

  def ball(
    self,
    at,
    size,
    colour,
    *,
    rotation=None,
    when: ArrayLike = True,
    slot=None,
    patterned: ArrayLike = 0.0,
    smooth: ArrayLike = 0.02,
    gloss: ArrayLike = 0.25,
    emit: ArrayLike = 0.0,
    rainbow: ArrayLike = 0.0,
    kept=False,
  ) -> int:
    """An ellipsoid of half axes `size`; returns its part index.

    `slot` reuses the slot of an earlier part, for variants that exclude each
    other.
    """
    if slot is None:
      slot, self.num_round = self.num_round, self.num_round + 1
    assert slot < NUM_ROUND, "too many round parts"
    at, size = vec(*at, n=self.n), vec(*size, n=self.n)
    if rotation is None:
      rotation = np.eye(3)
    self._set(
      slot, when, at=at, rotation=rotation, size=size, prefix="round",
      index=slot,
    )  # fmt: skip
    self._paint(
      slot, when, colour, patterned, smooth, gloss, emit, rainbow, kept
    )
    return slot

  def solid(
    self,
    at,
    size,
    colour,
    *,
    corner: ArrayLike = 0.0,
    taper: ArrayLike = 0.0,
    wall: ArrayLike = _SOLID_WALL,
    edge: ArrayLike = 0.01,
    rotation=None,
    when: ArrayLike = True,
    slot=None,
    patterned: ArrayLike = 0.0,
    smooth: ArrayLike = 0.01,
    gloss: ArrayLike = 0.25,
    emit: ArrayLike = 0.0,
    rainbow: ArrayLike = 0.0,
    kept=False,
  ) -> int:
    """A solid extruded along its local z; returns its part index.

    Args:
      at: centre.
      size: half sizes x and y of the cross-section without its corners, and
        the half height z.
      colour: sRGB.
      corner: radius added around the cross-section (x = y = 0: a circle).
      taper: growth of that radius a unit of z.
      wall: half thickness of a tube's wall.
      edge: rounding of the top and bottom edges.
      rotation: (n, 3, 3), columns are the local axes.
      when, slot, patterned, smooth, gloss, emit, rainbow, kept: as `ball`.
    """
    if slot is None:
      slot = NUM_ROUND + self.num_solid
      self.num_solid += 1
    assert NUM_ROUND <= slot < NUM_PARTS, "too many solids"
    at = vec(*at, n=self.n)
    size = vec(size[0], size[1], corner, taper, wall, edge, size[2], n=self.n)
    if rotation is None:
      rotation = np.eye(3)
    self._set(
      slot, when, at=at, rotation=rotation, size=size, prefix="solid",
      index=slot - NUM_ROUND,
    )  # fmt: skip
    self._paint(
      slot, when, colour, patterned, smooth, gloss, emit, rainbow, kept
    )
    return slot

  def box(self, at, size, colour, *, edge=0.04, **kw) -> int:
    """A rounded box of half sizes `size`."""
    hx, hy, hz = (np.asarray(v, np.float64) for v in size)
    return self.solid(
      at,
      (np.maximum(hx - edge, 0), np.maximum(hy - edge, 0), hz),
      colour,
      corner=edge,
      edge=edge,
      **kw,
    )

  def cylinder(
    self, at, radius, height, colour, *, axis=(0.0, 1, 0), **kw
  ) -> int:
    """A cylinder (cone with `taper`, tube with `wall`) of half `height`."""
    rotation = frame(vec(*axis, n=self.n))
    return self.solid(
      at, (0.0, 0.0, height), colour, corner=radius, rotation=rotation, **kw
    )

  def torus(
    self,
    at,
    radius,
    thickness,
    colour,
    *,
    axis=(0.0, 1, 0),
    stretch=(0.0, 0.0),
    **kw,
  ) -> int:
    """A ring; `stretch` makes it a rounded rectangle."""
    rotation = kw.pop("rotation", None)
    if rotation is None:
      rotation = frame(vec(*axis, n=self.n))
    thickness = np.asarray(thickness, np.float64)
    return self.solid(
      at,
      (*stretch, thickness),
      colour,
      corner=np.asarray(radius, np.float64) + thickness,
      wall=thickness,
      edge=thickness,
      rotation=rotation,
      **kw,
    )

  def limb(self, start, end, radius, colour, *, grow=0.0, **kw) -> int:
    """A capsule from `start` to `end`; `grow` widens it towards the end."""
    start, end = vec(*start, n=self.n), vec(*end, n=self.n)
    axis = end - start
    length = np.linalg.norm(axis, axis=-1)
    middle = (start + end) / 2
    return self.solid(
      tuple(middle.T),
      (0.0, 0.0, length / 2 + radius),
      colour,
      corner=radius,
      edge=radius,
      taper=np.asarray(grow) / length,
      rotation=frame(axis),
      **kw,
    )

  def decal(
    self, at, size, colour, *, box=0.0, rotation=None, when=True, slot=None
  ) -> int:
    """Colours the surface inside an ellipsoid (or box); returns its index."""
    if slot is None:
      slot, self.num_decals = self.num_decals, self.num_decals + 1
    assert slot < NUM_DECALS, "too many decals"
    if rotation is None:
      rotation = np.eye(3)
    self._set(
      slot, when, at=vec(*at, n=self.n), rotation=rotation,
      size=vec(*size, n=self.n), prefix="decal", index=slot,
    )  # fmt: skip
    when = np.broadcast_to(when, (self.n,))
    a = self.arrays
    a["decal_box"][when, slot] = np.broadcast_to(box, (self.n,))[when]
    a["decal_colour"][when, slot] = np.broadcast_to(colour, (self.n, 3))[when]
    return slot


def span(arrays):
  """The box around each subject: low and high corner, (n, 3) each."""
  there = present(arrays)
  at = np.concatenate([arrays["round_at"], arrays["solid_at"]], 1)
  low, high = [], []
  for axis in np.eye(3):
    half = extent(arrays, np.tile(axis, (len(at), 1)))
    low.append(np.where(there, at @ axis - half, 9.0).min(1))
    high.append(np.where(there, at @ axis + half, -9.0).max(1))
  return np.stack(low, -1), np.stack(high, -1)


def present(arrays):
  """Which parts exist: bool (n, P)."""
  at = np.concatenate([arrays["round_at"], arrays["solid_at"]], 1)
  return at[..., 1] > -20


def extent(arrays, direction_n3):
  """Half size of each part along a direction, (n, P)."""
  local = np.einsum("npij,ni->npj", arrays["round_turn"], direction_n3)
  round_np = np.linalg.norm(local * arrays["round_size"], axis=-1)
  local = np.abs(np.einsum("npij,ni->npj", arrays["solid_turn"], direction_n3))
  hx, hy, corner, taper, _, _, hz = np.moveaxis(arrays["solid_size"], -1, 0)
  radius = corner + np.abs(taper) * hz
  solid_np = (
    hx * local[..., 0]
    + hy * local[..., 1]
    + radius * np.hypot(local[..., 0], local[..., 1])
    + hz * local[..., 2]
  )
  # A capsule's bound above adds its end caps twice; its edge says so.
  edge = arrays["solid_size"][..., 5]
  solid_np -= (
    np.minimum(edge, radius)
    * 0.29
    * (np.minimum(local[..., 2], np.hypot(local[..., 0], local[..., 1])) * 2)
  )
  return np.concatenate([round_np, solid_np], 1)
