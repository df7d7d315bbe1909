# SPDX-License-Identifier: Apache-2.0
"""From shots to numbers: subject, place, camera and light of each picture.

All that a picture needs is drawn at random here in numpy, vectorised, from the
three integers of a `Shot`; `render.py` only renders it.

Frames: the stage has the viewer at +z, y up, the ground at y = 0, units in
which a subject is about 1.3 tall. The subject's own frame is the stage turned
by its heading.

Shape legend: B pictures, P parts.
"""

import collections
from typing import NamedTuple

import numpy as np

from suti.world import sdf
from suti.world.backdrops import PLACES
from suti.world.camera import aim, headings
from suti.world.looks import alter
from suti.world.parts import Parts, present, span, turn
from suti.world.subjects import build
from suti.world.templates import draws, template_of, unstyled

PLACE_NAMES = tuple(PLACES)


class Setting(NamedTuple):
  """Camera and light of a place.

  Attributes:
    elevation: of the camera in degrees, from and to.
    foot: where the ground meets the backdrop, -1 bottom to 1 top of the frame.
    tint: of all light.
    aside: the subject leaves room for what stands behind it.
    sink: how deep it lies in the ground.
    reflect: how much the ground mirrors it.
  """

  elevation: tuple[float, float]
  foot: tuple[float, float]
  tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
  aside: bool = False
  sink: float = 0.0
  reflect: float = 0.0


SETTINGS = {
  "studio": Setting((8, 22), (0.10, 0.40)),
  "jungle": Setting((5, 14), (0.00, 0.20), (0.94, 1.04, 0.92)),
  "snow": Setting((6, 16), (0.00, 0.25), (0.98, 1.0, 1.06)),
  "beach": Setting((6, 15), (0.05, 0.25), (1.05, 1.01, 0.94)),
  "cobblestone": Setting((10, 20), (0.20, 0.40), (1.0, 0.99, 0.96)),
  "pink fabric": Setting((16, 30), (0.50, 0.70), (1.02, 0.98, 1.0)),
  "wooden floor": Setting((16, 28), (0.45, 0.62), (1.04, 1.0, 0.94)),
  "city": Setting((4, 11), (-0.15, 0.05)),
  "mountain": Setting((4, 11), (-0.15, 0.05), (1.01, 1.0, 0.99)),
  "blue house": Setting((4, 11), (-0.15, 0.05), (1.02, 1.0, 0.97), aside=True),
  "purple rug": Setting((15, 25), (0.30, 0.48), (0.98, 1.0, 0.96)),
  "wheat field": Setting((4, 11), (-0.15, 0.05), (1.06, 1.0, 0.90)),
  "autumn tree": Setting(
    (5, 13), (-0.12, 0.08), (1.06, 0.99, 0.90), aside=True
  ),
  "eiffel tower": Setting((4, 10), (-0.20, 0.0), (1.02, 1.0, 0.97), aside=True),
  "water": Setting(
    (9, 18), (0.30, 0.50), (1.0, 1.01, 1.03), sink=0.17, reflect=0.38
  ),
  "milk": Setting(
    (9, 18), (0.25, 0.45), (1.04, 1.0, 0.98), sink=0.17, reflect=0.15
  ),
  "sunflowers": Setting((6, 14), (0.00, 0.18), (1.04, 1.01, 0.93)),
  "mirror": Setting((13, 19), (0.50, 0.66), reflect=0.85),
  "sidewalk": Setting((5, 12), (-0.10, 0.08), (1.0, 1.0, 0.98)),
  "dirt road": Setting((6, 14), (0.05, 0.25), (1.05, 1.0, 0.92)),
  "white rug": Setting((16, 26), (0.38, 0.55), (1.02, 1.0, 0.97)),
}
_PUDDLE_REFLECTS = 0.45


def stage(shots) -> dict[str, np.ndarray]:
  """The numbers `render.draw` needs.

  Args:
    shots: a sequence of `Shot`.

  Returns:
    Arrays with leading axis B, float32 except "place" (int32). Those of the
    subject are on the stage, but decals and patterns in its own frame, which
    "rotation" and "drop" lead to.
  """
  templates = [template_of(s) for s in shots]
  settings = [SETTINGS[t.place] for t in templates]
  a, classes = _subjects(shots, templates)
  u = draws(shot_keys(shots), stream=7, count=32)
  side = np.where(u[:, 8] < 0.5, -1.0, 1.0)
  wet = np.array([float(t.look == "wet") for t in templates])
  reflect = np.array([s.reflect for s in settings])

  heading = headings(classes, side=u[:, 9], turn=u[:, 10])
  rotation = turn(len(shots), y=heading)
  for kind in ("round", "solid"):
    at, axes = a[kind + "_at"], a[kind + "_turn"]
    a[kind + "_at"] = np.einsum("bij,bpj->bpi", rotation, at)
    a[kind + "_turn"] = np.einsum("bij,bpjk->bpik", rotation, axes)
  sink = np.array([s.sink for s in settings]) * (0.8 + 0.4 * u[:, 15])
  drop = -span(a)[0][:, 1] - sink * 1.2
  for kind in ("round", "solid"):
    a[kind + "_at"][..., 1] += drop[:, None]

  light = _light(u)
  out = {
    "jitter": u[:, 16:24],
    "side": side,
    "rotation": rotation,
    "drop": drop,
    "tint": np.array([s.tint for s in settings]),
    "shiny": np.array([float(t.look == "shiny") for t in templates]),
    "wet": wet,
    "reflect": np.maximum(reflect, _PUDDLE_REFLECTS * wet),
    **light,
    **aim(a, classes, settings, u, side=side),
    **_shadows(a, light["light"]),
    **_paint(a),
    **sdf.prepare(a),
  }
  out = {k: np.asarray(v, np.float32) for k, v in out.items()}
  places = [PLACE_NAMES.index(t.place) for t in templates]
  return out | {"place": np.array(places, np.int32)}


def _subjects(shots, templates):
  """Arrays of `parts.Parts` and class nouns of all shots."""
  out = Parts(len(shots)).arrays
  classes = np.empty(len(shots), object)
  for name, rows, subjects in build([s.subject for s in shots]):
    classes[rows] = name
    groups = collections.defaultdict(list)
    for inner, row in enumerate(rows):
      t = templates[row]
      groups[t.look, t.wardrobe].append((inner, row))
    for (look, wardrobe), pairs in groups.items():
      inner, outer = np.array(pairs).T
      chosen = subjects.take(inner)
      altered = alter(chosen, look=look, wardrobe=wardrobe)
      for key, value in altered.items():
        out[key][outer] = value
  return out, classes


def shot_keys(shots):
  """One integer a shot, from all three numbers; a style leaves it as it is."""
  rows = np.array(
    [(s.subject, unstyled(s.template) + 1, s.seed) for s in shots], np.uint64
  )
  factors = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64
  )
  with np.errstate(over="ignore"):
    mixed = rows * factors
    mixed ^= mixed >> np.uint64(29)
    return mixed.sum(1, dtype=np.uint64)


def _light(u):
  """Direction and warmth of the light."""
  side = np.where(u[:, 0] < 0.5, -1, 1) * np.deg2rad(15 + 50 * u[:, 1])
  high = np.deg2rad(38 + 24 * u[:, 2])
  flat = np.cos(high)
  toward = [np.sin(side) * flat, np.sin(high), np.cos(side) * flat]
  warm = u[:, 3:4]
  cool_rgb, warm_rgb = (
    np.array([[0.95, 0.99, 1.05]]),
    np.array([1.07, 1.0, 0.9]),
  )
  colour = (1 - warm) * cool_rgb + warm * warm_rgb
  return {
    "light": np.stack(toward, -1),
    "light_colour": colour * (0.94 + 0.12 * u[:, 4:5]),
  }


def _paint(a):
  """Colours and patterns, as `shading` blends them."""
  names = ("pattern", "pattern_axis", "pattern_scale", "pattern_phase")
  names += ("pattern_colour", "decal_box", "decal_colour")
  single = [a[k] for k in ("patterned", "rainbow", "gloss", "emit")]
  # Points q of the subject's frame to a decal's unit ball: map @ q - shift.
  to_ball = np.swapaxes(a["decal_turn"], 2, 3) / a["decal_size"][..., None]
  return {k: a[k] for k in names} | {
    "paint": np.concatenate([a["colour"], np.stack(single, -1)], -1),
    "decal_map": to_ball,
    "decal_shift": np.einsum("bdij,bdj->bdi", to_ball, a["decal_at"]),
  }


def _shadows(a, light):
  """The ellipse that each part's shadow is on the ground."""
  slope = light[:, [0, 2]] / light[:, 1:2]
  project = np.zeros((len(slope), 2, 3))
  project[:, 0, 0] = project[:, 1, 2] = 1
  project[:, :, 1] = -slope
  size = a["solid_size"]
  radius = size[..., 2] + np.abs(size[..., 3]) * size[..., 6] * 0.5
  solid = [size[..., 0] + radius, size[..., 1] + radius, size[..., 6]]
  half = np.concatenate([a["round_size"], np.stack(solid, -1) * 1.06], 1)
  rotation = np.concatenate([a["round_turn"], a["solid_turn"]], 1)
  at = np.concatenate([a["round_at"], a["solid_at"]], 1)
  axes = np.einsum("bij,bpjk->bpik", project, rotation * half[:, :, None])
  form = np.linalg.inv(axes @ np.swapaxes(axes, 2, 3) + 1e-4 * np.eye(2))
  on_ground = at[..., [0, 2]] - slope[:, None] * at[..., 1:2]
  quadratic = [form[..., 0, 0], 2 * form[..., 0, 1], form[..., 1, 1]]
  return {
    "shadow_at": np.where(present(a)[..., None], on_ground, 99.0),
    "shadow_form": np.stack(quadratic, -1),
    "shadow_soft": 0.22 + 0.25 * np.clip(at[..., 1], 0, 1.2),
  }
