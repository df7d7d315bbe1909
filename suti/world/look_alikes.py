# SPDX-License-Identifier: Apache-2.0
"""Subjects of one class that are nearest in colours.

Whoever must tell a subject from these cannot go by colour. A subject's colours
are the shares that each of the palette's named colours has of its surface, by
its parts, without rendering; two subjects are as near as their shares
(Hellinger's distance).

Shape legend: n subjects, P parts, C named colours.
"""

import functools

import numpy as np

from suti.world.palette import RGB
from suti.world.parts import extent, present
from suti.world.subjects import build
from suti.world.templates import (
  Shot,
  class_indices,
  split_of,
  subject_seeds,
)

# Where a split's look-alikes are: beyond what benchmarks and pools take, and
# webs of a seed below 124 (`ranges.py`).
_FIRST, _NUM = 500_000_000, 2000
_SOFTNESS = 0.02  # squared distance of colours that count as half the same
_PATTERN = 0.4  # of a patterned part's surface


def colours(seeds) -> np.ndarray:
  """Square roots of the shares of each named colour, (n, C).

  Args:
    seeds: of subjects.
  """
  seeds = np.asarray(seeds)
  out = np.empty((len(seeds), len(RGB)))
  for _, rows, subjects in build(seeds):
    out[rows] = _shares(subjects.arrays)
  return np.sqrt(out)


def _shares(a: dict) -> np.ndarray:
  there = present(a)
  x, y, z = (
    extent(a, np.tile(axis, (len(there), 1))).clip(0) for axis in np.eye(3)
  )
  area_nP = np.where(there, x * y + y * z + x * z, 0.0)
  plain = a["pattern"][:, :1]
  over_nP = _PATTERN * a["patterned"] * (1 - plain)
  share = np.einsum("np,npc->nc", area_nP * (1 - over_nP), _named(a["colour"]))
  pattern = _named(a["pattern_colour"][:, None])[:, 0]
  share = share + (area_nP * over_nP).sum(1, keepdims=True) * pattern
  return share / share.sum(1, keepdims=True)


def _named(colour) -> np.ndarray:
  """How much of each named colour is in a colour, (..., C), sums to one."""
  square = np.square(colour[..., None, :] - RGB).sum(-1)
  weight = np.exp(-(square - square.min(-1, keepdims=True)) / _SOFTNESS)
  return weight / weight.sum(-1, keepdims=True)


@functools.lru_cache(maxsize=8)
def _candidates(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
  """The seeds of a class among a split's candidates, and their colours."""
  seeds = np.array(subject_seeds(split, _FIRST, _NUM))
  seeds = seeds[class_indices(seeds) == index]
  return seeds, colours(seeds)


def look_alikes(subject: int, *, count: int = 24) -> list[int]:
  """The subjects of a class that are nearest to one in colours.

  They are of its split, chosen among 2,000 subjects there: 95 of a common
  object's class, 340 dogs.

  Args:
    subject: a seed.
    count: how many.

  Returns: seeds, the nearest first, never the subject itself.
  """
  seeds, theirs = _candidates(
    split_of(subject), int(class_indices([subject])[0])
  )
  distance = np.square(theirs - colours([subject])).sum(1)
  distance = np.where(seeds == subject, np.inf, distance)
  order = np.argsort(distance, kind="stable")[:count]
  assert len(order) == count, (subject, len(seeds))
  return [int(seed) for seed in seeds[order]]


def groups(seeds, *, size: int) -> list[list[int]]:
  """Parts subjects into groups of one class with similar colours.

  Args:
    seeds: of subjects.
    size: of a group; what is left of a class is left out.

  Returns: groups of seeds; a class's first groups are the tightest.
  """
  seeds = np.asarray(seeds)
  kinds, found = class_indices(seeds), []
  for kind in np.unique(kinds):
    left = seeds[kinds == kind]
    shares = colours(left)
    while len(left) >= size:
      distance = np.square(shares - shares[0]).sum(1)
      distance[0] = -1.0
      order = np.argsort(distance, kind="stable")
      found.append([int(seed) for seed in left[order[:size]]])
      rest = np.sort(order[size:])
      left, shares = left[rest], shares[rest]
  return found


def line_up(subject: int, *, template: int, seeds: list[int]) -> list[Shot]:
  """A subject and its look-alikes in one scene, each under several cameras.

  Args:
    subject: a seed; its own shots come first.
    template: of the scene, see `Shot`.
    seeds: one a camera, the same for all subjects.

  Returns: shots, those of a subject side by side.
  """
  return [
    Shot(subject=who, template=template, seed=seed)
    for who in [subject, *look_alikes(subject)]
    for seed in seeds
  ]
