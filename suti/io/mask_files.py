# SPDX-License-Identifier: Apache-2.0
"""Masks beside a user's pictures: NAME.mask.png beside NAME.jpg.

White is where the subject is. A mask is as large as its picture.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from suti.io.image_files import load_image

MASK = ".mask.png"


def is_mask(file: Path) -> bool:
  """Whether a file is a mask by its name, and no picture."""
  return file.name.endswith(MASK)


def without_masks(files: Sequence[Path]) -> list[Path]:
  """The pictures among some files."""
  return [file for file in files if not is_mask(file)]


def read_mask(picture: Path, image_u8: np.ndarray) -> np.ndarray | None:
  """The mask beside a picture, bool (H, W); None if there is none.

  Args:
    picture: its file.
    image_u8: the picture, as `load_image` reads it.

  Raises:
    ValueError: it is no picture, or not as large as the picture.
  """
  file = picture.with_name(picture.stem + MASK)
  if not file.is_file():
    return None
  mask = load_image(file)
  if mask.shape != image_u8.shape:
    height, width = image_u8.shape[:2]
    raise ValueError(
      f"{file} has {mask.shape[1]}x{mask.shape[0]} px, and its picture "
      f"{width}x{height}: save the mask in the picture's size."
    )
  return mask.mean(2) > 127
