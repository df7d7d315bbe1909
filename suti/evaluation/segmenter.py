# SPDX-License-Identifier: Apache-2.0
"""Where the subject of a picture is, by a segmenter's folder.

The small net of `suti.pretrain.segmenter`, which has learned SubjectWorld's
true masks: of photographs it knows nothing. Pictures are scaled to its size,
sides and all, and masks back to the pictures'.

Shape suffixes: B pictures of a batch, H W height and width, C channels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from suti.evaluation.scores import in_rows
from suti.hf.find import find_model
from suti.hf.model import open_model
from suti.images import to_pm1

# uint8 pictures of any size -> a mask of each, bool (H, W), all False where
# nothing is found, and the confidence in it, in [0, 1].
Segment = Callable[[Sequence[np.ndarray]], tuple[list[np.ndarray], list[float]]]
_INSIDE = 0.5  # the probability from which a pixel is inside


def load_segmenter(name_or_dir: str | Path) -> Segment:
  """Opens a segmenter.

  Args:
    name_or_dir: a folder that `suti.pretrain.segmenter` wrote.

  Raises:
    ValueError: no such folder, or a model of another kind.
  """
  try:
    net = open_model(find_model(name_or_dir), expected=("Segmenter",))
  except ValueError as error:
    raise ValueError(f"config.label.segmenter: {error}") from error
  side = net.config.get("image_size", 64)
  program = jax.jit(lambda p, x: jax.nn.sigmoid(net.apply(p, x)))

  def segment(
    images: Sequence[np.ndarray],
  ) -> tuple[list[np.ndarray], list[float]]:
    if not images:
      return [], []
    scaled = [
      np.asarray(
        Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
      )
      for image in images
    ]
    share_BHW = in_rows(
      lambda rows: program(net.params, to_pm1(np.stack(rows))), scaled
    )
    masks, scores = [], []
    for image, share_HW in zip(images, share_BHW, strict=True):
      height, width = image.shape[:2]
      whole = Image.fromarray(share_HW).resize(
        (width, height), Image.Resampling.BILINEAR
      )
      whole_HW = np.asarray(whole)
      mask_HW = whole_HW > _INSIDE
      masks.append(mask_HW)
      scores.append(float(whole_HW[mask_HW].mean()) if mask_HW.any() else 0.0)
    return masks, scores

  return segment


def overlap(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
  """Intersection over union of two masks; 1 of two that are empty."""
  union = (one_HW | other_HW).sum()
  return float((one_HW & other_HW).sum() / union) if union else 1.0
