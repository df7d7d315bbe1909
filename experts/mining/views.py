# SPDX-License-Identifier: Apache-2.0
"""Which pixels of labelled pictures show the same point of their subject.

By depth and camera, which SubjectWorld's labels have: the stand-in for rendered
assets, whose buffers SynCD (arXiv 2502.01720, appendix) unprojects and projects
to find corresponding pixels.

Shape legend: T views, H W picture.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from suti.images import square_crop_resize_plane
from suti.schema import Label
from suti.world.correspondence import correspond


def correspondence(
  views: Sequence[Label], *, size_px: int
) -> tuple[np.ndarray, np.ndarray]:
  """Where each view shows what each pixel of another shows.

  Args:
    views: labels with mask, depth and camera, of one subject.
    size_px: side of the pictures that positions are of.

  Returns: places_TTHW2, float32, positions (column, row) in view j of the
    pixels of view i, pixel centres at .5; seen_TTHW, whether j shows it. A view
    corresponds to itself where its subject is.
  """
  num = len(views)
  places_TTHW2 = np.zeros((num, num, size_px, size_px, 2), np.float32)
  seen_TTHW = np.zeros((num, num, size_px, size_px), bool)
  known = [_view(each, size_px) for each in views]
  for i, first in enumerate(known):
    for j, second in enumerate(known):
      places_HW2, seen_HW = correspond(first, second)
      places_TTHW2[i, j] = np.where(seen_HW[..., None], places_HW2, 0)
      seen_TTHW[i, j] = seen_HW
  return places_TTHW2, seen_TTHW


def _view(label: Label, size_px: int) -> Mapping[str, Any]:
  """A label as `suti.world.correspondence` knows a picture."""
  assert label.depth is not None and label.camera is not None, label.key
  camera = np.asarray(label.camera, np.float64)
  return {
    "mask": square_crop_resize_plane(label.masks[0], size_px),
    "depth": square_crop_resize_plane(label.depth, size_px).astype(np.float64),
    "eye": camera[:3],
    "axes": camera[3:12].reshape(3, 3),
    "focal": camera[12],
  }


def overlaps(views: Sequence[Label], *, side: int) -> np.ndarray:
  """The share of the frame that pairs of views both show, (T, T).

  Row i, column j, i < j: pixels of view i that view j shows; the rest is 0.

  Args:
    views: labels with mask, depth and camera, of one subject.
    side: at which they are compared.
  """
  known = [_view(each, side) for each in views]
  shares_TT = np.zeros((len(views), len(views)))
  for i, first in enumerate(known):
    for j in range(i + 1, len(known)):
      shares_TT[i, j] = correspond(first, known[j])[1].mean()
  return shares_TT
