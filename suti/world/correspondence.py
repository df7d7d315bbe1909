# SPDX-License-Identifier: Apache-2.0
"""Which pixels of two views show the same point of a subject.

Depth and camera are known, so it is geometry: a pixel is taken to the
subject's own frame, from there into the other view, and counts if that view
sees the subject there at that depth. Colours play no part.

Shape legend: H W frame, B pictures. A view is one row of `render_shots`.
"""

from collections.abc import Mapping

import numpy as np

View = Mapping[str, np.ndarray]


def unproject(view: View) -> np.ndarray:
  """Points of the subject's frame that each pixel shows, (H, W, 3) float64."""
  size = view["depth"].shape[0]
  grid = (np.arange(size) + 0.5) / size * 2 - 1
  x, y = np.meshgrid(grid, -grid)
  right, up, back = view["axes"].astype(np.float64)
  ray = (
    x[..., None] * right / view["focal"] + y[..., None] * up / view["focal"]
  ) - back
  return view["eye"] + ray * view["depth"][..., None]


def project(view: View, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Where a view shows points of the subject's frame.

  Args:
    view: camera and size.
    points: (..., 3).

  Returns:
    Pixel positions (..., 2) as (column, row), centres at .5; depth (...).
  """
  size = view["depth"].shape[0]
  rel = (points - view["eye"]) @ view["axes"].astype(np.float64).T
  depth = -rel[..., 2]
  with np.errstate(divide="ignore", invalid="ignore"):
    x = rel[..., 0] / depth * view["focal"]
    y = rel[..., 1] / depth * view["focal"]
  pixel = np.stack([(x + 1) / 2 * size, (1 - y) / 2 * size], -1)
  return pixel, depth


def correspond(
  first: View, second: View, *, tolerance: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
  """Where the second view shows what each pixel of the first shows.

  Args:
    first, second: views of one subject, of the same look.
    tolerance: difference of depth allowed, in units of which a subject is 1.3
      tall: about a pixel's slope at 64 px.

  Returns:
    Positions in the second view (H, W, 2) as (column, row), and whether there
    is one, bool (H, W): the subject, inside the frame, and not hidden.
  """
  pixel, depth = project(second, unproject(first))
  size = second["depth"].shape[0]
  inside = (pixel >= 0).all(-1) & (pixel < size).all(-1)
  column, row = np.moveaxis(
    np.where(inside[..., None], pixel, 0).astype(int), -1, 0
  )
  near = np.abs(second["depth"][row, column] - depth) < tolerance
  found = first["mask"] & inside & near & second["mask"][row, column]
  return pixel, found
