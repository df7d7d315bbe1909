# SPDX-License-Identifier: Apache-2.0
"""Learns a dictionary of patches: whitening, then spherical k-means.

Coates and Ng 2012, "Learning feature representations with k-means": patches
lose their mean and contrast, are whitened (ZCA), and each is given to the word
it resembles most, up to sign; a word becomes the sum of its patches. Takes
seconds.

Shape legend: N patches, D numbers of a patch, K words.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

_QUIET = 6e-4  # as suti.models.patch_dictionary has it
_WHITE = 0.1  # added to the variances


def learn_words(
  images_pm1: np.ndarray,
  *,
  size: int,
  num_words: int,
  num_patches: int,
  rounds: int,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """The words as a convolution's weight and bias.

  Args:
    images_pm1: float32 (B, H, W, C) in [-1, 1].
    size: side of a patch.
    num_words: of the dictionary.
    num_patches: drawn at random from the pictures.
    rounds: of k-means.
    rng: draws.

  Returns: weight (size, size, C, K), whose words sum to 0, and bias (K,):
    responses to a patch of unit contrast are `patch . weight + bias`.
  """
  patches = _draw(images_pm1, size=size, count=num_patches, rng=rng)
  mean = patches.mean(0)
  values, axes = np.linalg.eigh(np.cov((patches - mean).T))
  white = (axes / np.sqrt(values + _WHITE)) @ axes.T
  z = (patches - mean) @ white
  words = rng.normal(size=(num_words, z.shape[1]))
  words /= np.linalg.norm(words, axis=1, keepdims=True)
  for _ in range(rounds):
    alike = z @ words.T
    nearest = np.abs(alike).argmax(1)
    sums = np.zeros_like(words)
    strength = np.take_along_axis(alike, nearest[:, None], axis=1)
    np.add.at(sums, nearest, z * strength)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    # A word that no patch resembles stays as it is.
    words = np.where(length > 1e-6, sums / np.maximum(length, 1e-6), words)
  weight_DK = white @ words.T
  bias_K = -mean @ weight_DK
  # Patches have no mean, so that of a word has no effect: without it, a
  # convolution of the picture itself gives the same.
  weight_DK = weight_DK - weight_DK.mean(0)
  shape = (size, size, images_pm1.shape[-1], num_words)
  return weight_DK.reshape(shape).astype(np.float32), bias_K.astype(np.float32)


def _draw(images_pm1, *, size, count, rng) -> np.ndarray:
  """Random patches without mean, of unit contrast, (N, D) float64."""
  b, height, width, _ = images_pm1.shape
  windows = sliding_window_view(images_pm1, (size, size), axis=(1, 2))
  rows = rng.integers(0, b, count)
  tops = rng.integers(0, height - size + 1, count)
  lefts = rng.integers(0, width - size + 1, count)
  # (N, C, size, size) -> rows of height, width, channel.
  patches = np.moveaxis(windows[rows, tops, lefts], 1, -1)
  patches = patches.reshape(count, -1).astype(np.float64)
  patches = patches - patches.mean(1, keepdims=True)
  return patches / np.sqrt(patches.var(1, keepdims=True) + _QUIET)
