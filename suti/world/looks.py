# SPDX-License-Identifier: Apache-2.0
"""Changes of a subject's colour and shape: red, purple, a cube.

Works on the arrays of a batch of one class (`subjects.Subjects`), in numpy.
What it wears is in `wardrobe.py`; shine and wetness are matters of light and
stand in `shading.py`.

Shape legend: n subjects, P parts, D decals.
"""

import numpy as np

from suti.world.faces import DARK, EYE_BLUE, EYE_TINTS, NOSE_PINK, WHITE
from suti.world.parts import NUM_ROUND, Parts, present, span
from suti.world.wardrobe import dress

_TINTS = {
  "red": [(0.30, 0.01, 0.02), (0.84, 0.06, 0.07), (0.98, 0.27, 0.24)],
  "purple": [(0.17, 0.04, 0.32), (0.50, 0.14, 0.76), (0.75, 0.47, 0.97)],
}
_FIXED = (
  DARK,
  WHITE,
  NOSE_PINK,
  EYE_BLUE,
  *EYE_TINTS,
)  # eyes, teeth and noses keep their colour


def _tint(colour, name):
  """Maps colours to shades of one hue by their lightness."""
  dark, middle, light = (np.array(c) for c in _TINTS[name])
  level = (colour @ np.array([0.30, 0.59, 0.11]))[..., None]
  out = np.where(
    level < 0.5,
    dark + (middle - dark) * np.clip((level + 0.15) / 0.65, 0, 1),
    middle + (light - middle) * np.clip((level - 0.5) / 0.5, 0, 1),
  )
  fixed = np.zeros(colour.shape[:-1], bool)
  for constant in _FIXED:
    fixed |= (np.abs(colour - constant) < 1e-6).all(-1)
  return np.where(fixed[..., None], colour, out)


def _recolour(arrays, name):
  flames = arrays["emit"][..., None] > 0
  arrays["colour"] = np.where(
    flames, arrays["colour"], _tint(arrays["colour"], name)
  )
  for key in ("pattern_colour", "decal_colour"):
    arrays[key] = _tint(arrays[key], name)


def _make_cube(arrays, subjects):
  """Replaces the body by a cube; ears, tail, handles move to its faces."""
  kept, anchors = subjects.kept, subjects.anchors
  half = 0.44
  centre = np.array([0.0, half + 0.07, 0.0])
  at = np.concatenate([arrays["round_at"], arrays["solid_at"]], 1)
  there = present(arrays)
  low, high = span(arrays)
  middle, size = (high + low) / 2, np.maximum((high - low) / 2, 0.12)

  def to_cube(points, threshold):
    """To the cube's nearest face, if farther out than `threshold`."""
    rel = (points - middle[:, None]) / size[:, None]
    if anchors is not None:
      # What is near the head of a live subject is its face.
      near = (points - anchors["head"][:, None]) / anchors["radius"][
        :, None, None
      ]
      is_head = np.linalg.norm(near, axis=-1, keepdims=True) < 1.9
      rel = np.where(is_head, near * 0.95, rel)
    out = np.abs(rel)
    face = (out == out.max(-1, keepdims=True)) & (
      out.max(-1, keepdims=True) > threshold
    )
    return centre + half * np.where(face, np.sign(rel), np.clip(rel, -1, 1))

  moved = to_cube(at, 0.0)
  moved[..., 1] = np.maximum(moved[..., 1], 0.09)
  keep = kept & there
  parked = np.array([0.0, -60.0, 0.0])
  moved = np.where(keep[..., None], moved, parked)
  arrays["round_at"] = moved[:, :NUM_ROUND]
  arrays["solid_at"] = moved[:, NUM_ROUND:]
  marks = arrays["decal_at"]
  arrays["decal_at"] = np.where(
    marks[..., 1:2] < -20, marks, to_cube(marks, 0.55)
  )
  if anchors is not None:
    factor = (half / anchors["radius"])[:, None, None] * 0.95
    arrays["decal_size"] = arrays["decal_size"] * np.clip(factor, 1, 2.2)
  cube = Parts(len(kept))
  cube.arrays = arrays
  cube.box(
    centre,
    (half,) * 3,
    subjects.main,
    edge=0.075,
    slot=subjects.free["core"],
    patterned=1.0,
    smooth=0.02,
    gloss=0.3,
  )


def alter(subjects, *, look, wardrobe):
  """A copy of a batch of subjects with a template's look and wardrobe.

  Args:
    subjects: `subjects.Subjects`.
    look: "", "red", "purple", "shiny", "wet" or "cube" ("shiny" and "wet" are
      matters of light: see `scenes.stage`).
    wardrobe: "" or a key of WARDROBE, for live subjects.

  Returns:
    The altered arrays.
  """
  arrays = {k: v.copy() for k, v in subjects.arrays.items()}
  if wardrobe:
    dress(arrays, subjects, wardrobe)
  if look in _TINTS:
    _recolour(arrays, look)
  if look == "cube":
    _make_cube(arrays, subjects)
  return arrays
