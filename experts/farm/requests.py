# SPDX-License-Identifier: Apache-2.0
"""What a teacher's request holds beside texts: pictures, masks, depths, views.

A teacher names them in `Teacher.asks`, and gets those of each expert's own
cluster. Pictures are all that there are. What is labelled (`experts.label`) is
of views: the first labelled pictures of a cluster, one for each row of a group
(`config.sample.together`), so that a row may follow the shape that a view has;
where they are to correspond, those that do. Tokens and noun are a row's own, of
its prompt (`experts.farm.text_tokens`).

A cluster that lacks any of it is told apart, and its images are not kept.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.clusters import read_clusters, readable
from experts.farm.text_tokens import blank_row, text_rows
from experts.farm.waves import PICTURES
from experts.label import find_labels
from experts.mining.views import correspondence, overlaps
from experts.teacher import LABELLED, TEXTUAL, Teacher
from suti.images import (
  depth_u8,
  square_crop_resize,
  square_crop_resize_plane,
)
from suti.pipeline.backbone import Backbone
from suti.schema import Label

# E experts, K pictures of a cluster, T views and rows of a group, H W image.

# Side at which views are compared, at most, as SynCD's code has it.
_FINE = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """What some clusters give to requests.

  Attributes:
    arrays: as `Teacher.asks` has them, with E in front.
    rows: of each cluster and each of its rows, arrays of its own.
    views: of each cluster, the number of the picture that each row of a group
      follows; () where no label is asked for.
    causes: {cluster: why it cannot give what is asked for}.
  """

  arrays: Mapping[str, np.ndarray]
  rows: Sequence[Sequence[Mapping[str, np.ndarray]]]
  views: Mapping[str, tuple[int, ...]]
  causes: Mapping[str, str]


def ask(
  teacher: Teacher,
  backbone: Backbone,
  config: Any,
  workdir: Path,
  texts: Mapping[str, Sequence[str]],
) -> Asked:
  """Reads what a teacher asks for of some clusters.

  Args:
    teacher: the record.
    backbone: encodes pictures.
    config: the whole config.
    workdir: with their stages.
    texts: of E clusters, what each of their rows is sampled with.
  """
  wanted, keys = teacher.asked(config), list(texts)
  arrays: dict[str, np.ndarray] = {}
  views: dict[str, tuple[int, ...]] = {}
  causes: dict[str, str] = {}
  rows: list[list[dict]] = [[{} for _ in each] for each in texts.values()]
  if not wanted:
    return Asked(arrays=arrays, rows=rows, views=views, causes=causes)
  clusters = read_clusters(workdir)
  found = {}
  if (TEXTUAL | {"pictures"}) & wanted:
    found, causes = readable(clusters, keys)
  if TEXTUAL & wanted:
    nouns = {key: cluster.subject for key, cluster in found.items()}
    rows = text_rows(texts, nouns, backbone, wanted=wanted, causes=causes)
  if "pictures" in wanted:
    arrays |= encode_pictures(
      [found[key].images if key in found else () for key in keys],
      backbone,
      config,
    )
  if LABELLED & wanted:
    labels = find_labels(workdir, clusters, keys)
    chosen = {}
    for key in keys:
      known = [each for each in labels.get(key, ()) if each.names]
      chosen[key], cause = choose_views(known, wanted, config)
      if cause:
        causes.setdefault(key, cause)
    views = {
      key: tuple(each.number for each in each_view)
      for key, each_view in chosen.items()
    }
    arrays |= label_arrays(
      [chosen[key] if key not in causes else () for key in keys],
      wanted,
      num=config.sample.together,
      backbone=backbone,
    )
  return Asked(arrays=arrays, rows=rows, views=views, causes=causes)


def choose_views(
  known: Sequence[Label], wanted: frozenset[str], config: Any
) -> tuple[Sequence[Label], str]:
  """The views of a subject, one for each row of a group, or why there are none.

  Those that correspond have to show enough of each other; of several sets the
  one with least in common is taken, as SynCD's code does.
  """
  num, sample = config.sample.together, config.sample
  if len(known) < num:
    return known, (
      f"{len(known)} of its pictures are labelled, and each of {num} images of "
      "a group follows one"
    )
  if "correspondence" not in wanted:
    return known[:num], ""
  large = [x for x in known if x.masks[0].mean() >= sample.view_area]
  shares_TT = overlaps(large, side=min(config.size_px, _FINE))
  sets = choose_sets(shares_TT, num=num, least=sample.view_overlap)
  if not sets:
    return (), (
      f"{len(large)} of its {len(known)} labelled pictures show enough of it, "
      f"and no {num} of them share {sample.view_overlap:.0%} of the frame in "
      "pairs"
    )
  return [large[number] for number in sets[0]], ""


def choose_sets(
  shares_TT: np.ndarray, *, num: int, least: float
) -> list[tuple[int, ...]]:
  """Sets of views each pair of which has enough in common, the least first.

  Args:
    shares_TT: of `experts.mining.views.overlaps`.
    num: views of a set.
    least: share of the frame that a pair must both show.
  """
  found = []
  for numbers in itertools.combinations(range(len(shares_TT)), num):
    shares = [shares_TT[pair] for pair in itertools.combinations(numbers, 2)]
    if all(share > least for share in shares):
      found.append((sum(shares), numbers))
  return [numbers for _, numbers in sorted(found)]


def label_arrays(
  views: Sequence[Sequence[Label]],
  wanted: frozenset[str],
  *,
  num: int,
  backbone: Backbone,
) -> dict[str, np.ndarray]:
  """Labels of E clusters as a request holds them.

  Args:
    views: of each cluster `num` labels, or none.
    wanted: of `LABELLED`.
    num: T.
    backbone: encodes depths, and has the images' size, to which planes of
      another size are cut and resized.

  Returns: `masks_THW`, `depth_THW`, `depth_THWC`, `places_TTHW2` and
    `seen_TTHW`, those that are wanted, with E in front; zeros of a cluster
    without views.
  """
  size_px = backbone.size_px
  side, lead = (size_px, size_px), (len(views), num)
  arrays: dict[str, np.ndarray] = {}
  if "masks" in wanted:
    arrays["masks_THW"] = np.zeros((*lead, *side), bool)
  if "depth" in wanted:
    arrays["depth_THW"] = np.zeros((*lead, *side), np.float32)
  if "depth_latents" in wanted:
    shape = (*lead, *backbone.latent_shape)
    arrays["depth_THWC"] = np.zeros(shape, np.float32)
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
    if "depth_latents" in wanted:
      arrays["depth_THWC"][index] = backbone.encode_pictures(
        [
          square_crop_resize(depth_u8(label.depth, label.masks[0]), size_px)
          for label in each
          if label.depth is not None
        ]
      )
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


def nothing_asked(teacher: Teacher, backbone: Backbone, config: Any) -> Asked:
  """One cluster that gives nothing, to one row: shapes, for plans."""
  arrays, wanted = {}, teacher.asked(config)
  if "pictures" in wanted:
    num = max(config.mine.max_images, PICTURES)
    shape = (1, num, *backbone.latent_shape)
    arrays["pictures_KHWC"] = np.zeros(shape, np.float32)
    arrays["pictures_K"] = np.zeros((1, num), bool)
  arrays |= label_arrays(
    [()], wanted, num=config.sample.together, backbone=backbone
  )
  row = blank_row(backbone, wanted)
  return Asked(arrays=arrays, rows=[[row]], views={}, causes={})
