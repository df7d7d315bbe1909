# SPDX-License-Identifier: Apache-2.0
"""SubjectWorld in the manner of painters: a render in, a painting out.

What is taken of each is what one names the painter by: the stroke, the
palette, the light, a motif where the render leaves room for it. A subject keeps
its shape and, as far as the painter would, its colours.

Each function takes a `canvas.Canvas` and returns colours, (H, W, 3).
"""

import numpy as np

from suti.world.canvas import (
  clouds,
  lay,
  luma,
  mix,
  nearest,
  ramp,
  saturate,
)


def _rgb(*values):
  return np.array(values, np.float32)


def _between(low, middle, high, level):
  """A palette of three tones, by lightness (H, W)."""
  level = level[..., None]
  return np.where(
    level < 0.5,
    low + (middle - low) * np.clip(level * 2, 0, 1),
    middle + (high - middle) * np.clip(level * 2 - 1, 0, 1),
  )


def _relief(dabs, strength):
  """Light from above left on the ridges of thick strokes, (H, W)."""
  bristle = np.sin(dabs.across * 7.0 + dabs.cell * 1.7)
  ridge = -dabs.across * 0.9 + 0.35 * bristle
  return strength * np.where(dabs.cell < 0, 0.0, ridge)[..., None]


def monet(canvas):
  """Claude Monet: soft dabs of broken colour, violet shadows, no black."""
  haze = _between(
    _rgb(0.27, 0.30, 0.62),
    _rgb(0.55, 0.66, 0.74),
    _rgb(1.0, 0.95, 0.78),
    canvas.light,
  )
  rgb = 0.14 + 0.86 * saturate(canvas.rgb, 1.5)
  there = np.maximum(canvas.mask, canvas.place)
  rgb = mix(rgb, haze, 0.40 - 0.22 * there)
  level = 0.35 * clouds(canvas, 0.5)
  # A bare wall becomes a garden: drifts of rose, blue and green.
  back = 1 - canvas.mask
  drift = clouds(canvas, 0.6)
  bloom = np.where(
    (drift > 0.1)[..., None], _rgb(0.93, 0.74, 0.80), _rgb(0.56, 0.72, 0.90)
  )
  bloom = mix(bloom, _rgb(0.55, 0.76, 0.58), ramp(-0.3, -0.7, drift))
  bare = back - canvas.place
  rgb = mix(rgb, bloom, bare * (0.36 + 0.14 * canvas.sky) + 0.06 * back)
  along = np.where(canvas.grain * canvas.mask > 0.3, canvas.angle, level)
  # Broken colour: pinks, lilacs, greens and yellows that mix in the eye.
  pure = _rgb(
    (0.13, -0.05, 0.02), (-0.02, -0.05, 0.13), (-0.08, 0.07, -0.05),
    (0.10, 0.07, -0.12), (-0.10, 0.02, 0.10),
  )  # fmt: skip
  dabs = lay(canvas, count=21, length=1.25, width=0.58, angle=along, jitter=1.0)
  colours = dabs.take(rgb)
  number = len(colours)
  pick = (canvas.rng.random(number) * len(pure)).astype(int)
  strength = canvas.rng.random((number, 1), dtype=np.float32)
  calm = 1 - 0.5 * dabs.take(there)[:, None]
  value = 0.10 * (canvas.rng.random((number, 1), dtype=np.float32) - 0.5)
  colours = colours + (pure[pick] * strength + value) * calm
  out = dabs.paint(colours, rgb) + _relief(dabs, 0.014)
  return mix(out, rgb, 0.40 * canvas.mask)


def van_gogh(canvas):
  """Vincent van Gogh: long thick strokes that swirl, blue against yellow."""
  x, y, back = canvas.x, canvas.y, 1 - canvas.mask
  rgb = saturate(canvas.rgb, 1.6)
  tone = ramp(0.0, 1.0, canvas.light * 0.8 + 0.25 * clouds(canvas, 0.35))
  night = _between(
    _rgb(0.03, 0.08, 0.34), _rgb(0.10, 0.30, 0.70), _rgb(0.50, 0.74, 0.90), tone
  )
  wheat = _between(
    _rgb(0.20, 0.22, 0.10), _rgb(0.72, 0.55, 0.14), _rgb(0.98, 0.86, 0.42), tone
  )
  rgb = mix(rgb, night, 0.82 * canvas.sky * (1 - 0.55 * canvas.place))
  rgb = mix(rgb, wheat, (0.5 * back - 0.35 * canvas.place) * (1 - canvas.sky))
  field = 1.3 * clouds(canvas, 0.8)
  # Stars, and what the strokes turn about: rings of light in the backdrop.
  for i in range(3):
    at = canvas.rng.random(3)
    px, py = (i + 0.25 + 0.5 * at[0]) / 3, 0.08 + 0.20 * at[1]
    radius = 0.050 + 0.025 * at[2]
    r = np.sqrt((x - px) ** 2 + (y - py) ** 2) / radius
    field = np.where(r < 3.4, np.arctan2(y - py, x - px) + np.pi / 2, field)
    core, ring = np.exp(-(r**4)), np.exp(-(((r - 2.1) / 0.55) ** 2))
    rgb = mix(rgb, _rgb(0.98, 0.90, 0.48), 0.85 * ring * canvas.sky)
    rgb = mix(rgb, _rgb(1.0, 0.78, 0.16), core * canvas.sky)
  sure = canvas.grain * canvas.mask > 0.25
  angle = np.where(sure, canvas.angle, field)
  line = ramp(0.020, 0.008, canvas.outline)
  rgb = mix(rgb, rgb * 0.35, 0.8 * canvas.marks * canvas.mask)
  rgb = mix(rgb, _rgb(0.05, 0.07, 0.25), 0.85 * line)
  dabs = lay(canvas, count=24, length=1.5, width=0.5, angle=angle, jitter=0.8)
  colours = dabs.take(rgb)
  wave = canvas.rng.random((len(colours), 1), dtype=np.float32) - 0.5
  calm = 1 - 0.6 * dabs.take(canvas.mask)[:, None]
  colours = colours + wave * calm * _rgb(0.26, 0.26, 0.18)
  out = dabs.paint(colours, rgb) + _relief(dabs, 0.04)
  out = mix(out, rgb, 0.45 * canvas.mask)
  return mix(
    out, _rgb(0.05, 0.07, 0.25), 0.5 * ramp(0.012, 0.004, canvas.outline)
  )


def rembrandt(canvas):
  """Rembrandt: one warm light on the subject, the rest in brown darkness."""
  x, y = canvas.x, canvas.y
  rows = canvas.mask.sum(1) + 1e-3
  columns = canvas.mask.sum(0) + 1e-3
  cy = float((rows * y[:, 0]).sum() / rows.sum())
  cx = float((columns * x[0]).sum() / columns.sum())
  r = np.sqrt((x - cx + 0.08) ** 2 + (y - cy + 0.10) ** 2)
  lit = np.exp(-((r / 0.34) ** 2))
  # The light falls from the upper left and leaves the right in shadow.
  fall = ramp(0.42, -0.30, (x - cx) * 0.8 + (y - cy) * 0.5)
  figure = canvas.rgb * _rgb(1.10, 0.92, 0.66)
  figure = np.clip(figure, 0, 1) ** 1.25
  figure = figure * (0.22 + 1.05 * fall)[..., None]
  umber = _rgb(0.105, 0.065, 0.035)
  room = canvas.light[..., None] * _rgb(0.52, 0.36, 0.17)
  room = umber + room * (0.12 + 0.62 * lit * fall)[..., None]
  room = mix(room, canvas.rgb * _rgb(0.40, 0.28, 0.14), 0.35)
  rgb = mix(room, figure, canvas.mask)
  dabs = lay(
    canvas,
    count=30,
    length=1.3,
    width=0.7,
    angle=canvas.angle,
    jitter=1.0,
  )
  out = dabs.paint(dabs.take(rgb), rgb)
  out = mix(out, rgb, 0.35 + 0.35 * canvas.mask)
  out = out + _relief(dabs, 0.022) * (0.25 + luma(out))[..., None]
  corner = ramp(0.35, 0.75, np.sqrt((x - 0.5) ** 2 + (y - 0.5) ** 2))
  return out * (1 - 0.6 * corner)[..., None]


def magritte(canvas):
  """Rene Magritte: a calm day sky everywhere, bowler hats, a green apple."""
  x, y = canvas.x, canvas.y
  rgb = 0.07 + 0.86 * canvas.rgb
  air = mix(
    np.broadcast_to(_rgb(0.36, 0.60, 0.86), rgb.shape),
    _rgb(0.78, 0.88, 0.95),
    np.broadcast_to(ramp(0.0, 0.75, y), canvas.mask.shape),
  )
  puff = np.zeros_like(canvas.mask)
  for _ in range(5):
    px, py, size = canvas.rng.random(3)
    py, size = 0.06 + 0.5 * py, 0.05 + 0.035 * size
    for du, dv, dr in (
      (0, 0, 1.0), (-1.2, 0.25, 0.75), (1.2, 0.2, 0.8), (0.5, -0.5, 0.7),
      (2.1, 0.4, 0.45), (-2.0, 0.45, 0.45),
    ):  # fmt: skip
      r = np.sqrt(
        ((x - px) / size - du) ** 2 + (((y - py) / size - dv) * 1.5) ** 2
      )
      shade = ramp(1.1 * dr, 0.75 * dr, r) * (0.97 - 0.12 * dv)
      puff = np.maximum(puff, shade)
  sky = mix(air, _rgb(1.0, 1.0, 0.99), np.clip(puff, 0, 1))
  # What stands in the backdrop is still there, as if seen through the sky.
  rgb = mix(rgb, sky, canvas.sky * (0.94 - 0.50 * canvas.place))
  rgb = mix(rgb, rgb * _rgb(0.93, 0.97, 1.02), 0.6)
  free = 1 - canvas.mask
  for i in range(3):
    at = canvas.rng.random(3)
    px, py = (0.14, 0.86, 0.5)[i] + 0.10 * (at[0] - 0.5), 0.10 + 0.16 * at[1]
    py = py if i < 2 else 0.055
    scale = 0.070 + 0.012 * at[2]
    u, v = (x - px) / scale, (y - py) / scale
    if i == int(at[2] * 2):
      rgb = _apple(rgb, u * 1.05, v * 1.05, free)
    else:
      rgb = _bowler(rgb, u, v, free)
  return rgb


def _bowler(rgb, u, v, free):
  """A bowler hat, one unit in half its brim."""
  dome = ramp(1.08, 0.92, np.sqrt((u / 0.66) ** 2 + ((v + 0.05) / 0.70) ** 2))
  dome = dome * ramp(0.40, 0.30, v)
  brim = ramp(1.1, 0.9, np.sqrt(u**2 + ((v - 0.36 + 0.10 * u * u) / 0.17) ** 2))
  shine = 0.30 * np.exp(-((u + 0.25) ** 2 + (v + 0.3) ** 2) / 0.06)
  colour = _rgb(0.09, 0.09, 0.12) + shine[..., None]
  return mix(rgb, colour, np.maximum(dome, brim) * free)


def _apple(rgb, u, v, free):
  """A green apple, one unit in its radius."""
  r = np.sqrt(u**2 + (v * 1.08) ** 2) + 0.16 * np.exp(
    -((u / 0.3) ** 2 + ((v + 0.95) / 0.3) ** 2)
  )
  ball = ramp(1.06, 0.92, r)
  lit = np.clip(0.75 - 0.38 * u - 0.30 * v, 0.25, 1.15)[..., None]
  colour = _rgb(0.44, 0.74, 0.18) * lit
  glint = np.exp(-((u + 0.35) ** 2 + (v + 0.35) ** 2) / 0.05)
  colour = mix(colour, _rgb(1, 1, 0.9), 0.7 * glint)
  rgb = mix(rgb, colour, ball * free)
  leaf = ramp(
    1.1, 0.8, np.sqrt(((u - 0.3) / 0.4) ** 2 + ((v + 1.1) / 0.2) ** 2)
  )
  return mix(rgb, _rgb(0.13, 0.36, 0.10), leaf * free)


def picasso(canvas):
  """Pablo Picasso: planes that break subject and room, ochre, grey and blue."""
  x, y, rng = canvas.x, canvas.y, canvas.rng
  size = canvas.rgb.shape[0]
  facet = np.zeros((size, size), int)
  rim = np.full((size, size), 9.0, np.float32)
  for i in range(7):
    turn = np.pi * (i + 0.7 * rng.random()) / 7
    off = (rng.random() - 0.5) * (0.70 if i % 2 else 0.35)
    line = (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn) - off
    facet = facet * 2 + (line > 0)
    rim = np.minimum(rim, np.abs(line))
  count = 2**7
  shift = (rng.random((2, count)) - 0.5) * 0.075
  zoom = 0.98 + 0.16 * rng.random(count)

  def look(axis, grid):
    at = (grid - 0.5) / zoom[facet] + 0.5 + shift[axis][facet]
    return np.clip(at * size, 0, size - 1).astype(int)

  row, column = look(1, y), look(0, x)
  rgb, mask = canvas.rgb[row, column], canvas.mask[row, column]
  # A plane of the room is of one colour; the subject's are half its own.
  pure = _rgb(
    (0.80, 0.58, 0.30), (0.46, 0.56, 0.62), (0.92, 0.82, 0.62),
    (0.33, 0.44, 0.58), (0.66, 0.42, 0.28), (0.70, 0.68, 0.60),
    (0.52, 0.54, 0.38),
  )  # fmt: skip
  pick = pure[(rng.random(count) * len(pure)).astype(int)][facet]
  light = luma(rgb)
  there = canvas.place[row, column]
  room = pick * (0.62 + 0.45 * light)[..., None]
  room = mix(room, saturate(rgb, 1.1), 0.18 + 0.45 * there)
  figure = saturate(0.05 + 0.95 * rgb, 1.25)
  figure = mix(figure, pick * (0.35 + 0.95 * light)[..., None], 0.26)
  out = mix(room, figure, mask)
  # A plane is light at one side and dark at the other.
  turn = rng.random(count) * 6.283
  slope = np.cos(turn)[facet] * (x - 0.5) + np.sin(turn)[facet] * (y - 0.5)
  step = (rng.random(count)[facet] - 0.5) * 0.30
  out = out * (1 + (0.9 - 0.3 * mask) * slope + step)[..., None]
  dabs = lay(canvas, count=30, length=0.9, width=0.45, angle=1.1, jitter=0.8)
  out = out + _relief(dabs, 0.018)
  line = ramp(0.007, 0.003, rim) * (0.45 + 0.4 * rng.random(count)[facet])
  ink = ramp(0.013, 0.006, canvas.outline[row, column]) * 0.8
  ink = np.maximum(ink, 0.75 * canvas.marks[row, column] * mask)
  return mix(out, _rgb(0.09, 0.07, 0.08), np.maximum(line, ink))


def hokusai(canvas):
  """Katsushika Hokusai: a woodblock print, flat colours, outlines, a seal."""
  x, y = canvas.x, canvas.y
  paper = _rgb(0.94, 0.88, 0.74)
  light = canvas.light
  # Flat tones: the subject's hues and the blocks' colours, three steps of each.
  level = np.floor(np.clip(light, 0, 0.999) * 3.4 + 0.25) / 3.3 * 0.86 + 0.10
  tint = canvas.rgb / np.maximum(light, 0.06)[..., None]
  flat = np.clip(tint * level[..., None], 0, 1)
  block = _rgb(
    (0.10, 0.17, 0.33), (0.18, 0.36, 0.58), (0.47, 0.65, 0.74),
    (0.76, 0.83, 0.78), (0.94, 0.88, 0.74), (0.84, 0.64, 0.34),
    (0.76, 0.32, 0.22), (0.45, 0.29, 0.20), (0.42, 0.54, 0.34),
    (0.87, 0.62, 0.58), (0.42, 0.28, 0.44), (0.14, 0.13, 0.16),
  )  # fmt: skip
  printed = block[nearest(flat, block)]
  rgb = mix(printed, flat * _rgb(1.0, 0.95, 0.83), 0.25 + 0.40 * canvas.mask)
  # The backdrop is paper, shaded off to Prussian blue at the top.
  rgb = mix(rgb, paper, canvas.sky * (0.55 - 0.40 * canvas.place))
  top = ramp(0.26 + 0.02 * np.sin(9 * x), 0.0, y)
  rgb = mix(rgb, _rgb(0.12, 0.25, 0.48), top * (1 - canvas.mask) * 0.92)
  grain = np.sin(y * 150 + 5 * np.sin(x * 5 + 3 * y) + 9 * clouds(canvas, 0.9))
  rgb = rgb * (1 - 0.045 * (grain > 0.3) * (1 - 0.7 * canvas.mask))[..., None]
  ink = np.maximum(
    ramp(0.014, 0.007, canvas.outline),
    ramp(0.25, 0.8, canvas.marks) * (0.35 + 0.65 * canvas.mask),
  )
  rgb = mix(rgb, _rgb(0.07, 0.10, 0.22), 0.9 * ink)
  px = 0.085 if canvas.rng.random() < 0.5 else 0.915
  seal = ramp(0.046, 0.040, np.abs(x - px))
  seal = seal * ramp(0.085, 0.079, np.abs(y - 0.13))
  rgb = mix(rgb, _rgb(0.80, 0.20, 0.14), seal)
  marks = (np.abs(x - px) < 0.022) * (np.sin((y - 0.13) * 150) > 0.25) * seal
  return mix(rgb, paper, 0.9 * marks)


def seurat(canvas):
  """Georges Seurat: dots of pure colours that mix in the eye."""
  rgb = 0.06 + 0.94 * saturate(canvas.rgb, 1.6)
  shade = ramp(0.70, 0.15, canvas.light)
  rgb = mix(rgb, rgb * _rgb(0.82, 0.86, 1.20), 0.7 * shade)
  ground = 0.5 * rgb + 0.5 * _rgb(0.97, 0.94, 0.86)
  pure = _rgb(
    (0.24, 0.04, -0.16), (-0.16, -0.02, 0.24), (0.16, 0.14, -0.22),
    (-0.14, 0.12, -0.06), (0.12, -0.12, 0.12),
  )  # fmt: skip
  dabs = lay(canvas, count=30, length=0.50, width=0.50, jitter=0.45)
  colours = dabs.take(rgb)
  pick = (canvas.rng.random(len(colours)) * len(pure)).astype(int)
  calm = 1 - 0.45 * dabs.take(canvas.mask)[:, None]
  colours = colours * 0.94 + pure[pick] * calm
  out = dabs.paint(colours, ground)
  return mix(out, rgb * 0.92, 0.22 * canvas.mask)


def lichtenstein(canvas):
  """Roy Lichtenstein: thick outlines, flat primaries, a screen of dots."""
  x, y, mask, light = canvas.x, canvas.y, canvas.mask, canvas.light
  bold = saturate(np.clip((canvas.rgb - 0.5) * 1.2 + 0.60, 0, 1), 2.0)
  inks = _rgb(
    (0.99, 0.98, 0.95), (1.00, 0.87, 0.10), (0.90, 0.13, 0.15),
    (0.10, 0.30, 0.75), (0.09, 0.09, 0.12), (0.99, 0.74, 0.64),
    (0.99, 0.54, 0.10), (0.16, 0.60, 0.36), (0.58, 0.22, 0.64),
    (0.62, 0.34, 0.16), (0.56, 0.78, 0.94), (0.98, 0.55, 0.68),
    (0.50, 0.52, 0.56),
  )  # fmt: skip
  printed = inks[nearest(bold, inks)]
  flat = mix(printed, bold, 0.30 * mask)
  pitch = 1 / 20
  u, v = (x + y) / (1.4142 * pitch), (x - y) / (1.4142 * pitch)
  spot = np.sqrt((u - np.round(u)) ** 2 + (v - np.round(v)) ** 2)
  dots = ramp(0.08, -0.08, spot - 0.16 - 0.34 * ramp(1.0, 0.30, light))
  # The room is printed in dots of one ink a region; greys in blue and yellow.
  grey = bold.max(-1) - bold.min(-1) < 0.22
  plain = np.where(
    (canvas.sky > 0.5)[..., None], _rgb(0.16, 0.48, 0.86), _rgb(0.93, 0.22, 0.2)
  )
  hue = np.where(grey[..., None], plain, printed)
  white = np.broadcast_to(_rgb(0.99, 0.98, 0.94), flat.shape)
  rgb = mix(mix(white, hue, dots), flat, mask)
  shade = ramp(0.50, 0.32, light) * mask
  rgb = mix(rgb, rgb * 0.55, shade * dots * 0.8)
  ink = np.maximum(
    ramp(0.021, 0.012, canvas.outline),
    ramp(0.30, 0.75, canvas.marks) * (0.30 + 0.70 * mask),
  )
  return mix(rgb, _rgb(0.05, 0.05, 0.07), ink)
