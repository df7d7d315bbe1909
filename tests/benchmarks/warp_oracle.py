# SPDX-License-Identifier: Apache-2.0
"""Does warping mean anything on what a base denoises? An oracle, without noise.

SynCD warps what is denoised from one view of a subject to the others. Here both
views are true renders, and which pixels correspond is known. One view's array
is warped to where the other shows the same, and decoded. Its colours are
compared with the other view's, at the pixels that both show, all of whose
neighbours both show, too; so are those of

  pixels    the same warp of the pictures themselves: no array can do better
  decoded   the other view itself, encoded and decoded: what the codec loses
  still     the first view where it was, which a warp has to beat

PSNR in dB, over all such pixels of all pairs, in the light of each view: the
colour of a point differs from view to view, which is why `pixels` is finite.
More than 6 dB below `pixels` a warp of this array says little of the colours.

  python -m tests.benchmarks.warp_oracle [BASE ...]   # and of other bases
"""

import itertools
import math
import sys

import jax.numpy as jnp
import numpy as np

from suti.images import to_pm1
from suti.nn.warp import METHODS, link, warp
from suti.pipeline.backbone import load_backbone
from suti.pipeline.codec import Codec, pixels
from suti.world.correspondence import correspond
from suti.world.dataset import heldout_shots, render_shots, subject_seeds
from suti.world.templates import LIVE, class_of

SIZE_PX, NUM_SUBJECTS, SHOTS_EACH = 64, 48, 6
MIN_OVERLAP = 0.05  # of the frame: the published 0.1 leaves few pairs here

# H W C picture or array.


def view_of(drawn, index: int) -> dict[str, np.ndarray]:
  """One picture of what `render_shots` returned."""
  return {name: each[index] for name, each in drawn.items()}


def pairs_of(drawn, rows) -> list[tuple[int, int]]:
  """The two shots of a subject that have most in common, if that is enough."""
  shares = {
    (one, two): correspond(view_of(drawn, one), view_of(drawn, two))[1].mean()
    for one, two in itertools.combinations(rows, 2)
  }
  best = max(shares, key=lambda pair: shares[pair])
  return [best] if shares[best] >= MIN_OVERLAP else []


def inner(shown_HW: np.ndarray) -> np.ndarray:
  """Pixels all of whose 3 x 3 neighbours are shown."""
  padded = np.pad(shown_HW, 1)
  side = len(shown_HW)
  return np.logical_and.reduce(
    [padded[i : i + side, j : j + side] for i in range(3) for j in range(3)]
  )


class Errors:
  """Sums of squared differences, by what was warped and how."""

  def __init__(self):
    self.total, self.num = {}, {}

  def add(self, name, image_HWC, true_HWC, at_HW) -> None:
    """Counts the pixels `at_HW` of two pictures in [-1, 1]."""
    image_HWC = np.clip(np.asarray(image_HWC, np.float64), -1, 1)
    square = np.square(image_HWC - true_HWC)[at_HW].sum()
    self.total[name] = self.total.get(name, 0.0) + square
    self.num[name] = self.num.get(name, 0) + 3 * at_HW.sum()

  def psnr(self, name) -> float:
    """In dB, the range being 2; infinite where nothing is lost."""
    if not self.total[name]:
      return math.inf
    return float(10 * np.log10(4 * self.num[name] / self.total[name]))


def measure(name: str, codec: Codec, drawn, pairs) -> None:
  """Prints a table of one codec."""
  errors = Errors()
  image_NHWC = to_pm1(drawn["image"])
  for giver, taker in pairs:
    taken, given = view_of(drawn, taker), view_of(drawn, giver)
    places_HW2, seen_HW = correspond(taken, given)
    places_TTHW2 = np.zeros((2, 2, *places_HW2.shape), np.float32)
    seen_TTHW = np.zeros((2, 2, *seen_HW.shape), bool)
    places_TTHW2[0, 1][seen_HW] = places_HW2[seen_HW]
    seen_TTHW[0, 1] = seen_HW
    links = link(
      jnp.asarray(places_TTHW2), jnp.asarray(seen_TTHW), source="last"
    )
    at_HW = inner(seen_HW)
    true_HWC = image_NHWC[taker]
    shown_THWC = image_NHWC[[taker, giver]]
    x_THWC = codec.encode(codec.params, jnp.asarray(shown_THWC))
    decoded_THWC = codec.decode(codec.params, x_THWC)
    errors.add("decoded", decoded_THWC[0], true_HWC, at_HW)
    errors.add("still", shown_THWC[1], true_HWC, at_HW)
    for method in METHODS:
      for kind, array_THWC in (
        ("pixels", jnp.asarray(shown_THWC)),
        ("array", x_THWC),
      ):
        moved_THWC = warp(
          array_THWC, links, source="last", method=method, chain=False,
          thin=False,
        )  # fmt: skip
        if kind == "array":
          moved_THWC = codec.decode(codec.params, moved_THWC)
        errors.add(f"{kind} {method}", moved_THWC[0], true_HWC, at_HW)
  print(
    f"{name}: decoded {errors.psnr('decoded'):.1f} dB, still "
    f"{errors.psnr('still'):.1f} dB"
  )
  for method in METHODS:
    of_pixels, of_array = (
      errors.psnr(f"{kind} {method}") for kind in ("pixels", "array")
    )
    print(
      f"  {method:9} pixels {of_pixels:.1f} dB, array {of_array:.1f} dB, "
      f"{of_array - of_pixels:+.1f}"
    )


def main(bases: list[str]) -> None:
  """Renders pairs of views and measures each base, and patches of 4 px."""
  shots, subjects = [], subject_seeds("validation", 0, NUM_SUBJECTS)
  for subject in subjects:
    shots += heldout_shots(subject, images_each=SHOTS_EACH)
  drawn = render_shots(shots, size_px=SIZE_PX)
  pairs = []
  for start in range(0, len(shots), SHOTS_EACH):
    pairs += pairs_of(drawn, range(start, start + SHOTS_EACH))
  live = sum(class_of(shots[one].subject) in LIVE for one, _ in pairs)
  print(
    f"{len(pairs)} pairs of {NUM_SUBJECTS} subjects, {live} of them animals"
  )
  for name in bases:
    measure(name, load_backbone(name, weights=False).codec, drawn, pairs)
  measure("patches of 4 px, world_base", pixels(4), drawn, pairs)
  measure("pixels", pixels(1), drawn, pairs)


if __name__ == "__main__":
  main(sys.argv[1:])
