# SPDX-License-Identifier: Apache-2.0
"""A render as a painter sees it: colour, outline, flow, and strokes to lay.

Styles work on one picture at a time, in numpy, at twice its side, so that a
stroke's edge is smooth once the picture is its own size again. Lengths are in
pictures' sides: a stroke is as large in a picture of any size.

Shape legend: H W the canvas, twice the picture's side; G cells a side.
"""

import dataclasses
import functools

import numpy as np

_OVER = 2  # samples of a canvas a pixel, along each side


class Canvas:
  """What a style is a function of.

  Attributes:
    rgb: the render, float32 (H, W, 3) in [0, 1].
    x, y: position in sides, y down; (1, W) and (H, 1).
    rng: the picture's own random numbers.

  The rest is found when it is first asked for.
  """

  def __init__(self, image_u8, mask, depth, rng):
    """A canvas of one render.

    Args:
      image_u8: uint8 (h, w, 3).
      mask: of the subject, bool (h, w).
      depth: float32 (h, w).
      rng: random numbers.
    """
    self._small, self._mask, self._depth = (
      image_u8 / np.float32(255),
      mask,
      depth,
    )
    self.rgb = enlarge(self._small)
    size = self.rgb.shape[0]
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    self.x, self.y = grid[None], grid[:, None]
    self.rng = rng

  @functools.cached_property
  def light(self) -> np.ndarray:
    """How light each point is, (H, W) in [0, 1]."""
    return luma(self.rgb)

  @functools.cached_property
  def mask(self) -> np.ndarray:
    """Of the subject, float32 (H, W) in [0, 1], smooth at its edge."""
    soft = blur(self._mask.astype(np.float32), 0.012)
    return ramp(0.25, 0.75, enlarge(soft))

  @functools.cached_property
  def far(self) -> np.ndarray:
    """Depth of each point from 0, the nearest, to 1, the farthest; (H, W)."""
    low, high = self._depth.min(), self._depth.max()
    return enlarge((self._depth - low) / max(high - low, 1e-6))

  @functools.cached_property
  def sky(self) -> np.ndarray:
    """1 above the foot of the backdrop, but on the subject 0; (H, W)."""
    # Depth along the viewing axis is greatest at the foot.
    rows = np.where(self._mask, -1.0, self._depth).max(1)
    foot = (int(rows.argmax()) + 0.5) / len(rows)
    return ramp(foot + 0.01, foot - 0.01, self.y) * (1 - self.mask)

  @functools.cached_property
  def place(self) -> np.ndarray:
    """How much there is to see around the subject: bare walls 0; (H, W)."""
    high, low = self.rgb.max(-1), self.rgb.min(-1)
    around = enlarge(blur(luma(self._small), 0.09))
    thing = ramp(0.04, 0.20, np.abs(self.light - around))
    return np.maximum(thing, ramp(0.15, 0.5, high - low)) * (1 - self.mask)

  @functools.cached_property
  def outline(self) -> np.ndarray:
    """Distance to the subject's outline in sides, 0.05 where far; (H, W)."""
    soft = enlarge(blur(self._mask.astype(np.float32), 0.020))
    slope = np.sqrt(sum(d**2 for d in gradient(soft)))
    return np.minimum(np.abs(soft - 0.5) / np.maximum(slope, 1.0), 0.05)

  @functools.cached_property
  def marks(self) -> np.ndarray:
    """How much darker a point is than what is around it, about [0, 1]; (H, W).

    Eyes, seams, the dark side of edges: what a pen would draw.
    """
    local = enlarge(blur(self._small, 0.035)) - self.rgb
    return ramp(0.05, 0.20, local.max(-1) * 0.5 + 0.5 * luma(local))

  @functools.cached_property
  def _tensor(self):
    """Sums of products of slopes, of colour and outline: 3 x (H, W)."""
    flow = np.concatenate([self._small, 0.8 * self._mask[..., None]], -1)
    dx, dy = gradient(blur(flow, 0.02))
    planes = [(a * b).sum(-1) for a, b in ((dx, dx), (dx, dy), (dy, dy))]
    return np.moveaxis(enlarge(blur(np.stack(planes, -1), 0.035)), -1, 0)

  @functools.cached_property
  def angle(self) -> np.ndarray:
    """Of the tangent to edges, radians, x right and y down; (H, W)."""
    xx, xy, yy = self._tensor
    return 0.5 * np.arctan2(2 * xy, xx - yy) + np.float32(np.pi / 2)

  @functools.cached_property
  def grain(self) -> np.ndarray:
    """How sure the angle is, 0 where all is flat; (H, W)."""
    xx, _, yy = self._tensor
    return ramp(0.5, 3.0, np.sqrt(xx + yy))


def shrink(rgb) -> np.ndarray:
  """A finished canvas as a picture, uint8 (h, w, 3)."""
  side = rgb.shape[0] // _OVER
  small = rgb.reshape(side, _OVER, side, _OVER, 3).mean((1, 3))
  return np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)


# --- Arithmetic of pictures --------------------------------------------------


def luma(rgb):
  """Lightness of colours, (...)."""
  return 0.30 * rgb[..., 0] + 0.59 * rgb[..., 1] + 0.11 * rgb[..., 2]


def ramp(low, high, x):
  """0 at `low`, 1 at `high`, smooth between (low > high falls)."""
  t = np.clip((x - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)


def mix(a, b, weight):
  """Colours: `a` where weight is 0, `b` where it is 1; weight (H, W)."""
  if np.ndim(weight):
    weight = weight[..., None]
  return a + (b - a) * weight


def enlarge(a):
  """Twice as large, linear between pixels' middles."""
  for _ in range(2):
    padded = np.concatenate([a[:1], a, a[-1:]])
    near, far = np.float32(0.75) * a, np.float32(0.25) * padded
    both = np.stack([near + far[:-2], near + far[2:]], 1)
    a = np.swapaxes(both.reshape(-1, *a.shape[1:]), 0, 1)
  return np.ascontiguousarray(a)


def blur(a, radius):
  """Two boxes, about a Gaussian of half this deviation; radius in sides."""
  reach = max(round(radius * a.shape[0]), 1)
  for _ in range(2):
    for _ in range(2):
      a = _box(a, reach)
    a = np.swapaxes(a, 0, 1)
  return a


def _box(a, reach):
  """Means of 2 * reach + 1 rows, those of the border repeated."""
  padded = np.concatenate([a[:1]] * reach + [a] + [a[-1:]] * reach)
  total = padded[: len(a)].copy()
  for i in range(1, 2 * reach + 1):
    total += padded[i : i + len(a)]
  return total * np.float32(1 / (2 * reach + 1))


def gradient(a):
  """Slopes along x and y, a side as the unit."""
  size = a.shape[0]
  return [
    (np.roll(a, -1, axis) - np.roll(a, 1, axis)) * np.float32(size / 2)
    for axis in (1, 0)
  ]


def clouds(canvas, period, *, stretch_x=1.0):
  """Smooth random unevenness in about [-1, 1], (H, W)."""
  out = 0.0
  for octave in (1.0, 0.53, 0.29):
    turn, phase = canvas.rng.random(2) * 6.283
    wave = 6.283 / (period * octave)
    u = (np.cos(turn) * canvas.x / stretch_x + np.sin(turn) * canvas.y) * wave
    v = (np.cos(turn) * canvas.y - np.sin(turn) * canvas.x / stretch_x) * wave
    out = out + octave * np.sin(u + phase + 1.3 * np.sin(v * 0.7 + phase))
  return (out / 1.82).astype(np.float32)


def saturate(rgb, factor):
  """Colours farther from grey (factor > 1), or nearer."""
  grey = luma(rgb)[..., None]
  return np.clip(grey + (rgb - grey) * factor, 0, 1)


def nearest(rgb, palette):
  """Which colour of a palette is nearest: an index, (H, W)."""
  weight = np.array([0.55, 0.75, 0.4], np.float32)
  gaps = [
    (((rgb - colour) * weight) ** 2).sum(-1)
    for colour in np.asarray(palette, np.float32)
  ]
  return np.stack(gaps).argmin(0)


# --- Strokes -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dabs:
  """Dabs of paint laid over one another.

  Attributes:
    cell: which dab is on top at each point, an index into a flat list of all
      dabs; -1 where there is none. (H, W)
    along, across: position in that dab, -1 to 1; (H, W).
    row, column: canvas point in the middle of each dab, where colours are
      taken; (G * G,).
  """

  cell: np.ndarray
  along: np.ndarray
  across: np.ndarray
  row: np.ndarray
  column: np.ndarray

  def take(self, values):
    """A picture's values in the middle of each dab."""
    return values[self.row, self.column]

  def paint(self, colours, ground):
    """The dabs in their colours (G * G, 3), on a ground."""
    laid = colours[np.maximum(self.cell, 0)]
    return np.where((self.cell < 0)[..., None], ground, laid)


@functools.lru_cache(maxsize=64)
def _cells(size, count):
  """Which cell of a count x count grid each canvas row (column) lies in."""
  return np.minimum((np.arange(size) + 0.5) * count / size, count - 1).astype(
    int
  )


def lay(
  canvas: Canvas,
  *,
  count: int,
  length: float = 1.0,
  width: float = 1.0,
  angle: np.ndarray | float = 0.0,
  jitter: float = 0.5,
  square: bool = False,
  share: float = 1.0,
) -> Dabs:
  """Lays one dab about the middle of each cell of a grid.

  Args:
    canvas: to lay them on.
    count: cells a side.
    length, width: half of a dab's, in cells; of more than 2.5 cells less half
      of the jitter the end is not seen.
    angle: of the length, (H, W) or one for all.
    jitter: how far a dab strays from its cell's middle, in cells.
    square: rectangles of one size instead of ellipses.
    share: of the cells that have a dab.
  """
  size, g = canvas.rgb.shape[0], count
  u = canvas.rng.random((5, g, g), dtype=np.float32)
  grid = (np.arange(g, dtype=np.float32) + 0.5) / g
  cx = grid[None] + (u[0] - 0.5) * jitter / g
  cy = grid[:, None] + (u[1] - 0.5) * jitter / g
  row, column = (np.clip(c * size, 0, size - 1).astype(int) for c in (cy, cx))
  turn = angle[row, column] if isinstance(angle, np.ndarray) else angle + 0 * cx
  vary = np.ones_like(cx) if square else 0.85 + 0.3 * u[2]
  c, s = np.cos(turn) * g / vary, np.sin(turn) * g / vary
  rank = np.where(u[4] < share, 0.01 + u[3], -1.0)
  planes = np.stack(
    [cx, cy, c / length, s / length, -s / width, c / width, rank]
  ).astype(np.float32)
  near = min(int(max(length, width) * vary.max() + jitter / 2 + 0.5), 2)
  # Beyond the border there is no dab.
  padded = np.pad(planes, ((0, 0), (near, near), (near, near)))
  at = _cells(size, g)
  best = np.zeros((size, size), np.float32)
  cell = np.full((size, size), -1)
  for dy in range(2 * near + 1):
    rows = padded[:, at + dy]
    for dx in range(2 * near + 1):
      px, py, ux, uy, vx, vy, above = np.take(rows, at + dx, axis=2)
      a, b = _within(canvas.x - px, canvas.y - py, ux, uy, vx, vy)
      if square:
        over = np.maximum(np.abs(a), np.abs(b)) < 1
      else:
        over = a * a + b * b < 1
      over &= above > best
      np.copyto(best, above, where=over)
      number = (at + dy - near)[:, None] * g + (at + dx - near)[None]
      np.copyto(cell, number, where=over)
  px, py, ux, uy, vx, vy, _ = planes.reshape(7, -1)[:, np.maximum(cell, 0)]
  a, b = _within(canvas.x - px, canvas.y - py, ux, uy, vx, vy)
  return Dabs(
    cell=cell, along=a, across=b, row=row.ravel(), column=column.ravel()
  )


def _within(x, y, ux, uy, vx, vy):
  """Position along and across a dab, of which 1 is the end."""
  return x * ux + y * uy, x * vx + y * vy
