# SPDX-License-Identifier: Apache-2.0
"""A depth as the input of a net that sees one beside its latents.

Stable Diffusion 2's net for depth has a fifth input channel (its model card):
how near everything is, as MiDaS says it, scaled to the latents' size and to
[-1, 1]. The scaling is that of the published pipeline, which is PyTorch's
bicubic one: Keys' kernel (1981) with the slope -0.75, edges repeated, without
smoothing.

Shape suffixes: H W depth, h w latent.
"""

from collections.abc import Sequence

import numpy as np

_SLOPE = -0.75


def as_input(near_HW: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """A depth as such a net takes it.

  Args:
    near_HW: how near everything is, in any unit.
    shape: height and width of the latents.

  Returns: (h, w, 1) float32 in [-1, 1].

  Raises:
    ValueError: it is the same everywhere.
  """
  rows_hH, columns_wW = (
    _weights(size, new) for size, new in zip(near_HW.shape, shape, strict=True)
  )
  small_hw = rows_hH @ near_HW.astype(np.float64) @ columns_wW.T
  low, high = small_hw.min(), small_hw.max()
  if high - low < 1e-6 * max(abs(high), abs(low), 1e-6):
    raise ValueError(
      "--depth (near_HW=) is the same everywhere: give a picture in which what "
      "is near is bright and what is far is dark."
    )
  scaled = 2 * (small_hw - low) / (high - low) - 1
  return scaled.astype(np.float32)[..., None]


def _weights(size: int, new: int) -> np.ndarray:
  """How much each of `size` pixels counts in each of `new`, (new, size)."""
  at = (np.arange(new) + 0.5) * size / new - 0.5
  first = np.floor(at).astype(int)
  weights = np.zeros((new, size))
  for offset in range(-1, 3):
    distance = np.abs(at - (first + offset))
    near = (_SLOPE + 2) * distance**3 - (_SLOPE + 3) * distance**2 + 1
    far = _SLOPE * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    share = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    rows = (first + offset).clip(0, size - 1)
    np.add.at(weights, (np.arange(new), rows), share)
  return weights
