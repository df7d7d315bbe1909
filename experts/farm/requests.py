# SPDX-License-Identifier: Apache-2.0
"""What a teacher's request holds beside texts: pictures, masks, depths, views.

A teacher names them in `Teacher.asks`, and gets those of each expert's own
cluster. Pictures are all that there are. What is labelled (`experts.label`) is
of views: the first labelled pictures of a cluster, one for each row of a group
(`config.sample.together`), so that a row may follow the shape that a view has.

A cluster with too few is told apart, and its images are not kept.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.clusters import read_clusters, readable
from experts.farm.waves import PICTURES
from experts.label import find_labels
from experts.mining.views import correspondence
from experts.teacher import LABELLED, Teacher
from suti.images import square_crop_resize_plane
from suti.pipeline.backbone import Backbone
from suti.schema import Label

# E experts, K pictures of a cluster, T views and rows of a group, H W image.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """What some clusters give to requests.

  Attributes:
    arrays: as `Teacher.asks` has them, with E in front.
    views: of each cluster, the number of the picture that each row of a group
      follows; () where no label is asked for.
    causes: {cluster: why it cannot give what is asked for}.
  """

  arrays: Mapping[str, np.ndarray]
  views: Mapping[str, tuple[int, ...]]
  causes: Mapping[str, str]


def ask(
  teacher: Teacher,
  backbone: Backbone,
  config: Any,
  workdir: Path,
  keys: Sequence[str],
) -> Asked:
  """Reads what a teacher asks for of some clusters.

  Args:
    teacher: the record.
    backbone: encodes pictures.
    config: the whole config.
    workdir: with their stages.
    keys: E clusters.
  """
  arrays: dict[str, np.ndarray] = {}
  views: dict[str, tuple[int, ...]] = {}
  causes: dict[str, str] = {}
  if not teacher.asks:
    return Asked(arrays=arrays, views=views, causes=causes)
  clusters = read_clusters(workdir)
  if "pictures" in teacher.asks:
    found, causes = readable(clusters, keys)
    arrays |= encode_pictures(
      [found[key].images if key in found else () for key in keys],
      backbone,
      config,
    )
  if wanted := LABELLED.intersection(teacher.asks):
    labels = find_labels(workdir, clusters, keys)
    chosen = {}
    for key in keys:
      known = [each for each in labels.get(key, ()) if each.names]
      chosen[key] = known[: config.sample.together]
      if len(chosen[key]) < config.sample.together:
        causes.setdefault(
          key,
          f"{len(known)} of its pictures are labelled, and each of "
          f"{config.sample.together} images of a group follows one",
        )
    views = {
      key: tuple(each.number for each in each_view)
      for key, each_view in chosen.items()
    }
    arrays |= label_arrays(
      [chosen[key] if key not in causes else () for key in keys],
      wanted,
      num=config.sample.together,
      size_px=backbone.size_px,
    )
  return Asked(arrays=arrays, views=views, causes=causes)


def label_arrays(
  views: Sequence[Sequence[Label]],
  wanted: frozenset[str],
  *,
  num: int,
  size_px: int,
) -> dict[str, np.ndarray]:
  """Labels of E clusters as a request holds them.

  Args:
    views: of each cluster `num` labels, or none.
    wanted: of `LABELLED`.
    num: T.
    size_px: of the images; planes of another size are cut and resized to it.

  Returns: `masks_THW`, `depth_THW`, `places_TTHW2` and `seen_TTHW`, those that
    are wanted, with E in front; zeros of a cluster without views.
  """
  side, lead = (size_px, size_px), (len(views), num)
  arrays: dict[str, np.ndarray] = {}
  if "masks" in wanted:
    arrays["masks_THW"] = np.zeros((*lead, *side), bool)
  if "depth" in wanted:
    arrays["depth_THW"] = np.zeros((*lead, *side), np.float32)
  if "correspondence" in wanted:
    arrays["places_TTHW2"] = np.zeros((*lead, num, *side, 2), np.float32)
    arrays["seen_TTHW"] = np.zeros((*lead, num, *side), bool)
  for index, each in enumerate(views):
    if not each:
      continue
    if "masks" in wanted:
      arrays["masks_THW"][index] = [
        square_crop_resize_plane(label.masks[0], size_px) for label in each
      ]
    if "depth" in wanted:
      depths = [label.depth for label in each if label.depth is not None]
      arrays["depth_THW"][index] = [
        square_crop_resize_plane(depth, size_px) for depth in depths
      ]
    if "correspondence" in wanted:
      places, seen = correspondence(each, size_px=size_px)
      arrays["places_TTHW2"][index] = places
      arrays["seen_TTHW"][index] = seen
  return arrays


def encode_pictures(
  images: Sequence[Sequence[np.ndarray]], backbone: Backbone, config: Any
) -> dict[str, np.ndarray]:
  """The pictures of some clusters as a request holds them.

  Returns: `pictures_KHWC`, as latents, and `pictures_K`, which of them there
    are, with E in front; K is the same for all clusters of a config.
  """
  num = max(config.mine.max_images, PICTURES)
  x_EKHWC = np.zeros((len(images), num, *backbone.latent_shape), np.float32)
  is_there_EK = np.zeros((len(images), num), bool)
  every = [image for each in images for image in each]
  flat = backbone.encode_pictures(every) if every else x_EKHWC[0]
  start = 0
  for index, each in enumerate(images):
    x_EKHWC[index, : len(each)] = flat[start : start + len(each)]
    is_there_EK[index, : len(each)] = True
    start += len(each)
  return {"pictures_KHWC": x_EKHWC, "pictures_K": is_there_EK}


def nothing_asked(
  teacher: Teacher, backbone: Backbone, config: Any
) -> dict[str, np.ndarray]:
  """The arrays of one cluster that gives nothing: their shapes, for plans."""
  arrays: dict[str, np.ndarray] = {}
  if "pictures" in teacher.asks:
    num = max(config.mine.max_images, PICTURES)
    shape = (1, num, *backbone.latent_shape)
    arrays["pictures_KHWC"] = np.zeros(shape, np.float32)
    arrays["pictures_K"] = np.zeros((1, num), bool)
  return arrays | label_arrays(
    [()],
    LABELLED.intersection(teacher.asks),
    num=config.sample.together,
    size_px=backbone.size_px,
  )
