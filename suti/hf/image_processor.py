# SPDX-License-Identifier: Apache-2.0
"""Image preprocessing of a published encoder.

  preprocessor_config.json    how they are prepared
  processor_config.json       the same, under "image_processor", beside the
                              tokenizer's: as transformers 5 writes it

How a picture is resized, cropped and rounded moves the scores of a benchmark,
so what is returned here equals, bit for bit, what transformers' processors on
Pillow return: CLIPImageProcessor, ViTImageProcessor (DINO) and
BitImageProcessor (DINOv2), which transformers 5 calls CLIPImageProcessorPil and
so on. Published scores of the field were made with these. Others resize
differently: the processors on torchvision tensors, which transformers 5 takes
by default, round elsewhere; torchvision's transforms of Pillow pictures,
as in DINO's own code, differ in the last bit, and by one pixel in a crop that
leaves an odd number of them.

Shape suffixes: B batch, H W height and width.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from suti.config.values import check_kinds
from suti.io.files import read_object

# uint8 RGB pictures of any size -> normalised float32 (B, H, W, 3).
PixelReader = Callable[[Sequence[np.ndarray]], np.ndarray]

_FILE, _NESTED_FILE = "preprocessor_config.json", "processor_config.json"
_NESTED = "image_processor"  # there
_CLIP = {
  "do_resize": True,
  "size": {"shortest_edge": 224},
  "resample": Image.Resampling.BICUBIC,
  "do_center_crop": True,
  "crop_size": {"height": 224, "width": 224},
  "do_rescale": True,
  "rescale_factor": 1 / 255,
  "do_normalize": True,
  "image_mean": [0.48145466, 0.4578275, 0.40821073],
  "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_VIT = _CLIP | {
  "size": {"height": 224, "width": 224},
  "resample": Image.Resampling.BILINEAR,
  "do_center_crop": False,
  "image_mean": [0.5, 0.5, 0.5],
  "image_std": [0.5, 0.5, 0.5],
}
# What a file of each kind need not say.
_DEFAULTS = {"CLIP": _CLIP, "Bit": _CLIP, "ViT": _VIT}
_KINDS = {
  **dict.fromkeys(("image_processor_type", "feature_extractor_type"), ""),
  **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale"), True),
  **dict.fromkeys(("do_normalize", "default_to_square"), True),
  "rescale_factor": 1 / 255,
  "image_mean": (0.5,),
  "image_std": (0.5,),
}
# What the publishers' processors can do and this does not: all other values
# than these change pixels. Whatever else a file says, they do not read or it
# is of how arrays are handed over; ours are RGB already.
_UNSUPPORTED = {"do_pad": (False,), "use_square_size": (False,)}


def load_pixel_reader(folder: Path) -> PixelReader:
  """Reads how to prepare pictures from a folder's config, new or old.

  Args:
    folder: of a published encoder, or feature_extractor/ of a pipeline.

  Raises:
    ValueError: there is no such file, or it is of a kind that is not known.
  """
  config, where = _find(Path(folder))
  if config is None:
    raise ValueError(
      f"{folder} has no {_FILE}, nor a {_NESTED_FILE} with {_NESTED!r} in it: "
      "expected the one that was published beside the encoder."
    )
  return make_pixel_reader(config, where=where)


def pixel_reader_of(folder: Path, config: Mapping[str, Any]) -> PixelReader:
  """The same, or CLIP's at the encoder's size where the folder says nothing.

  As the image encoders of IP-Adapter, which are published without.

  Args:
    folder: of a published encoder.
    config: its config.json.
  """
  if _find(Path(folder))[0] is not None:
    return load_pixel_reader(folder)
  side = config.get("image_size", 224)
  return make_pixel_reader({"size": side, "crop_size": side})


def _find(folder: Path) -> tuple[Any, str]:
  """The config, None if there is none, and where it stands.

  As in transformers, the newer place counts where both are there.
  """
  if (folder / _NESTED_FILE).is_file():
    nested = read_object(folder / _NESTED_FILE).get(_NESTED)
    if isinstance(nested, Mapping):
      return nested, f"{_NESTED} in {_NESTED_FILE}"
  if (folder / _FILE).is_file():
    return read_object(folder / _FILE), _FILE
  return None, _FILE


def make_pixel_reader(
  config: Mapping[str, Any], *, where: str = _FILE
) -> PixelReader:
  """Turns a published preprocessor config into a function.

  Args:
    config: as in preprocessor_config.json. Where old files do not name their
      kind, one with a crop is taken for CLIP's and one without for a ViT's.
    where: it stands, for messages.

  Returns:
    A function of uint8 RGB pictures of any size; it raises a ValueError if what
    it makes of them has more than one size.

  Raises:
    ValueError: the kind, a size or the filter is not known.
  """
  given = {key: value for key, value in config.items() if value is not None}
  check_kinds(given, _KINDS, what=where)
  kind = _kind(given, where)
  for key, values in _UNSUPPORTED.items():
    if given.get(key, values[0]) not in values:
      raise ValueError(
        f"{key}={given[key]!r} of {where} is not supported: it must be "
        f"{values[0]!r}."
      )
  config = _DEFAULTS[kind] | given
  square = config.get("default_to_square", kind == "ViT")
  size = _sides("size", config["size"], shortest=not square, where=where)
  crop = _sides("crop_size", config["crop_size"], shortest=False, where=where)
  resample = _filter(config["resample"], where)
  for key in ("image_mean", "image_std"):
    if len(config[key]) != 3 or (key == "image_std" and 0 in config[key]):
      raise ValueError(
        f"{key}={config[key]!r} of {where} is not known: expected a number for "
        "each of three channels, none of which is divided by 0."
      )
  table_V3 = _values(config)

  def prepare(image_u8: np.ndarray) -> np.ndarray:
    if config["do_resize"]:
      height, width = _resized(size, *image_u8.shape[:2])
      image = Image.fromarray(image_u8).resize((width, height), resample)
      image_u8 = np.asarray(image)
    if config["do_center_crop"]:
      image_u8 = _center_crop(image_u8, crop["height"], crop["width"])
    return image_u8

  def read(pictures: Sequence[np.ndarray]) -> np.ndarray:
    rows = [prepare(image_u8) for image_u8 in pictures]
    if len(shapes := {f"{x.shape[0]}x{x.shape[1]}" for x in rows}) > 1:
      raise ValueError(
        f"{where} keeps the proportions of pictures and crops nothing, which "
        f"made sizes of {', '.join(sorted(shapes))}: give pictures of one size."
      )
    return table_V3[np.stack(rows), np.arange(3)]

  return read


def _kind(config, where):
  name = config.get("image_processor_type") or config.get(
    "feature_extractor_type"
  )
  if name is None:
    return "CLIP" if "crop_size" in config else "ViT"
  kinds = "|".join(_DEFAULTS)
  match = re.match(rf"({kinds})(ImageProcessor|FeatureExtractor)", name)
  if match is None:
    raise ValueError(
      f"image_processor_type={name!r} of {where} is not one of "
      f"{', '.join(f'{kind}ImageProcessor' for kind in _DEFAULTS)}."
    )
  return match[1]


def _sides(field, size, *, shortest, where):
  """A size in its long form; files write it in four ways."""
  sides = size
  if isinstance(size, int):
    names = ["shortest_edge"] if shortest else ["height", "width"]
    sides = dict.fromkeys(names, size)
  elif isinstance(size, list | tuple) and len(size) == 2:
    sides = {"height": size[0], "width": size[1]}
  known = ({"height", "width"}, {"shortest_edge"})
  if (
    not isinstance(sides, Mapping)
    or set(sides) not in known
    or not all(type(side) is int and side > 0 for side in sides.values())
  ):
    raise ValueError(
      f"{field}={size!r} of {where} is not known: expected a number, height "
      "and width, or shortest_edge."
    )
  return sides


def _filter(resample, where):
  try:
    return Image.Resampling(resample)
  except ValueError as error:
    raise ValueError(
      f"resample={resample!r} of {where} is not one of Pillow's filters: "
      "expected 0 to 5."
    ) from error


def _values(config) -> np.ndarray:
  """What each of 256 levels becomes in each channel, in the published order."""
  levels = np.arange(256)
  if config["do_rescale"]:
    levels = levels.astype(np.float64) * config["rescale_factor"]
  table_V3 = np.repeat(levels.astype(np.float32)[:, None], 3, axis=1)
  if config["do_normalize"]:
    mean = np.asarray(config["image_mean"], np.float32)
    std = np.asarray(config["image_std"], np.float32)
    table_V3 = (table_V3 - mean) / std
  return table_V3


def _resized(size, height: int, width: int) -> tuple[int, int]:
  if "height" in size:
    return size["height"], size["width"]
  # The longer side is cut off, not rounded.
  side, short = size["shortest_edge"], min(height, width)
  long = int(side * max(height, width) / short)
  return (side, long) if height < width else (long, side)


def _center_crop(image_u8, height: int, width: int) -> np.ndarray:
  """Cuts the middle out; what is too small gets a black margin."""
  cut, margins = [], []
  for side, wanted in zip(image_u8.shape, (height, width), strict=False):
    start = max(0, side - wanted) // 2
    cut.append(slice(start, start + wanted))
    missing = max(0, wanted - side)
    before = math.ceil(missing / 2)
    margins.append((before, missing - before))
  return np.pad(image_u8[tuple(cut)], np.array([*margins, (0, 0)]))
