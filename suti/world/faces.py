# SPDX-License-Identifier: Apache-2.0
"""Colours of eyes and noses, and two eyes on a head.

Kept apart from the classes since a red dog keeps the colour of its eyes.
"""

import numpy as np

DARK = np.array([0.07, 0.06, 0.07])
WHITE = np.array([0.97, 0.97, 0.97])
NOSE_PINK = np.array([0.93, 0.50, 0.52])
EYE_TINTS = np.array(
  [[0.45, 0.75, 0.30], [0.95, 0.70, 0.15], [0.35, 0.65, 0.90]]
)
EYE_BLUE = np.array([0.20, 0.35, 0.55])


def face(
  b, *, at, radius, spread, size, eye, front=0.86, high=0.12, pupil=None
):
  """Two eyes with highlights on a ball-like head. Uses 4 decals (6 pupils)."""
  x, y, z = at
  for side in (-1, 1):
    place = (
      x + side * spread * radius,
      y + high * radius,
      z + front * radius,
    )
    b.decal(place, (size, size * 1.15, radius * 0.5), eye)
  if pupil is not None:
    for side in (-1, 1):
      place = (
        x + side * spread * radius,
        y + high * radius,
        z + front * radius,
      )
      b.decal(place, (size * 0.5, size * 0.85, radius * 0.5), pupil)
  for side in (-1, 1):
    place = (
      x + side * spread * radius + size * 0.3,
      y + high * radius + size * 0.4,
      z + front * radius,
    )
    b.decal(place, (size * 0.33, size * 0.33, radius * 0.5), WHITE)
