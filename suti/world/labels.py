# SPDX-License-Identifier: Apache-2.0
"""Masks, depths and cameras of pictures that SubjectWorld has rendered.

A cluster says its page or its split, and from these its shots follow: they are
rendered once more, with all that the renderer knows.
"""

import re
from collections.abc import Iterator

import numpy as np

from suti.images import square_crop_resize_plane
from suti.schema import Cluster
from suti.world.dataset import heldout_shots, page_shots, spoil_cut, spoiled
from suti.world.render import render_shots

_PAGE = re.compile(r"https://world\.example/(\d+)/(\d+)")

# The pictures of a cluster: image, mask, depth, camera.
Labelled = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, ...]]


def render_again(
  cluster: Cluster, *, split: str, size_px: int
) -> Iterator[Labelled]:
  """The pictures of a cluster's page, or of a held-out subject.

  Args:
    cluster: of `web_rows`' pages or of `heldout`.
    split: of the subjects.
    size_px: side of the pictures.

  Yields: image, mask, depth and camera of each: eye, axes, focal length, in the
    subject's own frame. Of a near-duplicate they are cut as it was.
  """
  if match := _PAGE.fullmatch(cluster.source):
    seed, page = map(int, match.groups())
    shots, spoils = page_shots(split, page=page, seed=seed)
  else:
    assert cluster.truth is not None
    subject = int(cluster.truth[0].rpartition(":")[2])
    shots = heldout_shots(subject, images_each=len(cluster.images))
    spoils = [0] * len(shots)
  drawn = render_shots(shots, size_px=size_px)
  for index, spoil in enumerate(spoils):
    image, mask, depth = (drawn[n][index] for n in ("image", "mask", "depth"))
    depth, focal = depth.astype(np.float16), drawn["focal"][index]
    if spoil:
      image, cut = spoiled(image, spoil), spoil_cut(size_px, spoil)
      inside = slice(cut, size_px - cut)
      mask, depth = (
        square_crop_resize_plane(plane[inside, inside], size_px)
        for plane in (mask, depth)
      )
      focal = focal * size_px / (size_px - 2 * cut)  # in half frames
    camera = (
      *drawn["eye"][index],
      *drawn["axes"][index].ravel(),
      focal,
    )
    yield image, mask, depth, tuple(float(x) for x in camera)
