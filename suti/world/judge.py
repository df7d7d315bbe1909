# SPDX-License-Identifier: Apache-2.0
"""Which template a picture shows, by the world's own truth.

A measure that owes nothing to the CLIP that filters: kernel ridge regression
on thumbnails and colour histograms of renders whose template is known. Fitted
when first used, on training subjects; it sees neither the subject's name
nor the prompt. For evaluation alone.

Shape legend: N pictures, M renders it was fitted on, D features, T templates.
"""

import dataclasses
import functools

import numpy as np

from suti.images import square_crop_resize
from suti.world.render import render_shots
from suti.world.templates import LIVE, Shot, class_of, subject_seeds

_SIZE_PX = 32  # 64 px score no better, and take four times as long
_NUM_TEMPLATES = 25
_LEVELS = 5  # of each colour channel in a histogram
_RIDGE = 1e-2


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
  """A fitted judge of one group's templates.

  Attributes:
    features_MD: of the renders, centred on `mean_D`.
    mean_D: what to subtract.
    weights_MT: the regression.
    width: of the kernel, a squared distance.
  """

  features_MD: np.ndarray
  mean_D: np.ndarray
  weights_MT: np.ndarray
  width: float

  def scores(self, images_u8) -> np.ndarray:
    """How much each picture looks like each template, (N, 25).

    Args:
      images_u8: pictures, each uint8 (H, W, 3).
    """
    features_ND = _features(images_u8) - self.mean_D
    square = _squared_distances(features_ND, self.features_MD)
    return np.exp(-square / self.width) @ self.weights_MT

  def choose(self, images_u8) -> np.ndarray:
    """The template each picture shows, an index below 25, (N,)."""
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
  features_MD = _features(render_shots(shots, size_px=_SIZE_PX)["image"])
  mean_D = features_MD.mean(0)
  features_MD = features_MD - mean_D
  square = _squared_distances(features_MD, features_MD)
  width = float(np.median(square))
  kernel = np.exp(-square / width)
  label = np.array([shot.template for shot in shots])
  target = np.eye(_NUM_TEMPLATES)[label] - 1 / _NUM_TEMPLATES
  kernel[np.diag_indices_from(kernel)] += _RIDGE
  return Judge(
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
  pictures = np.stack(
    [
      image
      if image.shape[:2] == (_SIZE_PX, _SIZE_PX)
      else square_crop_resize(image, _SIZE_PX)
      for image in images_u8
    ]
  )
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


def _histogram(colour_NHW):
  """Square roots of the shares of each colour, (N, levels ** 3)."""
  count = _LEVELS**3
  rows = colour_NHW.reshape(len(colour_NHW), -1)
  counts = np.stack([np.bincount(row, minlength=count) for row in rows])
  return np.sqrt(counts / rows.shape[1])
