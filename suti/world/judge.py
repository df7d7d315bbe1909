# SPDX-License-Identifier: Apache-2.0
"""Which template and which style a picture shows, by the world's own truth.

A measure that owes nothing to the CLIP that filters: kernel ridge regression
on thumbnails and colour histograms of renders whose template is known. Fitted
when first used, on training subjects; it sees neither the subject's name
nor the prompt. Styles are recognised by texture too: how much there is of each
fineness, and how it repeats. For evaluation alone.

Shape legend: N pictures, M renders it was fitted on, D features, T templates
(or styles).
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from suti.images import square_crop_resize
from suti.world.render import render_shots
from suti.world.styles import paint
from suti.world.templates import LIVE, PARTS, Shot, class_of, subject_seeds

_SIZE_PX = 32  # 64 px score no better, and take four times as long
_NUM_TEMPLATES = 25
_LEVELS = 5  # of each colour channel in a histogram
_RIDGE = 1e-2
_STYLE_SIZE_PX = 64  # strokes are lost in less


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
  """A fitted judge of one group's templates, or of styles.

  Attributes:
    features: of pictures, (N, D).
    features_MD: of the renders, centred on `mean_D`.
    mean_D: what to subtract.
    weights_MT: the regression.
    width: of the kernel, a squared distance.
  """

  features: Callable
  features_MD: np.ndarray
  mean_D: np.ndarray
  weights_MT: np.ndarray
  width: float

  def scores(self, images_u8) -> np.ndarray:
    """How much each picture looks like each template, (N, T).

    Args:
      images_u8: pictures, each uint8 (H, W, 3).
    """
    features_ND = self.features(images_u8) - self.mean_D
    square = _squared_distances(features_ND, self.features_MD)
    return np.exp(-square / self.width) @ self.weights_MT

  def choose(self, images_u8) -> np.ndarray:
    """The template each picture shows, an index below T, (N,)."""
    return self.scores(images_u8).argmax(-1)


@functools.lru_cache(maxsize=4)
def fit_judge(
  *, live: bool, num_subjects: int = 40, shots_each: int = 2
) -> Judge:
  """Fits a judge on training subjects; about 10 s on 2 cores.

  Args:
    live: the templates of live subjects, else of objects.
    num_subjects: drawn in each of the 25 templates.
    shots_each: pictures of a subject in a template.

  Returns:
    The judge, always the same.
  """
  seeds = subject_seeds("train", 0, 12 * num_subjects + 50)
  group = [s for s in seeds if (class_of(s) in LIVE) == live][:num_subjects]
  assert len(group) == num_subjects, (live, num_subjects)
  templates = range(_NUM_TEMPLATES)
  shots = [
    Shot(subject, template, 1_000_000 + k)
    for subject in group
    for template in templates
    for k in range(shots_each)
  ]
  images = render_shots(shots, size_px=_SIZE_PX)["image"]
  label_M = np.array([shot.template for shot in shots])
  return _fit(_features, images, label_M, count=_NUM_TEMPLATES)


# What `fit_style_judge().choose` tells apart; the first is none.
STYLE_NAMES = PARTS["style"]


@functools.lru_cache(maxsize=2)
def fit_style_judge(*, num_subjects: int = 40) -> Judge:
  """Fits a judge of styles on training subjects; half a minute of a core.

  Args:
    num_subjects: each is rendered in one scene, and that painted in all styles.

  Returns:
    The judge, always the same; it chooses among STYLE_NAMES.
  """
  seeds = subject_seeds("train", 0, num_subjects)
  # All 25 templates and the studio, in turn.
  shots = [Shot(s, i % 26 - 1, 2_000_000 + i) for i, s in enumerate(seeds)]
  return fit_styles(render_shots(shots, size_px=_STYLE_SIZE_PX))


def fit_styles(drawn) -> Judge:
  """Fits a judge of styles on renders that it paints itself.

  Args:
    drawn: "image", "mask" and "depth" of renders without a style.
  """
  images, label = [], []
  for i, image in enumerate(drawn["image"]):
    for number, style in enumerate(STYLE_NAMES):
      if style:
        image = paint(
          drawn["image"][i],
          drawn["mask"][i],
          drawn["depth"][i],
          style=style,
          key=i,
        )
      # Generated images are softer than renders, and as much in a style.
      images += [image, _softened(image)]
      label += [number, number]
  return _fit(_textures, images, np.array(label), count=len(STYLE_NAMES))


def _fit(features, images_u8, label_M, *, count) -> Judge:
  """Kernel ridge regression on pictures whose label is known."""
  features_MD = features(images_u8)
  mean_D = features_MD.mean(0)
  features_MD = features_MD - mean_D
  square = _squared_distances(features_MD, features_MD)
  width = float(np.median(square))
  kernel = np.exp(-square / width)
  target = np.eye(count)[label_M] - 1 / count
  kernel[np.diag_indices_from(kernel)] += _RIDGE
  return Judge(
    features=features,
    features_MD=features_MD,
    mean_D=mean_D,
    weights_MT=np.linalg.solve(kernel, target),
    width=width,
  )


def _squared_distances(a_ND, b_MD):
  """Squared distances of all pairs, (N, M)."""
  square = (a_ND**2).sum(1)[:, None] + (b_MD**2).sum(1) - 2 * a_ND @ b_MD.T
  return np.maximum(square, 0.0)


def _features(images_u8) -> np.ndarray:
  """Thumbnails, and colour histograms of the whole, the upper, the lower part.

  Args:
    images_u8: pictures, each uint8 (H, W, 3).

  Returns:
    (N, D) float64.
  """
  pictures = _sized(images_u8, _SIZE_PX)
  n, side = len(pictures), 16
  block = _SIZE_PX // side
  thumbnails = pictures.reshape(n, side, block, side, block, 3).mean((2, 4))
  level = pictures.astype(int) * _LEVELS // 256
  colour = (level[..., 0] * _LEVELS + level[..., 1]) * _LEVELS + level[..., 2]
  edge = _SIZE_PX * 3 // 8  # hats and skies are above it
  parts = [
    _histogram(colour),
    _histogram(colour[:, :edge]),
    _histogram(colour[:, edge:]),
  ]
  flat = (thumbnails / 255 - 0.5).reshape(n, -1)
  return np.concatenate([0.3 * flat, *parts], 1)


def _textures(images_u8) -> np.ndarray:
  """What tells styles apart: fineness, direction, repeats, greys, colours.

  Args:
    images_u8: pictures, each uint8 (H, W, 3).

  Returns:
    (N, D) float64.
  """
  pictures = _sized(images_u8, _STYLE_SIZE_PX)
  rgb = pictures / 255
  light = rgb @ np.array([0.30, 0.59, 0.11])
  parts, rest = [], light
  for reach in (1, 2, 4):
    smooth = _mean_of_neighbours(rest, reach)
    fine = rest - smooth
    energy = np.square(fine).mean((1, 2)) + 1e-6
    parts.append(0.3 * np.log(energy)[:, None])
    # How a texture repeats: screens, stones and blocks do at their pitch.
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 2), (0, 3), (3, 0)):
      both = fine[:, dy:, dx:] * fine[:, : 64 - dy, : 64 - dx]
      parts.append((0.6 * both.mean((1, 2)) / energy)[:, None])
    rest = smooth
  flat = [np.abs(np.diff(light, axis=axis)) < 0.004 for axis in (1, 2)]
  parts += [0.7 * f.mean((1, 2))[:, None] for f in flat]
  grey = np.ptp(rgb, axis=-1)
  parts += [grey.mean((1, 2))[:, None], grey.std((1, 2))[:, None]]
  parts += [light.mean((1, 2))[:, None], light.std((1, 2))[:, None]]
  level = pictures.astype(int) * _LEVELS // 256
  colour = (level[..., 0] * _LEVELS + level[..., 1]) * _LEVELS + level[..., 2]
  return np.concatenate([*parts, 0.5 * _histogram(colour)], 1)


def _softened(image_u8):
  """A picture out of focus by about a pixel."""
  soft = [_mean_of_neighbours(c[None], 1)[0] for c in image_u8.T / 1.0]
  return np.round(np.stack(soft).T).astype(np.uint8)


def _sized(images_u8, size_px) -> np.ndarray:
  """Pictures of one size, (N, size_px, size_px, 3)."""
  return np.stack(
    [
      image
      if image.shape[:2] == (size_px, size_px)
      else square_crop_resize(image, size_px)
      for image in images_u8
    ]
  )


def _mean_of_neighbours(a_NHW, reach):
  """Means of squares of 2 * reach + 1 pixels, borders repeated."""
  for axis in (1, 2):
    wide = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
    padded = np.pad(a_NHW, wide, "edge")
    rows = [
      np.take(padded, np.arange(i, i + a_NHW.shape[axis]), axis)
      for i in range(2 * reach + 1)
    ]
    a_NHW = np.mean(rows, 0)
  return a_NHW


def _histogram(colour_NHW):
  """Square roots of the shares of each colour, (N, levels ** 3)."""
  count = _LEVELS**3
  rows = colour_NHW.reshape(len(colour_NHW), -1)
  counts = np.stack([np.bincount(row, minlength=count) for row in rows])
  return np.sqrt(counts / rows.shape[1])
