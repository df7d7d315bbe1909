# SPDX-License-Identifier: Apache-2.0
"""SubjectWorld in other techniques: pencil, watercolor, pixels, mosaic.

Each function takes a `canvas.Canvas` and returns colours, (H, W, 3).
"""

import numpy as np

from suti.world.canvas import (
  blur,
  clouds,
  enlarge,
  lay,
  luma,
  mix,
  ramp,
  saturate,
)


def _rgb(*values):
  return np.array(values, np.float32)


def _hatch(canvas, angle, pitch):
  """Parallel pencil lines, a little unsteady: weight (H, W)."""
  across = canvas.x * np.sin(angle) - canvas.y * np.cos(angle)
  wobble = 0.10 * clouds(canvas, 0.35)
  phase = across / pitch + wobble
  number = np.floor(phase)
  line = np.abs(phase - number - 0.5)
  press = 0.7 + 0.3 * np.sin(number * 12.9898 + angle * 7)
  return ramp(0.34, 0.10, line) * press


def pencil(canvas):
  """A pencil sketch: graphite lines and hatching on white paper."""
  tone = np.clip((canvas.light - 0.08) / 0.80, 0, 1)
  x, y = canvas.x, canvas.y
  middle = np.sqrt(((x - 0.5) / 0.56) ** 2 + ((y - 0.5) / 0.54) ** 2)
  fade = np.maximum(canvas.mask, ramp(1.08, 0.60, middle) * 0.80)
  tone = 1 - (1 - tone) * fade
  dark = np.zeros_like(tone)
  for angle, pitch, start in (
    (0.8, 0.034, 0.84),
    (2.35, 0.031, 0.56),
    (1.5, 0.028, 0.34),
  ):
    lines = _hatch(canvas, angle, pitch)
    weight = ramp(start, start - 0.30, tone)
    dark = np.maximum(dark, lines * weight * 0.62)
  dark = np.maximum(dark, 0.30 * ramp(0.75, 0.10, tone))
  press = 0.78 + 0.22 * clouds(canvas, 0.3)
  line = np.maximum(
    ramp(0.011, 0.004, canvas.outline),
    ramp(0.15, 0.75, canvas.marks) * (0.40 + 0.60 * canvas.mask),
  )
  dark = np.maximum(dark, 0.92 * line * press * fade)
  tooth = canvas.rng.random(dark.shape, dtype=np.float32)
  dark = dark * (0.80 + 0.36 * tooth)
  paper = _rgb(0.975, 0.97, 0.955)
  return mix(
    paper + 0 * canvas.rgb, _rgb(0.16, 0.16, 0.18), np.clip(dark, 0, 1)
  )


def watercolor(canvas):
  """Watercolor: thin washes that pool at their edges, on rough paper."""
  size = canvas.rgb.shape[0]
  dx, dy = 0.014 * clouds(canvas, 0.30), 0.014 * clouds(canvas, 0.30)
  bleed = 0.6 + 1.4 * (1 - canvas.mask)
  row = np.clip((canvas.y + dy * bleed) * size, 0, size - 1).astype(int)
  column = np.clip((canvas.x + dx * bleed) * size, 0, size - 1).astype(int)
  mask = canvas.mask[row, column]
  wash = mix(blur(canvas.rgb, 0.03), canvas.rgb, mask)[row, column]
  wash = saturate(wash, 1.7)
  # Washes lie in few steps of tone.
  light = luma(wash)
  level = np.floor(light * 5 + 0.5 * clouds(canvas, 0.25)) / 4.6
  wash = wash * (1 + 0.5 * (level - light) / np.maximum(light, 0.2))[..., None]
  # Pigment blooms where the sheet was wet: each bloom of its own hue.
  back = 1 - mask
  flow = clouds(canvas, 0.40)
  bloom = np.where(
    (flow > 0)[..., None], _rgb(0.98, 0.80, 0.62), _rgb(0.55, 0.74, 0.92)
  )
  wash = mix(wash, wash * bloom, 0.75 * np.abs(flow) * back)
  thin = 0.14 + 0.16 * np.abs(flow) + back * (0.14 + 0.22 * flow)
  x, y = canvas.x, canvas.y
  ragged = np.maximum(np.abs(x - 0.5), np.abs(y - 0.5))
  ragged = ragged + 0.045 * clouds(canvas, 0.28)
  sheet = ramp(0.415, 0.455, ragged) * (1 - 0.6 * mask)
  thin = np.maximum(np.clip(thin, 0, 1), sheet)
  paper = _rgb(0.985, 0.975, 0.95)
  out = mix(wash, paper, thin)
  pool = 0.38 * ramp(0.020, 0.006, canvas.outline[row, column])
  rim = 0.22 * np.exp(-(((ragged - 0.412) / 0.014) ** 2)) * back
  mark = 0.45 * canvas.marks[row, column] * mask
  out = out * (1 - np.maximum(np.maximum(pool, rim), mark))[..., None]
  tooth = enlarge(canvas.rng.random((size // 2,) * 2, dtype=np.float32)) - 0.5
  return out * (1 + 0.10 * tooth)[..., None]


def pixels(canvas):
  """Pixel art: few large pixels, few colours, a dark outline."""
  size = canvas.rgb.shape[0]
  block = max(round(size / 43) * 2, 2)
  edges = np.arange(0, size, block)
  widths = np.diff(edges, append=size)

  def pool(a):
    total = np.add.reduceat(np.add.reduceat(a, edges, 0), edges, 1)
    area = widths[:, None] * widths[None]
    return total / (area[..., None] if a.ndim == 3 else area)

  rgb = pool(canvas.rgb * (canvas.mask[..., None] + 0.02))
  cover = pool(canvas.mask)
  inner = rgb / (cover + 0.02)[..., None]
  outer = pool(canvas.rgb * (1.02 - canvas.mask[..., None]))
  outer = outer / (1.02 - cover)[..., None]
  solid = cover > 0.5
  tiles = np.where(solid[..., None], inner, outer)
  tiles = saturate(np.clip((tiles - 0.5) * 1.2 + 0.5, 0, 1), 1.35)
  # Five levels a channel, on the backdrop in a chequer between two of them; the
  # subject has more, or its hue would change from pixel to pixel.
  parity = 0.34 * (np.indices(solid.shape).sum(0) % 2 - 0.5)
  coarse = np.round(tiles * 4 + 0.5 * parity[..., None]) / 4
  tiles = np.where(solid[..., None], np.round(tiles * 9) / 9, coarse)
  padded = np.pad(solid, 1)
  beside = (
    padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
  )
  outline = beside & ~solid
  tiles = np.where(outline[..., None], _rgb(0.08, 0.06, 0.14), tiles)
  return np.repeat(np.repeat(tiles, widths, 0), widths, 1).astype(np.float32)


def mosaic(canvas):
  """A mosaic: square stones in rows along the outline, grout between them."""
  rgb = saturate(canvas.rgb, 1.3)
  rgb = mix(rgb, rgb * _rgb(1.02, 0.97, 0.88), 0.6)
  gold = _rgb(0.86, 0.66, 0.22) * (0.6 + 0.5 * canvas.light[..., None])
  rgb = mix(rgb, gold, (0.6 - 0.4 * canvas.place) * canvas.sky)
  angle = np.where(canvas.grain > 0.3, canvas.angle, 0.25 * clouds(canvas, 0.9))
  dabs = lay(
    canvas,
    count=24,
    length=0.46,
    width=0.46,
    angle=angle,
    jitter=0.10,
    square=True,
  )
  colours = dabs.take(rgb)
  level = canvas.rng.random((len(colours), 1), dtype=np.float32) - 0.5
  hue = canvas.rng.random((len(colours), 3), dtype=np.float32) - 0.5
  calm = 1 - 0.5 * dabs.take(canvas.mask)[:, None]
  colours = colours + (0.20 * level + 0.06 * hue) * calm
  grout = mix(
    np.broadcast_to(_rgb(0.24, 0.21, 0.19), rgb.shape), rgb * 0.62, 0.75
  )
  out = dabs.paint(colours.astype(np.float32), grout)
  bevel = -0.07 * (dabs.across + dabs.along) * (dabs.cell >= 0)
  return out + bevel[..., None]
