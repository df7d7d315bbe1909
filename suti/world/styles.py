# SPDX-License-Identifier: Apache-2.0
"""Pictures in an artistic style: SuTI's fourth skill, with its truth known.

A style is a function of a finished render, its mask and its depth, so that the
same shot without it shows the same subject, view and light, and no other
picture changes. The pictures are ours, not copies of anybody's.
"""

from collections.abc import Callable, Sequence

import numpy as np

from suti.evaluation.styles import STYLE_TEXTS
from suti.world import media, painters
from suti.world.canvas import Canvas, shrink
from suti.world.templates import draws

STYLES: dict[str, Callable[[Canvas], np.ndarray]] = {
  "Claude Monet": painters.monet,
  "Pablo Picasso": painters.picasso,
  "Rembrandt": painters.rembrandt,
  "Rene Magritte": painters.magritte,
  "Vincent van Gogh": painters.van_gogh,
  "Katsushika Hokusai": painters.hokusai,
  "Georges Seurat": painters.seurat,
  "Roy Lichtenstein": painters.lichtenstein,
  "pencil sketch": media.pencil,
  "watercolor": media.watercolor,
  "pixel art": media.pixels,
  "mosaic": media.mosaic,
}
assert tuple(STYLES) == tuple(STYLE_TEXTS)


def paint(image_u8, mask, depth, *, style: str, key: int) -> np.ndarray:
  """One picture in a style.

  Args:
    image_u8: the render, uint8 (h, w, 3).
    mask: of the subject, bool (h, w).
    depth: float32 (h, w).
    style: a name of STYLES.
    key: of the shot; strokes are drawn at random by it.

  Returns: uint8 (h, w, 3).
  """
  seed = draws([key], stream=12, count=2)[0] * 2**32
  rng = np.random.default_rng([int(s) for s in seed])
  return shrink(STYLES[style](Canvas(image_u8, mask, depth, rng)))


def paint_rows(drawn, styles: Sequence[str], keys) -> np.ndarray:
  """The images of a batch, those with a style painted in it.

  Args:
    drawn: "image", "mask" and "depth" of B renders.
    styles: of each, "" for none.
    keys: of each, see `scenes.shot_keys`.

  Returns: uint8 (B, H, W, 3), the renders' own where there is no style.
  """
  image = drawn["image"]
  if not any(styles):
    return image
  image = image.copy()
  for i, style in enumerate(styles):
    if style:
      image[i] = paint(
        image[i],
        drawn["mask"][i],
        drawn["depth"][i],
        style=style,
        key=int(keys[i]),
      )
  return image
