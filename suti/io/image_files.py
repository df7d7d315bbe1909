# SPDX-License-Identifier: Apache-2.0
"""Reads image files of users as uint8 RGB.

`load_image` reads the formats of cameras, phones and web pages and returns
uint8 RGB, or raises a one-line error; `list_pictures` lists the files of a
folder that it can read, and `describe_skipped` describes the others. Large
pictures are reduced while they are read, so that memory is bounded by the size
that a header may state. JAX is not needed: a picture is a NumPy array.

Shape legend: `H` `W` picture.
"""

import contextlib
import functools
import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, features

from suti.io.paths import in_bucket, local, path_of

MIN_SIDE_PX = 64
MAX_SIDE_PX = 65_535  # the most that a JPEG can have
# The largest sensor of a phone has 200 megapixels. As Pillow holds four bytes
# a pixel, this is a gigabyte, which no header can exceed.
MAX_PIXELS = 250_000_000
# Larger pictures are reduced by an integer factor: no model here uses 2000 px.
FULL_PIXELS = 32_000_000
MAX_BYTES = 2**30  # Some formats are held whole before they are unpacked.

# Pillow's own limit is global: 179 megapixels, fewer than a phone has. Ours is
# enforced here, before anything is decompressed.
if Image.MAX_IMAGE_PIXELS is not None:
  Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)

# Formats of photographs. Pillow would open others too, some by starting other
# programs, which an untrusted file must not trigger. MPO is opened as JPEG.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")


def _split(text: str) -> tuple[str, ...]:
  return tuple(text.split())


_SUFFIXES = frozenset(
  _split(
    ".apng .avif .bmp .gif .jfif .jpe .jpeg .jpg .mpo .png .tif .tiff .webp"
  )
)
_HEIF = _split(".heic .heif .hif")
_REMEDY = "give a JPEG, PNG or WebP file"
_HEIF_REMEDY = "pip install pillow-heif, or convert to JPEG"
# Other files among pictures, and the remedy for each kind.
_RAW = _split(".3fr .arw .cr2 .cr3 .dng .nef .orf .pef .raf .raw .rw2 .srw")
_OTHER_IMAGES = _split(
  ".ai .eps .exr .hdr .ico .j2k .jp2 .jxl .jxr .pdf .psd .svg .tga .xcf"
)
_VIDEO = _split(".3gp .avi .m4v .mkv .mov .mp4 .mpg .webm")
_REMEDIES = {
  **dict.fromkeys(_HEIF, _HEIF_REMEDY),
  **dict.fromkeys(_RAW, "raw: export as JPEG"),
  **dict.fromkeys(_OTHER_IMAGES, "convert to JPEG or PNG"),
  **dict.fromkeys(_VIDEO, "video"),
}
# Files that systems leave in folders, which are never pictures.
_SYSTEM = frozenset((".ds_store", "thumbs.db", "desktop.ini", ".directory"))
_MAX_KINDS = 8  # named in a line


# --- Which files -------------------------------------------------------------


def suffixes() -> tuple[str, ...]:
  """The suffixes of files that are read, in lower case, sorted."""
  return tuple(sorted(_SUFFIXES.union(_HEIF if _opens_heif() else ())))


def list_pictures(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
  """The pictures of a folder, and the files in it that are not read.

  Args:
    folder: on a disk or in a bucket; folders in it are not searched.

  Returns: the pictures by name; the other files by their kind (".heic",
    "hidden", "no suffix"), without those that systems leave (.DS_Store).
  """
  known = set(suffixes())
  pictures: list[Path] = []
  skipped: dict[str, list[Path]] = {}
  if in_bucket(folder):  # where each `is_dir` would be a request
    files = [path for path, _ in folder.below() if path.parent == folder]
  else:
    files = [path for path in folder.iterdir() if not path.is_dir()]
  for file in sorted(files):
    name = file.name.lower()
    if name in _SYSTEM:
      continue
    if name.startswith("."):
      skipped.setdefault("hidden", []).append(file)
    elif file.suffix.lower() in known:
      pictures.append(file)
    else:
      kind = file.suffix.lower() or "no suffix"
      skipped.setdefault(kind, []).append(file)
  return pictures, skipped


def remedy_of(name: str) -> str:
  """What to do with a picture's file that is not read; "" for other files."""
  return _REMEDIES.get(Path(name).suffix.lower(), "")


def describe_skipped(
  skipped: Mapping[str, Sequence[Path]], *, root: Path
) -> str:
  """One line on files that are not read; "" if there are none.

  Args:
    skipped: files by kind, as `list_pictures` returns them.
    root: the folder to which names are relative.

  Returns: "5 files are not read: 4 .heic (a.heic, ...; pip install ...), ...".
  """
  total = sum(len(files) for files in skipped.values())
  if not total:
    return ""
  kinds = sorted(skipped, key=lambda kind: (-len(skipped[kind]), kind))
  parts = []
  for kind in kinds[:_MAX_KINDS]:
    files = skipped[kind]
    first = os.fsencode(files[0].relative_to(root)).decode(errors="replace")
    more = ", ..." if len(files) > 1 else ""
    remedy = f"; {_REMEDIES[kind]}" if kind in _REMEDIES else ""
    parts.append(f"{len(files)} {kind} ({first}{more}{remedy})")
  if rest := kinds[_MAX_KINDS:]:
    number = sum(len(skipped[kind]) for kind in rest)
    parts.append(f"{number} of {len(rest)} other kinds")
  what = "file is" if total == 1 else "files are"
  return f"{total} {what} not read: {', '.join(parts)}."


@functools.cache
def _opens_heif() -> bool:
  """Whether HEIC is read: pillow-heif is the extra `heif`."""
  try:
    import pillow_heif
  except ImportError:
    return False
  pillow_heif.register_heif_opener()
  return True


# --- Reading -----------------------------------------------------------------


def load_image(source: str | os.PathLike | bytes) -> np.ndarray:
  """Reads a picture of any usual format.

  Its EXIF orientation is applied, an embedded colour profile is converted to
  sRGB, transparency is composited on white, and depth is reduced to 8 bits. Of
  several frames the first is taken. A picture of more than 32 megapixels is
  reduced by an integer factor to fewer.

  Args:
    source: a path, or the file's bytes.

  Returns:
    uint8 RGB (H, W, 3), sides of at least 64 px.

  Raises:
    ValueError: absent, empty, no picture, damaged, too small, too large, or of
      a format that needs another package.
  """
  name = "The picture" if isinstance(source, bytes) else str(source)
  with _opened(source, name) as file:
    kind = _kind(file.read(32))
    file.seek(0)
    if kind == "HEIC" and not _opens_heif():
      raise ValueError(f"{name} is a HEIC picture: {_HEIF_REMEDY}.")
    formats = (*_FORMATS, "HEIF") if kind == "HEIC" else _FORMATS
    try:
      with warnings.catch_warnings():
        # Pillow warns of large pictures and of odd tags; sizes are checked
        # below and a picture that opens is good enough.
        warnings.simplefilter("ignore")
        with Image.open(file, formats=formats) as image:
          _check_size(name, image.size)
          return _to_rgb(image)
    except _UnfitError as error:
      raise ValueError(f"{error}") from error
    except MemoryError as error:
      raise ValueError(
        f"{name} needs more memory than there is: give a smaller picture."
      ) from error
    except Image.DecompressionBombError as error:
      raise ValueError(
        f"{name} declares too many pixels: give a picture of at most"
        f" {MAX_SIDE_PX} px a side and {MAX_PIXELS} pixels."
      ) from error
    except Exception as error:
      # Each format's reader fails in its own way on a damaged file: OSError,
      # SyntaxError, struct.error, zlib.error, ...
      raise ValueError(_damage(name, kind, error)) from error


class _UnfitError(Exception):
  """An intact picture that is refused; its text is for the user."""


def _damage(name: str, kind: str, error: Exception) -> str:
  """The message for a file that is not a picture, or is damaged."""
  reason = " ".join(str(error).split()) or type(error).__name__
  if isinstance(error, Image.UnidentifiedImageError):
    reason = "not a format that is known"
    if kind == "AVIF" and not features.check("avif"):
      reason = "AVIF, which this build of Pillow cannot read"
    elif kind in ("AVIF", "HEIC"):
      reason = f"{kind}, but damaged"
    elif kind:
      reason = f"{kind}, which is not read here"
  return (
    f"{name} cannot be read as a picture ({reason}): {_REMEDY} that opens in"
    " an image viewer."
  )


@contextlib.contextmanager
def _opened(source: str | os.PathLike | bytes, name: str) -> Iterator[BinaryIO]:
  """Opens a source as a file, after checking its size."""
  if isinstance(source, bytes):
    if not source:
      raise ValueError(f"{name} is empty (0 bytes): {_REMEDY}.")
    yield io.BytesIO(source)
    return
  path = path_of(source)
  if in_bucket(path):
    try:
      path = local(path)
    except FileNotFoundError as error:
      raise ValueError(f"{name} does not exist: {_REMEDY}.") from error
  try:
    if not path.is_file():
      what = "is a folder" if path.is_dir() else "does not exist"
      raise ValueError(f"{name} {what}: {_REMEDY}.")
    file = path.open("rb")
  except OSError as error:
    raise ValueError(
      f"{name} cannot be read ({error.strerror}): {_REMEDY}."
    ) from error
  with file:
    size = os.fstat(file.fileno()).st_size
    if not size:
      raise ValueError(f"{name} is empty (0 bytes): {_REMEDY}.")
    if size > MAX_BYTES:
      raise ValueError(
        f"{name} has {size / 2**30:.1f} GiB: {_REMEDY} of at most"
        f" {MAX_BYTES // 2**30} GiB."
      )
    yield file


def _kind(head: bytes) -> str:
  """The format of a file by its first bytes, if it is a common one; else ""."""
  if head[4:8] == b"ftyp":
    brands = head[8:12] + head[16:]
    if b"avif" in brands or b"avis" in brands:
      return "AVIF"
    heif = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1")
    if any(brand in brands for brand in heif):
      return "HEIC"
    return "raw (CR3)" if head[8:11] == b"crx" else "video"
  starts = {
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"<svg": "SVG",
    b"<?xml": "SVG or XML",
    b"<html": "HTML",
    b"<!DOCTYPE": "HTML",
    b"PK\x03\x04": "ZIP",
    b"version https://git-lfs": "Git LFS pointer",
  }
  return next((k for start, k in starts.items() if head.startswith(start)), "")


def _check_size(name: str, size: tuple[int, int]) -> None:
  """Checks the size in the header, before anything is decompressed."""
  width, height = size
  if min(size) < MIN_SIDE_PX:
    raise _UnfitError(
      f"{name} is {width}x{height} px: give a picture of at least"
      f" {MIN_SIDE_PX} px a side."
    )
  if max(size) > MAX_SIDE_PX or width * height > MAX_PIXELS:
    raise _UnfitError(
      f"{name} is {width}x{height} px: give a picture of at most"
      f" {MAX_SIDE_PX} px a side and {MAX_PIXELS} pixels."
    )


# --- Any mode -> uint8 RGB ---------------------------------------------------


def _to_rgb(image: Image.Image) -> np.ndarray:
  """Decodes an opened picture of any mode to uint8 RGB."""
  # Both are read first, as later steps drop them.
  profile = image.info.get("icc_profile")
  how = _turn(image)
  if (factor := _factor(image.size)) > 1:
    # A JPEG leaves out what it need not decode, in steps of two; others and
    # the rest are averaged below.
    draft = 1 << math.ceil(math.log2(factor))
    image.draft(None, (image.width // draft, image.height // draft))
    factor = _factor(image.size)
  image.load()
  levels = _levels(image)
  if factor > 1:
    image = _reduced(image, factor, levels=levels)
  image = _plain(image, levels=levels)
  if how is not None:
    image = image.transpose(how)
  if image.mode == "RGBA":
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
  if profile and image.mode in ("RGB", "CMYK"):
    image = _to_srgb(image, profile)
  return np.array(image.convert("RGB"))


def _factor(size: tuple[int, int]) -> int:
  """The factor by which a picture is reduced."""
  return math.ceil(math.sqrt(size[0] * size[1] / FULL_PIXELS))


def _reduced(image: Image.Image, factor: int, *, levels: float) -> Image.Image:
  """Averages squares of `factor` pixels, in bands: modes differ in memory."""
  rows = factor * max(1, 2**22 // (image.width * factor))
  bands = []
  for top in range(0, image.height, rows):
    bottom = min(image.height, top + rows)
    band = image.crop((0, top, image.width, bottom))
    bands.append(_plain(band, levels=levels).reduce(factor))
  height = sum(band.height for band in bands)
  whole = Image.new(bands[0].mode, (bands[0].width, height))
  top = 0
  for band in bands:
    whole.paste(band, (0, top))
    top += band.height
  return whole


def _plain(image: Image.Image, *, levels: float) -> Image.Image:
  """Any mode in 8 bits a channel, without palettes: L, RGB, RGBA, CMYK, ..."""
  mode = image.mode
  if mode.startswith("I") or mode == "F":
    values = np.asarray(image).astype(np.float64) * (255.0 / levels)
    values = np.clip(np.round(values), 0, 255)
    return Image.fromarray(values.astype(np.uint8))
  if mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
    return image.convert("RGBA")
  return image.convert({"P": "RGB", "1": "L"}.get(mode, mode))


def _levels(image: Image.Image) -> float:
  """The value of white; Pillow would cut 16 bits of grey off at 255."""
  if not (image.mode.startswith("I") or image.mode == "F"):
    return 255.0
  extremes = image.getextrema()
  top = float(extremes[1])  # pyright: ignore[reportArgumentType]
  if image.mode == "F":
    return 1.0 if top <= 1.0 else 255.0
  return 65535.0 if image.mode != "I" or top > 255 else 255.0


def _turn(image: Image.Image) -> Image.Transpose | None:
  """The transposition given by a picture's EXIF orientation."""
  turn = Image.Transpose
  try:
    orientation = image.getexif().get(0x0112)
  except Exception:  # Damaged tags, in as many ways as there are cameras.
    return None
  return {
    2: turn.FLIP_LEFT_RIGHT,
    3: turn.ROTATE_180,
    4: turn.FLIP_TOP_BOTTOM,
    5: turn.TRANSPOSE,
    6: turn.ROTATE_270,
    7: turn.TRANSVERSE,
    8: turn.ROTATE_90,
  }.get(orientation or 1)


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
