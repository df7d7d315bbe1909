# SPDX-License-Identifier: Apache-2.0
"""Where a cluster's subject is: masks, depths and cameras, by their source.

  world      SubjectWorld renders the cluster's page again, now with its truth:
             the stand-in for a detector and a segmenter of real pictures
  folder     NAME.mask.png beside NAME, white where the subject is
  segmenter  a net finds the subject (`suti.evaluation.segmenter`)

Of the first two a picture is found by its content, so that it does not matter
which pictures mining took, and in which order.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experts.mining.folders import find_subjects
from suti.evaluation.segmenter import Segment
from suti.images import square_crop_resize, square_crop_resize_plane
from suti.io.image_files import load_image
from suti.io.mask_files import read_mask
from suti.runtime.progress import say
from suti.schema import Cluster, content_key

# What each source knows of a picture.
KNOWN: Mapping[str, tuple[str, ...]] = {
  "world": ("masks", "depth", "correspondence"),
  "folder": ("masks",),
  "segmenter": ("masks",),
}
SOURCES = tuple(KNOWN)


class Found(NamedTuple):
  """What a source knows of a picture; None is not known."""

  mask: np.ndarray
  depth: np.ndarray | None
  camera: tuple[float, ...] | None
  score: float = 1.0


def look_up(
  cluster: Cluster, config: Any, *, segment: Segment | None = None
) -> list[Found | None]:
  """What the source of a config knows of each picture of a cluster.

  Args:
    cluster: of `experts.mine`.
    config: the whole config.
    segment: of the source "segmenter".

  Raises:
    ValueError: it was not rendered by SubjectWorld, or its mask is not a
      picture's.
  """
  if segment is not None:
    masks, scores = segment(cluster.images)
    return [
      Found(mask_HW, None, None, score)
      for mask_HW, score in zip(masks, scores, strict=True)
    ]
  known = _of_world if config.label.source == "world" else _of_folder
  found = known(cluster, config)
  return [found.get(content_key(image)) for image in cluster.images]


def _of_world(cluster: Cluster, config: Any) -> Mapping[str, Found]:
  # Imported here: a run on photographs does not need the renderer.
  from suti.world.labels import render_again

  if cluster.truth is None:
    raise ValueError(
      f"config.label.source='world', and cluster {cluster.key} of "
      f"config.mine.source='{config.mine.source}' is not rendered: set "
      "config.label.source=folder and lay masks beside the pictures, or none."
    )
  return {
    content_key(image): Found(mask, depth, camera)
    for image, mask, depth, camera in render_again(
      cluster, split=config.mine.split, size_px=cluster.images[0].shape[0]
    )
  }


def _of_folder(cluster: Cluster, config: Any) -> Mapping[str, Found]:
  size_px = cluster.images[0].shape[0]
  # Path.expanduser fails for a user that does not exist.
  path = Path(os.path.expanduser(config.label.path or config.mine.path))
  found = {}
  for file in _files(path).get(cluster.source, ()):
    image = load_image(file)
    mask_HW = read_mask(file, image)
    if mask_HW is None:
      continue
    key = content_key(square_crop_resize(image, size_px))
    found[key] = Found(square_crop_resize_plane(mask_HW, size_px), None, None)
  return found


@functools.cache
def _files(path: Path) -> Mapping[str, tuple[Path, ...]]:
  """{name of a subject's folder: its pictures}.

  Raises:
    ValueError: there is no such folder, or no pictures in it.
  """
  if not path.is_dir():
    raise ValueError(
      f"config.label.source='folder', and {path} is no folder: give one of"
      " subject folders, with NAME.mask.png beside NAME, as config.label.path,"
      " or set config.label.source=none."
    )
  subjects = {each.name: each.files for each in find_subjects(path)}
  say(f"config.label: masks of {len(subjects)} folders of {path}.")
  return subjects


def spoil(
  found: Found | None, config: Any, rng: np.random.Generator
) -> tuple[Found | None, float]:
  """What a detector makes of the truth: misses and erosion.

  Args:
    found: what is known.
    config: the section `label`: miss, the share of pictures in which nothing is
      found; erode, pixels taken off the mask.
    rng: of the picture.

  Returns: the same or less, and a confidence.
  """
  missed = rng.random() < config.miss
  if found is None or missed:
    return None, 0.0
  mask_HW = found.mask
  for _ in range(config.erode):
    padded = np.pad(mask_HW, 1)
    mask_HW = (
      mask_HW
      & padded[:-2, 1:-1]
      & padded[2:, 1:-1]
      & padded[1:-1, :-2]
      & padded[1:-1, 2:]
    )
  return found._replace(mask=mask_HW), found.score


def box_of(
  mask_HW: np.ndarray, *, jitter: float, rng: np.random.Generator
) -> tuple[float, ...]:
  """The box of a mask as shares of the picture, each edge off by `jitter`.

  Args:
    mask_HW: with a pixel in it.
    jitter: standard deviation, in widths and heights of the box.
    rng: of the picture.
  """
  edges = []
  for axis in (0, 1):
    places = np.flatnonzero(mask_HW.any(axis))
    size = mask_HW.shape[1 - axis]
    low, high = places[0] / size, (places[-1] + 1) / size
    noise = jitter * (high - low) * rng.normal(size=2)
    edges.append(np.sort(np.clip([low + noise[0], high + noise[1]], 0, 1)))
  (left, right), (top, bottom) = edges
  return float(left), float(top), float(right), float(bottom)
