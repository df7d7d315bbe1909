# SPDX-License-Identifier: Apache-2.0
"""A subject from a seed: class, shape, colours, pattern and a true description.

The classes are built in `animals`, `cartoons`, `toys`, `vessels`, `wares` and
`household`; this file draws what all share (palette, pattern, size) and
describes the result in words.

Shape legend: n subjects.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from suti.world import (
  animals,
  cartoons,
  household,
  palette,
  toys,
  vessels,
  wares,
)
from suti.world.parts import NUM_ROUND, PATTERNS, Parts, span
from suti.world.templates import CLASSES, LIVE, class_indices, draws

# Class -> its variants: (builder, share). A variant is drawn by the seed.
BUILDERS = {
  "backpack": ((wares.backpack, 1),),
  "stuffed animal": ((animals.stuffed_animal, 1),),
  "bowl": ((vessels.bowl, 1),),
  "can": ((vessels.can, 1),),
  "candle": ((household.candle, 1),),
  "cat": ((animals.cat, 1),),
  "clock": ((household.clock, 1),),
  "sneaker": ((wares.sneaker, 1),),
  "dog": ((animals.dog, 1),),
  "toy": (
    (toys.duck, 1),
    (toys.robot, 1),
    (toys.car, 1),
    (toys.monster, 1),
  ),
  "boot": ((wares.boot, 1),),
  "glasses": ((wares.glasses, 1),),
  "cartoon": ((cartoons.cartoon, 1),),
  "teapot": ((vessels.teapot, 1),),
  "vase": ((vessels.vase, 1),),
}
# Share of plain, striped, spotted, patchy, two-tone, banded subjects.
_PATTERN_SHARE = {
  "dog": (4, 0.6, 2, 3, 0.4, 0),
  "cat": (3, 3, 1, 2.5, 0.5, 0),
  "stuffed animal": (5, 1.5, 1.5, 0.5, 1, 0),
  "glasses": (5, 2, 2, 0, 2, 0),
  "sneaker": (5, 1, 1.5, 1, 1.5, 0),
}
_DEFAULT_SHARE = (3, 2, 2, 0.5, 1.5, 2)
# The size all subjects are brought to: half of the largest extent.
HALF_SIZE = 0.65


class Draws:
  """A subject's random numbers, handed out in order."""

  def __init__(self, seeds, *, stream):
    self._u = draws(seeds, stream=stream, count=160)
    self._next = 0

  def unit(self, count=1):
    """The next uniform numbers: (n,) or, for count > 1, (n, count)."""
    out = self._u[:, self._next : self._next + count]
    self._next += count
    assert out.shape[1] == count, "more draws than reserved"
    return out[:, 0] if count == 1 else out

  def uniform(self, low, high):
    """Uniform in [low, high), (n,)."""
    return low + (high - low) * self.unit()

  def chance(self, probability):
    """True with a probability, bool (n,)."""
    return self.unit() < probability

  def choice(self, count):
    """An index below count, (n,)."""
    return (self.unit() * count).astype(int)


@dataclasses.dataclass(frozen=True)
class Palette:
  """Three colours a subject, as values (n, 3) and as names' indices (n,)."""

  main: np.ndarray
  second: np.ndarray
  third: np.ndarray
  main_index: np.ndarray
  second_index: np.ndarray


def _palette(g, class_name):
  """Draws harmonious colours."""
  fur = class_name in LIVE
  pool = np.array(palette.FUR_COLOURS if fur else palette.OBJECT_COLOURS)
  main = pool[g.choice(len(pool))]
  second = (palette.fur_partner if fur else palette.partner)(main, g.unit())
  third = palette.partner(second, g.unit())
  neutral = np.where(
    g.chance(0.5), palette.NAMES.index("white"), palette.NAMES.index("cream")
  )
  third = np.where(third == main, neutral, third)
  return Palette(
    main=palette.rgb(main, g.unit(3)),
    second=palette.rgb(second, g.unit(3)),
    third=palette.rgb(third, g.unit(3)),
    main_index=main,
    second_index=second,
  )


def _pattern(b, g, c, class_name):
  """Draws the surface pattern; returns its index, (n,)."""
  share = np.array(_PATTERN_SHARE.get(class_name, _DEFAULT_SHARE), float)
  edges = np.cumsum(share / share.sum())
  kind = np.searchsorted(edges, g.unit(), side="right")
  kind = np.minimum(kind, len(PATTERNS) - 1)
  n, a = b.n, b.arrays
  a["pattern"][:] = np.eye(len(PATTERNS))[kind]
  tilt = g.uniform(0.0, np.pi)
  lengthwise = class_name in ("dog", "sneaker")
  across = np.stack([0.35 * np.cos(tilt), 0.3 * np.sin(tilt), np.ones(n)], -1)
  any_way = np.stack([np.cos(tilt), np.sin(tilt), 0.35 * np.sin(2 * tilt)], -1)
  axis = np.where((kind == 5)[:, None], [[0.0, 1, 0]], any_way)
  if lengthwise:
    axis = across
  a["pattern_axis"][:] = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
  low, high = np.array(
    [(1, 1), (2.6, 4.4), (2.0, 3.0), (0.9, 1.4), (0.1, 0.1), (1.2, 2.0)]
  )[kind].T
  a["pattern_scale"][:] = low + (high - low) * g.unit()
  a["pattern_phase"][:] = g.unit(3) * 6.283
  a["pattern_colour"][:] = c.second
  return kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subjects:
  """A batch of one class and variant.

  Attributes:
    arrays: see `parts.Parts`, leading axis n.
    kept: parts that a cube shaped subject keeps, bool (n, P).
    main: its first colour, (n, 3).
    anchors: where a live subject wears things, or None.
    phrases: (colour, pattern, noun, rest) of each description.
    free: the first free slot of each kind ("round", "solid", "decal"), and of
      a solid that no cube keeps ("core"); the same for all of a variant.
  """

  arrays: dict[str, np.ndarray]
  kept: np.ndarray
  main: np.ndarray
  anchors: dict | None
  phrases: list[tuple[str, str, str, str]]
  free: dict[str, int]

  def take(self, rows) -> "Subjects":
    """Some of the subjects, as copies."""
    anchors = self.anchors and {
      k: v[rows] if isinstance(v, np.ndarray) else v
      for k, v in self.anchors.items()
    }
    return dataclasses.replace(
      self,
      arrays={k: v[rows] for k, v in self.arrays.items()},
      kept=self.kept[rows],
      main=self.main[rows],
      anchors=anchors,
      phrases=[self.phrases[i] for i in rows],
    )


def _normalise(arrays, anchors):
  """Scales to HALF_SIZE and centres on the ground, in place."""
  low, high = span(arrays)
  size = np.maximum((high - low).max(-1), 1.2 * (high - low)[:, 1])
  scale = 2 * HALF_SIZE / size
  shift = -(low + high) / 2
  shift[:, 1] = -low[:, 1]
  for kind in ("round", "solid", "decal"):
    arrays[kind + "_at"] = np.where(
      arrays[kind + "_at"][..., 1:2] < -20,
      arrays[kind + "_at"],
      (arrays[kind + "_at"] + shift[:, None]) * scale[:, None, None],
    )
    factor = scale[:, None, None] * np.ones_like(arrays[kind + "_size"])
    if kind == "solid":
      factor[..., 3] = 1.0  # the taper is a slope
      factor[..., 4] = np.where(
        arrays["solid_size"][..., 4] > 5, 1, factor[..., 4]
      )
    arrays[kind + "_size"] = arrays[kind + "_size"] * factor
  arrays["smooth"] = arrays["smooth"] * scale[:, None]
  if anchors is not None:
    for name in ("head", "neck", "chest"):
      point = np.stack(np.broadcast_arrays(*anchors[name]), -1)
      anchors[name] = (point + shift) * scale[:, None]
    for name in ("radius", "neck_radius", "chest_size"):
      anchors[name] = anchors[name] * scale


def _build(class_name, variant, seeds):
  """Builds a batch of one class and variant."""
  stream = 100 * (1 + CLASSES.index(class_name)) + variant
  g = Draws(seeds, stream=stream)
  b = Parts(len(seeds))
  colours = _palette(g, class_name)
  kind = _pattern(b, g, colours, class_name)
  made = BUILDERS[class_name][variant][0](b, g, colours)
  anchors = made.get("anchors")
  _normalise(b.arrays, anchors)
  nouns = np.broadcast_to(np.asarray(made["noun"]), (len(seeds),))
  phrases = []
  for i in range(len(seeds)):
    main = palette.NAMES[colours.main_index[i]]
    second = palette.NAMES[colours.second_index[i]]
    noun = str(nouns[i])
    if noun != class_name:
      noun = f"{noun} {class_name}"
    pattern, rest = PATTERNS[kind[i]], ""
    if pattern == "plain":
      pattern, rest = "", f" with {second} {made['accent'][i]}"
    elif pattern == "two-tone":
      main, pattern = f"{main} and {second}", ""
    phrases.append((main, pattern, noun, rest))
  core = int(np.argmin(b.may_be_kept[NUM_ROUND:])) + NUM_ROUND
  assert not b.may_be_kept[core], class_name
  return Subjects(
    arrays=b.arrays,
    kept=b.kept,
    main=colours.main,
    anchors=anchors,
    phrases=phrases,
    free={
      "round": b.num_round,
      "solid": NUM_ROUND + b.num_solid,
      "decal": b.num_decals,
      "core": core,
    },
  )


def build(seeds):
  """Builds subjects, grouped by class and variant.

  Args:
    seeds: integers, (n,).

  Returns:
    A list of (class name, rows of `seeds`, Subjects).
  """
  seeds = np.asarray(seeds, np.uint64)
  kinds = class_indices(seeds)
  pick = draws(seeds, stream=1, count=1)[:, 0]
  out = []
  for index in np.unique(kinds):
    name = CLASSES[index]
    edges = np.cumsum([share for _, share in BUILDERS[name]])
    variants = np.searchsorted(edges / edges[-1], pick, side="right")
    for variant in range(len(BUILDERS[name])):
      rows = np.flatnonzero((kinds == index) & (variants == variant))
      if rows.size:
        out.append((name, rows, _build(name, variant, seeds[rows])))
  return out


_MOST = 1 << 18  # phrases that are remembered
_phrases: dict[int, tuple[str, str, str, str]] = {}


def phrase(seed: int) -> tuple[str, str, str, str]:
  """(colour, pattern, noun, rest) of one subject's description."""
  if seed not in _phrases:
    prepare_phrases([seed])
  return _phrases[seed]


def prepare_phrases(seeds: Iterable[int]) -> None:
  """Builds many subjects together for their descriptions, 30 times as fast.

  Args:
    seeds: of the subjects that `phrase` will be asked for.
  """
  wanted = dict.fromkeys(map(int, seeds))
  new = [seed for seed in wanted if seed not in _phrases]
  if len(_phrases) + len(new) > _MOST:
    _phrases.clear()
  for start in range(0, len(new), 1024):
    block = new[start : start + 1024]
    for _, rows, made in build(block):
      _phrases.update(
        (block[row], words)
        for row, words in zip(rows, made.phrases, strict=True)
      )
