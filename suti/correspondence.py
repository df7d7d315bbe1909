# SPDX-License-Identifier: Apache-2.0
"""Which pixels of two views show the same point of a subject.

Depth and camera are known, so it is geometry: a pixel is taken to the
subject's own frame, from there into the other view, and counts if that view
sees the subject there at that depth. Colours play no part.

Shape legend: H W frame, B pictures, T views of a set, R side of a frame. A view
is one row of `suti.world.render.render_shots`, or a label with a camera.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from suti.images import square_crop_resize_plane

View = Mapping[str, np.ndarray]


def view_of(drawn: Mapping[str, np.ndarray], index: int) -> View:
  """One picture of what `render_shots` returned."""
  return {k: v[index] for k, v in drawn.items()}


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


def view_of_label(
  depth: np.ndarray, mask: np.ndarray, camera: Sequence[float], *, side: int
) -> View:
  """A view of what a label says of a picture (`suti.schema.Label`).

  Args:
    depth, mask: (H, W).
    camera: eye, axes, focal length, 13 numbers.
    side: of the view's frame, to which both are scaled.
  """
  eye, axes, focal = camera[:3], camera[3:12], camera[12]
  return {
    "depth": square_crop_resize_plane(depth, side).astype(np.float32),
    "mask": square_crop_resize_plane(mask, side),
    "eye": np.asarray(eye, np.float32),
    "axes": np.asarray(axes, np.float32).reshape(3, 3),
    "focal": np.asarray(focal, np.float32),
  }


def link(views: Sequence[View], *, source: str) -> dict[str, np.ndarray]:
  """What each view of a set can be given by one of them (`suti.nn.warp`).

  Args:
    views: T of one subject, all of side R.
    source: "last" or "first", the one that gives to all others.

  Returns:
    `at_TRR2`, where the source shows each pixel, float32 (column, row), and
    `shown_TRR`, whether it does; of the view at the other end `next_TRR2` and
    `next_shown_TRR`, the same in the view beside it, and zeros of all others.
  """
  num, side = len(views), views[0]["depth"].shape[0]
  found = {
    "at_TRR2": np.zeros((num, side, side, 2), np.float32),
    "shown_TRR": np.zeros((num, side, side), bool),
    "next_TRR2": np.zeros((num, side, side, 2), np.float32),
    "next_shown_TRR": np.zeros((num, side, side), bool),
  }
  giver = num - 1 if source == "last" else 0
  for index, view in enumerate(views):
    if index != giver:
      at, shown = correspond(view, views[giver])
      found["at_TRR2"][index], found["shown_TRR"][index] = at, shown
  end, beside = (0, 1) if source == "last" else (num - 1, num - 2)
  at, shown = correspond(views[end], views[beside])
  found["next_TRR2"][end], found["next_shown_TRR"][end] = at, shown
  # Positions that do not count may be infinite, and zero times that is not 0.
  for name in ("at", "next"):
    shown = "shown_TRR" if name == "at" else "next_shown_TRR"
    found[f"{name}_TRR2"][~found[shown]] = 0
  return found


def overlaps(views: Sequence[View]) -> np.ndarray:
  """The share of the frame that pairs of views both show, (T, T).

  Row i, column j, i < j: pixels of view i that view j shows; the rest is 0.
  """
  share_TT = np.zeros((len(views), len(views)))
  for i, first in enumerate(views):
    for j in range(i + 1, len(views)):
      share_TT[i, j] = correspond(first, views[j])[1].mean()
  return share_TT


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
