# SPDX-License-Identifier: Apache-2.0
"""Pictures of shots: image, mask and depth, in JAX.

The subject is sphere-traced (`march.py`), ground and backdrop are closed form
(`backdrops.py`). One program a size renders every class and place; a style is
painted over its pictures (`styles.py`). On CPU pictures are mapped one after
the other, so that only the backdrop and the reflection a picture needs are
computed; on an accelerator they are vmapped.

Shape legend: B pictures, H W frame, N samples.
"""

import concurrent.futures
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from suti.world import sdf
from suti.world.backdrops import PLACES
from suti.world.march import SUPERSAMPLE, apart, rays, trace
from suti.world.parts import NUM_PARTS
from suti.world.scenes import shot_keys, stage
from suti.world.shading import shade
from suti.world.strokes import fract, mix, step
from suti.world.styles import paint_rows
from suti.world.templates import template_of

# Pictures a call of the program, where pictures are mapped one after the other
# and where they are vmapped. Never the number of shots: each other number would
# be another program, and 20 s of compiling.
_BATCH_CPU, _BATCH_ACCELERATOR = 8, 256


def _close(view, count):
  """Fills gaps one sample wide, where a grazing ray ran out of steps.

  Args:
    view: rows of the subject's samples, the last whether a ray hit; (5, N).
    count: samples a side.

  Returns:
    The same, with gaps taken from the sample before them.
  """
  grid = view.reshape(-1, count, count)
  for axis in (1, 2):
    before, after = jnp.roll(grid, 1, axis), jnp.roll(grid, -1, axis)
    gap = (grid[-1] < 0.5) & (before[-1] > 0.5) & (after[-1] > 0.5)
    grid = jnp.where(gap, before, grid)
  return grid.reshape(view.shape)


def _shadow(s, x, z):
  """How much of the light the subject takes from ground points, (N,).

  The shadow of an ellipsoid under parallel light is an ellipse; solids count
  as ellipsoids, which soft shadows hide.
  """
  dark = jnp.zeros_like(x)
  for i in range(NUM_PARTS):
    a, b, c = (s["shadow_form"][i, k] for k in range(3))
    dx, dz = x - s["shadow_at"][i, 0], z - s["shadow_at"][i, 1]
    quad = a * dx * dx + b * dx * dz + c * dz * dz
    soft = s["shadow_soft"][i]
    dark = jnp.maximum(dark, step(1 + soft, 1 - soft, jnp.sqrt(quad + 1e-9)))
  return dark


def _backdrop(s, x, y, d, branches):
  """Ground and wall, (3, N); ground distance and position."""
  eye = s["eye"]
  down = jnp.minimum(d[1], -1e-3)
  t_ground = jnp.where(d[1] < -1e-3, -eye[1] / down, 1e3)
  t_wall = (eye[2] + s["wall"]) / jnp.maximum(-d[2], 1e-3)
  on_ground = t_ground < t_wall
  t = jnp.minimum(t_ground, t_wall)
  gx, gz = eye[0] + d[0] * t, eye[2] + d[2] * t
  half = (eye[2] + s["wall"]) / s["focal"]
  home = jnp.sqrt(eye[1] ** 2 + eye[2] ** 2)
  v = {
    "x": gx,
    "z": gz,
    "far": t / home,
    "u": (eye[0] + d[0] * t_wall - eye[0]) / half,
    "w": (eye[1] + d[1] * t_wall) / half,
    "frame_x": x,
    "frame_y": y,
    "j": s["jitter"],
    "side": s["side"],
  }
  ground, wall = jax.lax.switch(s["place"], branches, v)
  return ground, wall, on_ground, t, gx, gz


def _branch(place):
  def run(v):
    shape = (3, v["x"].shape[0])
    return tuple(
      jnp.broadcast_to(c, shape).astype(jnp.float32) for c in place(v)
    )

  return run


def _views(s, d, t_back, count, *, mirrored):
  """The subject, and its mirror image where something reflects.

  Args:
    s: the staged shot.
    d: direction of each ray, 3 x (N,).
    t_back: distance along each ray to ground or wall, (N,).
    count: samples a side.
    mirrored: whether there is a mirror image.

  Returns: (2, 5, N): colour, distance, and whether the ray hit.
  """

  # A loop, so that the tracer is compiled once and runs only as often as
  # needed.
  def view(i, carry):
    sign = 1.0 - 2.0 * i
    eye = [s["eye"][0], s["eye"][1] * sign, s["eye"][2]]
    d_view = [d[0], d[1] * sign, d[2]]
    t, p, hit = trace(s, eye, d_view, count, sign)
    hit = hit & jnp.where(i == 0, t < t_back + 1e-3, p[1] > 0)
    figure = shade(s, p, d_view)
    new = _close(jnp.stack([*figure, t, hit.astype(t.dtype)]), count)
    return jax.lax.dynamic_update_index_in_dim(carry, new, i, 0)

  return jax.lax.fori_loop(
    0,
    1 + mirrored.astype(jnp.int32),
    view,
    jnp.zeros((2, 5, count * count), jnp.float32),
  )


def _lit_ground(s, ground, gx, gz, image, *, mirrored):
  """Ground with cast shadow, contact shadow, puddle and reflection, (3, N).

  Args:
    s: the staged shot.
    ground: its own colour, (3, N).
    gx, gz: position of each sample, (N,).
    image: the mirror image, a row of `_views`.
    mirrored: whether there is one.
  """
  dark = apart(s, _shadow, s, gx, gz)
  touch = apart(s, lambda *a: sdf.distance(a[0], [a[1], 0.02, a[2]]), s, gx, gz)
  floats = mirrored & (s["wet"] < 0.5)
  is_mirror = s["place"] == list(PLACES).index("mirror")

  def lay(s, ground, dark, touch, gx, gz, image):
    dark = 1 - (1 - 0.42 * dark) * (
      1 - 0.40 * jnp.exp(-jnp.maximum(touch, 0) / 0.09)
    )
    dark = dark * jnp.where(floats, 0.45, 1.0)
    bent = 0.10 * jnp.sin(jnp.arctan2(gz, gx) * 3 + s["jitter"][5] * 6)
    r = jnp.sqrt((gx / 0.95) ** 2 + ((gz - 0.1) / 0.80) ** 2) + bent
    puddle = s["wet"] * step(1.05, 0.95, r)
    deep = ground * 0.55 + jnp.array([[0.12], [0.20], [0.28]])
    ground = mix(ground, deep, puddle * 0.75) * (1 - dark)
    glass = step(1.17, 1.15, jnp.sqrt(gx * gx + gz * gz))
    where = jnp.where(is_mirror, glass, 1.0)
    where = jnp.where(s["wet"] > 0.5, puddle, where) * s["reflect"]
    ground = mix(ground, image[:3], image[4] * where)
    # Where a floating subject meets the surface: a bright line.
    rim = jnp.exp(-jnp.abs(touch) / 0.035)
    rim = jnp.where(floats & ~is_mirror, rim, 0.0)
    return mix(ground, 1.0, rim * 0.55)

  return apart(s, lay, s, ground, dark, touch, gx, gz, image)


def draw(s, *, size_px: int):
  """Renders one staged shot.

  Args:
    s: one row of `scenes.stage`.
    size_px: side of the picture.

  Returns:
    {"image": uint8 (H, W, 3), "mask": bool (H, W), "depth": float32 (H, W),
    along the viewing axis in world units, ground and backdrop included}.
  """
  count = size_px * SUPERSAMPLE
  branches = [_branch(place) for place in PLACES.values()]
  x, y, d, cosine = rays(s, count)
  ground, wall, on_ground, t_back, gx, gz = _backdrop(s, x, y, d, branches)
  mirrored = s["reflect"] > 0
  views = _views(s, d, t_back, count, mirrored=mirrored)
  figure, t, hit = views[0, :3], views[0, 3], views[0, 4] > 0.5
  ground = _lit_ground(s, ground, gx, gz, views[1], mirrored=mirrored)
  tint = (0.5 + 0.5 * s["light_colour"])[:, None]
  scene = jnp.where(on_ground[None], ground, wall) * tint
  out = jnp.where(hit[None], figure, scene)
  out = apart(s, _sparkle, s, out, x, y)

  def pool(a):
    return a.reshape(*a.shape[:-1], size_px, SUPERSAMPLE, size_px, SUPERSAMPLE)

  out = jnp.clip(out, 0, 1)
  out = out - 0.06 * out * (1 - out) * (1 - 2 * out) * -1
  image = pool(out).mean((-3, -1))
  covered = pool(hit.astype(jnp.float32)).sum((-3, -1))
  mask = covered >= SUPERSAMPLE**2 / 2
  z = jnp.where(hit, t, t_back) * cosine
  # Depth of a pixel: of its subject samples where it counts as subject.
  own = pool(hit.astype(jnp.float32) * z).sum((-3, -1)) / jnp.maximum(
    covered, 1
  )
  depth = jnp.where(mask, own, pool(z).min((-3, -1)))
  return {
    "image": jnp.round(jnp.moveaxis(image, 0, -1) * 255).astype(jnp.uint8),
    "mask": mask,
    "depth": depth.astype(jnp.float32),
  }


def _sparkle(s, colour, x, y):
  """Glints of a shiny subject: four-pointed stars at highlights."""
  glint = 0.0
  for i in range(3):
    j = s["jitter"]
    at_x = (fract(j[i] * 7.3 + 0.31 * i) - 0.5) * 0.9
    at_y = 0.15 + (fract(j[i + 3] * 5.1 + 0.17 * i) - 0.5) * 0.8
    a, b = jnp.abs(x - at_x), jnp.abs(y - at_y)
    star = jnp.exp(-(a * b) / 0.0006 - (a + b) / 0.055)
    glint = jnp.maximum(glint, star)
  return mix(colour, jnp.ones((3, 1)), glint * s["shiny"])


def _threads():
  """How many batches are rendered in parallel."""
  return min(os.cpu_count() or 1, 8) if jax.default_backend() == "cpu" else 1


@functools.lru_cache(maxsize=16)
def _program(size_px):
  one = functools.partial(draw, size_px=size_px)
  if jax.default_backend() == "cpu":
    many = functools.partial(jax.lax.map, one)
  else:
    many = jax.vmap(one)
  return jax.jit(many)


def boxes(mask_BHW) -> np.ndarray:
  """(x0, y0, x1, y1) of each mask in pixels, x1 and y1 exclusive; (B, 4)."""
  out = []
  for axis in (1, 2):
    line = mask_BHW.any(axis)
    size = line.shape[1]
    first = np.where(line.any(1), line.argmax(1), 0)
    last = np.where(line.any(1), size - line[:, ::-1].argmax(1), 0)
    out.append((first, last))
  (x0, x1), (y0, y1) = out
  return np.stack([x0, y0, x1, y1], -1).astype(np.int32)


def render_shots(shots, *, size_px: int = 64, batch: int | None = None):
  """Renders shots.

  Args:
    shots: a sequence of `Shot`.
    size_px: side of the pictures, at least 8.
    batch: pictures a call of the compiled program, the last one padded; None
      chooses by the device.

  Returns:
    {"image": uint8 (B, H, W, 3), "mask": bool (B, H, W), "depth": float32
    (B, H, W), "box": int32 (B, 4) in pixels, and the camera: "eye" (B, 3),
    "axes" (B, 3, 3) rows right, up, back, in the subject's own frame, "focal"
    (B,) in half frames}.
  """
  if not shots:
    raise ValueError("render_shots got no shots: give at least one.")
  if size_px < 8:
    raise ValueError(f"size_px={size_px} is too small: use 8 or more.")
  staged = stage(shots)
  n = len(shots)
  if batch is None:
    on_cpu = jax.default_backend() == "cpu"
    batch = _BATCH_CPU if on_cpu else _BATCH_ACCELERATOR
  program = _program(size_px)
  styles, keys = [template_of(s).style for s in shots], shot_keys(shots)

  def run(start):
    rows = np.minimum(np.arange(start, start + batch), n - 1)
    drawn = program({k: v[rows] for k, v in staged.items()})
    drawn = {k: np.asarray(v) for k, v in drawn.items()}
    there = slice(start, min(start + batch, n))
    return drawn | {"image": paint_rows(drawn, styles[there], keys[there])}

  # One picture's work is too small for XLA to share out among cores: 1.5
  # times as many pictures with a thread each.
  starts = range(0, n, batch)
  first = [run(starts[0])]  # compiles, once
  with concurrent.futures.ThreadPoolExecutor(_threads()) as pool:
    chunks = first + list(pool.map(run, starts[1:]))
  out = {
    k: np.concatenate([c[k] for c in chunks])[:n]
    for k in ("image", "mask", "depth")
  }
  out["box"] = boxes(out["mask"])
  back = np.swapaxes(staged["rotation"], 1, 2)
  eye = staged["eye"].copy()
  eye[:, 1] -= staged["drop"]
  out["eye"] = np.einsum("bij,bj->bi", back, eye)
  axes = np.stack([staged["right"], staged["up"], staged["back"]], 1)
  out["axes"] = np.einsum("bij,bkj->bki", back, axes)
  out["focal"] = staged["focal"]
  return out
