# SPDX-License-Identifier: Apache-2.0
"""Images as NumPy arrays: cropping, resizing, value ranges, contact sheets.

`suti.io.image_files` reads them from files. JAX is not needed.

Shape legend: `H` `W` `C` picture, `S` side of a square one.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from suti.io import files
from suti.io.record_bytes import encode_png

# --- Shapes and ranges -------------------------------------------------------


def square_crop_resize(image_u8: np.ndarray, size_px: int) -> np.ndarray:
  """Cuts the largest centred square and scales it, antialiased (Lanczos).

  Args:
    image_u8: uint8 RGB (H, W, 3).
    size_px: side of the result.

  Returns:
    uint8 RGB (S, S, 3).
  """
  height, width = image_u8.shape[:2]
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  square_u8 = image_u8[top : top + side, left : left + side]
  if side == size_px:
    return square_u8.copy()
  # Cropped before scaling: `resize` with a box would blend in pixels around it.
  scaled = Image.fromarray(square_u8).resize(
    (size_px, size_px), Image.Resampling.LANCZOS
  )
  return np.array(scaled)


def square_crop_resize_plane(plane_HW: np.ndarray, size_px: int) -> np.ndarray:
  """The same square of a mask or a depth, scaled to the nearest pixels.

  Args:
    plane_HW: bool or float16 (H, W).
    size_px: side of the result.

  Returns:
    (S, S), of the same dtype.
  """
  height, width = plane_HW.shape
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  at_S = ((np.arange(size_px) + 0.5) * side / size_px).astype(int)
  return plane_HW[top + at_S[:, None], left + at_S]


def depth_u8(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """A subject's depth as a grey picture, near is bright and around it is black.

  Nearness is 1 / depth, over that of the nearest point, as if all around the
  subject were infinitely far: so SynCD's code has it.

  Args:
    depth, mask: (H, W), with a pixel in the mask.

  Returns:
    uint8 (H, W, 3).
  """
  near = np.where(mask, 1 / np.where(mask, depth.astype(np.float32), 1), 0)
  grey = np.round(near / max(near.max(), 1e-9) * 255).astype(np.uint8)
  return np.repeat(grey[..., None], 3, axis=-1)


def square_around(image_u8: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
  """Cuts out the square around a mask's box; outside of the picture is black.

  Args:
    image_u8: uint8 RGB (H, W, 3).
    mask_HW: bool; of one without a pixel the whole picture is returned.

  Returns:
    uint8 RGB, as large as the longer side of the box.
  """
  rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
  if not len(rows):
    return image_u8
  height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
  side = int(max(height, width))
  top = int(rows[0]) - (side - height) // 2
  left = int(columns[0]) - (side - width) // 2
  padded = np.pad(image_u8, ((side, side), (side, side), (0, 0)))
  return padded[top + side : top + 2 * side, left + side : left + 2 * side]


def shrink(image_u8: np.ndarray, short_px: int) -> np.ndarray:
  """Scales a large picture, all of it, to a shorter side of `short_px`."""
  height, width = image_u8.shape[:2]
  if min(height, width) <= short_px:
    return image_u8
  scale = short_px / min(height, width)
  size = (round(width * scale), round(height * scale))
  scaled = Image.fromarray(image_u8).resize(size, Image.Resampling.LANCZOS)
  return np.array(scaled)


def to_pm1(image_u8: Any) -> Any:
  """Maps uint8 [0, 255] to float32 [-1, 1]; NumPy or JAX, any shape."""
  return image_u8.astype(np.float32) / 127.5 - 1.0


def to_u8(image_pm1: Any) -> Any:
  """Maps float [-1, 1] to uint8, with clipping; the inverse of `to_pm1`."""
  scaled = image_pm1.astype(np.float32) * 127.5 + 127.5
  return scaled.round().clip(0.0, 255.0).astype(np.uint8)


# --- Out ---------------------------------------------------------------------


def save_png(path: str | os.PathLike, image_u8: np.ndarray) -> None:
  """Writes a picture as PNG, whole or not at all.

  Args:
    path: where; missing folders are made.
    image_u8: uint8 RGB (H, W, 3).

  Raises:
    ValueError: the disk is full.
  """
  files.write_atomic(path, encode_png(image_u8))


def contact_sheet(
  rows: Sequence[Sequence[np.ndarray]],
  labels: Sequence[str | Sequence[str]] | None = None,
  *,
  size_px: int | None = None,
  gap_px: int = 6,
) -> np.ndarray:
  """Lays pictures out in rows on white, with texts.

  Args:
    rows: pictures of each row, uint8 RGB of any size; rows may differ in
      length.
    labels: for each row either one text, printed above it, or a text for each
      of its pictures, printed below it; "" leaves one out.
    size_px: side of a cell, into which each picture is fitted; the largest
      picture's side if None.
    gap_px: space around cells.

  Returns:
    The sheet, uint8 RGB.
  """
  assert any(len(row) for row in rows), "a sheet needs a picture"
  labels = [""] * len(rows) if labels is None else labels
  cell_px = size_px or max(
    max(image_u8.shape[:2]) for row in rows for image_u8 in row
  )
  columns = max(len(row) for row in rows)
  strips = [
    _strip(row, label, columns=columns, cell_px=cell_px, gap_px=gap_px)
    for row, label in zip(rows, labels, strict=True)
  ]
  margin = np.full((gap_px, *strips[0].shape[1:]), 255, np.uint8)
  return np.concatenate([*strips, margin])


def _strip(
  row: Sequence[np.ndarray],
  label: str | Sequence[str],
  *,
  columns: int,
  cell_px: int,
  gap_px: int,
) -> np.ndarray:
  """One row of a sheet, as high as its texts need."""
  font = ImageFont.load_default(size=max(10, min(cell_px // 9, 18)))
  line_px = round(font.getbbox("Ag")[3] * 1.2)
  width = columns * (cell_px + gap_px) + gap_px
  above = label if isinstance(label, str) else ""
  below = [] if isinstance(label, str) else list(label)
  head = _wrap(above, font, width - 2 * gap_px)
  feet = [_wrap(text, font, cell_px) for text in below]
  top = gap_px + line_px * len(head)
  foot_lines = max((len(lines) for lines in feet), default=0)
  foot_px = foot_lines * line_px + (gap_px if foot_lines else 0)
  strip = Image.new("RGB", (width, top + cell_px + foot_px), "white")
  draw = ImageDraw.Draw(strip)
  for index, line in enumerate(head):
    draw.text((gap_px, index * line_px), line, fill="black", font=font)
  for column, image_u8 in enumerate(row):
    left = gap_px + column * (cell_px + gap_px)
    picture = _fit(image_u8, cell_px)
    inset = [(cell_px - side) // 2 for side in picture.size]
    strip.paste(picture, (left + inset[0], top + inset[1]))
    for index, line in enumerate(feet[column] if column < len(feet) else []):
      at = (left, top + cell_px + index * line_px)
      draw.text(at, line, fill="black", font=font)
  return np.array(strip)


def _fit(image_u8: np.ndarray, size_px: int) -> Image.Image:
  """Scales a picture to fit a square cell, keeping its proportions."""
  image = Image.fromarray(image_u8)
  scale = size_px / max(image.size)
  size = [max(1, round(side * scale)) for side in image.size]
  if tuple(size) == image.size:
    return image
  return image.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _wrap(text: str, font: Any, width: int, max_lines: int = 3) -> list[str]:
  """Breaks a text into lines that fit; what does not fit ends in "..."."""
  lines: list[str] = []
  for word in text.split():
    longer = f"{lines[-1]} {word}" if lines else word
    if lines and font.getlength(longer) <= width:
      lines[-1] = longer
    else:
      lines.append(word)
  cut = lines[:max_lines]
  for index, line in enumerate(cut):
    ends = index == max_lines - 1 and len(lines) > max_lines
    while line and font.getlength(line + "..." * ends) > width:
      line, ends = line[:-1], True
    cut[index] = line + "..." * ends
  return cut
