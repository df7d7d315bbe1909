# SPDX-License-Identifier: Apache-2.0
"""Pictures as people have them, in; pictures to look at, out.

`load_image` takes what cameras, phones and web pages produce and gives uint8
RGB, or one line saying what is wrong with it. Cropping, resizing and value
ranges are here too, and the contact sheet. No JAX: a picture is a NumPy array.

Shape legend: `H` `W` `C` picture, `S` side of a square one.
"""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont

from suti.io import files
from suti.io.record_bytes import encode_png

MIN_SIDE_PX = 64
MAX_SIDE_PX = 8000

# Formats of photographs. Pillow would open others too, some by starting other
# programs: a file from a stranger must not choose.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_REMEDY = "give a JPEG, PNG or WebP file"


# --- In ----------------------------------------------------------------------


def load_image(
  source: str | os.PathLike | bytes,
  *,
  max_pixels: int = MAX_SIDE_PX * MAX_SIDE_PX,
) -> np.ndarray:
  """Reads a picture of any usual kind.

  It is turned as its camera was held, brought to sRGB where it says what its
  colours are, laid on white where it is transparent, and reduced to 8 bits.
  Of several frames the first is taken.

  Args:
    source: a path, or the file's bytes.
    max_pixels: refuse larger pictures; known before they are unpacked.

  Returns:
    uint8 RGB (H, W, 3), sides from 64 to 8000 px.

  Raises:
    ValueError: absent, empty, no picture, damaged, too small, too large.
  """
  name, content = _read(source)
  try:
    with warnings.catch_warnings():
      # Pillow warns of large pictures and of odd tags; sizes are checked below
      # and a picture that opens is good enough.
      warnings.simplefilter("ignore")
      with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        _check_size(name, image.size, max_pixels)
        return _to_rgb(image)
  except (_UnfitError, MemoryError) as error:
    raise ValueError(f"{error}") from error
  except Image.DecompressionBombError as error:
    raise ValueError(
      f"{name} declares more pixels than {max_pixels}: {_REMEDY} of at most"
      f" {MAX_SIDE_PX} px a side."
    ) from error
  except Exception as error:
    # Each format's reader fails in its own way on a damaged file: OSError,
    # SyntaxError, struct.error, zlib.error, ...
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
      reason = "not a format that is known"
    raise ValueError(
      f"{name} cannot be read as a picture ({reason}): {_REMEDY} that opens in"
      " an image viewer."
    ) from error


class _UnfitError(Exception):
  """A whole picture that is not for us; its text is for the user."""


def _read(source: str | os.PathLike | bytes) -> tuple[str, bytes]:
  """Gets a source's name for messages, and its bytes."""
  if isinstance(source, bytes):
    name, content = "The picture", source
  else:
    path = Path(source)
    name = str(path)
    if not path.is_file():
      what = "is a folder" if path.is_dir() else "does not exist"
      raise ValueError(f"{name} {what}: {_REMEDY}.")
    try:
      content = path.read_bytes()
    except OSError as error:
      raise ValueError(
        f"{name} cannot be read ({error.strerror}): {_REMEDY}."
      ) from error
  if not content:
    raise ValueError(f"{name} is empty (0 bytes): {_REMEDY}.")
  return name, content


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
  """Judges the size that the header states, before anything is unpacked."""
  width, height = size
  if min(size) < MIN_SIDE_PX:
    raise _UnfitError(
      f"{name} is {width}x{height} px: give a picture of at least"
      f" {MIN_SIDE_PX} px a side."
    )
  if max(size) > MAX_SIDE_PX or width * height > max_pixels:
    raise _UnfitError(
      f"{name} is {width}x{height} px: give a picture of at most"
      f" {MAX_SIDE_PX} px a side and {max_pixels} pixels."
    )


def _to_rgb(image: Image.Image) -> np.ndarray:
  """Unpacks an opened picture of any mode into uint8 RGB."""
  # The profile is read before other steps drop it.
  profile = image.info.get("icc_profile")
  image = _upright(image)
  if image.mode.startswith("I") or image.mode == "F":
    image = _to_8_bits(image)
  if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or (
    "transparency" in image.info
  ):
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
  if profile and image.mode in ("RGB", "CMYK"):
    image = _to_srgb(image, profile)
  return np.array(image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
  """Turns a picture as its camera was held."""
  turn = Image.Transpose
  try:
    orientation = image.getexif().get(0x0112)
  except Exception:  # Damaged tags, in as many ways as there are cameras.
    return image
  how = {
    2: turn.FLIP_LEFT_RIGHT,
    3: turn.ROTATE_180,
    4: turn.FLIP_TOP_BOTTOM,
    5: turn.TRANSPOSE,
    6: turn.ROTATE_270,
    7: turn.TRANSVERSE,
    8: turn.ROTATE_90,
  }.get(orientation or 1)
  return image if how is None else image.transpose(how)


def _to_8_bits(image: Image.Image) -> Image.Image:
  """16 bits of grey, or floats, to 8; Pillow would cut them off at 255."""
  values = np.asarray(image).astype(np.float64)
  if image.mode == "F":
    values *= 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
  elif image.mode != "I" or values.max(initial=0.0) > 255:
    values /= 257.0
  return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
  """Applies an embedded colour profile (phones: Display P3; print: CMYK)."""
  try:
    converted = ImageCms.profileToProfile(
      image,
      ImageCms.ImageCmsProfile(io.BytesIO(profile)),
      ImageCms.createProfile("sRGB"),
      outputMode="RGB",
    )
  except (ImageCms.PyCMSError, OSError, ValueError):
    # Damaged profiles are common and cost a little colour, not the picture.
    return image
  return image if converted is None else converted


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
  # Cut before scaling: `resize` with a box would let in what lies beside it.
  scaled = Image.fromarray(square_u8).resize(
    (size_px, size_px), Image.Resampling.LANCZOS
  )
  return np.array(scaled)


def to_pm1(image_u8: Any) -> Any:
  """Maps uint8 [0, 255] to float32 [-1, 1]; NumPy or JAX, any shape."""
  return image_u8.astype(np.float32) / 127.5 - 1.0


def to_u8(image_pm1: Any) -> Any:
  """Maps float [-1, 1] to uint8, clipping what is outside; as `to_pm1`."""
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
    labels: for each row either one text, which stands above it, or a text for
      each of its pictures, which stands below it; "" leaves one out.
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
