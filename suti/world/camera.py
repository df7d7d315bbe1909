# SPDX-License-Identifier: Apache-2.0
"""How a subject is held in the frame: heading, distance, aim.

The camera looks along -z of the stage from `elevation` above; it never rolls.
Vectorised numpy.

Shape legend: B pictures, P parts.
"""

import numpy as np

from suti.world.parts import extent, present

# Headings in degrees that show what a class is: the mean, whose sign is drawn,
# and the reach to either side. Round things face anywhere.
_HEADING = {
  "sneaker": (52, 26),
  "boot": (48, 28),
  "dog": (34, 34),
  "cat": (10, 38),
  "teapot": (0, 42),
  "clock": (0, 36),
  "glasses": (0, 36),
  "backpack": (0, 50),
  "stuffed animal": (0, 44),
  "cartoon": (0, 40),
  "toy": (0, 60),
}
# Visible area over the area of the bounding box, measured; sets the zoom.
_FULLNESS = {
  "glasses": 0.45,
  "dog": 0.55,
  "cat": 0.60,
  "teapot": 0.60,
  "vase": 0.60,
  "candle": 0.60,
  "boot": 0.60,
  "cartoon": 0.60,
  "bowl": 0.70,
  "clock": 0.75,
  "backpack": 0.80,
  "can": 0.90,
}
_ROUNDS = 7


def headings(classes, *, side, turn) -> np.ndarray:
  """Heading of each subject in radians, (B,).

  Args:
    classes: class nouns, (B,).
    side, turn: uniform numbers, (B,).
  """
  mean, reach = np.array(
    [_HEADING.get(name, (0, 180)) for name in classes], float
  ).T
  return np.deg2rad(mean * np.where(side < 0.5, -1, 1) + reach * (2 * turn - 1))


def aim(arrays, classes, settings, u, *, side) -> dict[str, np.ndarray]:
  """A camera that holds the whole subject at a good size.

  Args:
    arrays: parts on the stage, see `parts.Parts`.
    classes: class nouns, (B,).
    settings: `scenes.Setting` of each picture.
    u: uniform numbers, (B, 24); 5, 6 and 11 to 14 are used.
    side: -1 or 1, where the backdrop has something to show, (B,).

  Returns:
    eye, right, up, back (B, 3); focal (B,) in half frames; wall, how far the
    backdrop's foot is behind the subject; middle (B, 3) and reach (B,), a ball
    around the subject.
  """
  low, high = np.array([s.elevation for s in settings], float).T
  elevation = np.deg2rad(low + (high - low) * u[:, 11])
  low, high = np.array([s.foot for s in settings], float).T
  foot = low + (high - low) * u[:, 12]
  aside = np.array([s.aside for s in settings])
  mirrored = np.array([s.reflect for s in settings]) > 0.5
  focal = 1 / np.tan(np.deg2rad(14 + 5 * u[:, 13]))
  zero = np.zeros(len(u))
  axes = {
    "right": np.stack([zero + 1, zero, zero], -1),
    "up": np.stack([zero, np.cos(elevation), -np.sin(elevation)], -1),
    "back": np.stack([zero, np.sin(elevation), np.cos(elevation)], -1),
  }
  there = present(arrays)
  at = np.concatenate([arrays["round_at"], arrays["solid_at"]], 1)
  half = {k: extent(arrays, d) for k, d in axes.items()}
  along = {k: np.einsum("npi,ni->np", at, d) for k, d in axes.items()}

  fullness = np.array([_FULLNESS.get(name, 0.65) for name in classes])
  area = 0.25 + 0.15 * u[:, 14]  # wanted share of the frame
  limit_x = np.where(aside, 1.62, 1.78)  # of the frame's 2
  limit_y = np.where(mirrored, 1.30, limit_x)
  distance = zero + 5.0
  x, y = zero, zero + 0.5
  wide = tall = grow = zero
  # Several rounds: by perspective the box depends on the distance.
  for _ in range(_ROUNDS):
    depth = np.maximum(distance[:, None] - along["back"], 0.5)
    left, right = _bounds("right", x, depth, focal, along, half, there)
    bottom, top = _bounds("up", y, depth, focal, along, half, there)
    x = x + (left + right) / 2 / (focal / distance)
    y = y + (bottom + top) / 2 / (focal / distance)
    wide, tall = right - left, top - bottom
    grow = np.sqrt(area * 4 / (wide * tall * fullness))
    grow = np.minimum(grow, np.minimum(limit_x / wide, limit_y / tall))
    distance = distance / grow

  # What is left free is shared out: the subject moves off the centre.
  free_x = np.maximum(1.90 - wide * grow, 0) / 2
  free_y = np.maximum(1.90 - tall * grow, 0) / 2
  shift_x = (2 * u[:, 5] - 1) * np.minimum(free_x, 0.10)
  shift_x = np.where(aside, -side * np.minimum(free_x, 0.26), shift_x)
  shift_y = -np.minimum(free_y, 0.06 + 0.10 * u[:, 6])
  # Room below for the mirror image.
  shift_y = np.where(mirrored, np.minimum(free_y, 0.34), shift_y)
  eye = (
    axes["right"] * (x - shift_x * distance / focal)[:, None]
    + axes["up"] * (y - shift_y * distance / focal)[:, None]
    + axes["back"] * distance[:, None]
  )
  eye[:, 1] = np.maximum(eye[:, 1], 0.12)  # above the ground
  top = np.where(there, at[..., 1] + half["up"], -9).max(1)
  middle = np.stack([x, top / 2, zero], -1)
  size = np.sqrt(sum(h**2 for h in half.values()))
  away = np.linalg.norm(at - middle[:, None], axis=-1) + size
  return axes | {
    "eye": eye,
    "focal": focal,
    "wall": _wall(eye, foot / focal, axes, there, half, along),
    "middle": middle,
    "reach": np.where(there, away, 0).max(1),
  }


def _bounds(axis, centre, depth, focal, along, half, there):
  """Where the subject ends along an axis of the frame, (B,) each."""
  low, high = [], []
  # A part's near end projects larger than its middle.
  for end in (-0.7, 0.7):
    scale = focal[:, None] / np.maximum(depth + end * half["back"], 0.3)
    middle = (along[axis] - centre[:, None]) * scale
    low.append(np.where(there, middle - half[axis] * scale, 9).min(1))
    high.append(np.where(there, middle + half[axis] * scale, -9).max(1))
  return np.minimum(*low), np.maximum(*high)


def _wall(eye, slope, axes, there, half, along):
  """How far behind the subject the ground ends, to be seen where wanted."""
  direction = axes["up"] * slope[:, None] - axes["back"]
  down = -direction[:, 1]
  reach = np.where(down > 0.01, eye[:, 1] / np.maximum(down, 0.01), 60)
  wall = -(eye[:, 2] + reach * direction[:, 2])
  behind = np.where(there, half["back"] - along["back"], -9).max(1) + 0.25
  return np.clip(wall, np.maximum(behind, 1.2), 30)
