# SPDX-License-Identifier: Apache-2.0
"""Do images of a set have one colour where they show one point?

SynCD judges its sets by an encoder. SubjectWorld knows more: each image of the
rigid teacher follows a view of known geometry (`Candidate.view`), so that it is
known which of its pixels should show what a pixel of another shows. The mean
difference of their colours, of 255, over all pairs of a set and all sets of a
finished `experts.sample`; beside it that of the mined pictures themselves, in
the light of each, and of images of different sets that follow the same views,
where there are any: what a colour is worth that no one has agreed on.

  python -m tests.benchmarks.colour_error runs/syncd [MORE ...]
"""

import collections
import itertools
import pathlib
import sys

import numpy as np

from experts.clusters import read_clusters
from experts.label import find_labels
from experts.mining.views import correspondence
from experts.sample import open_candidates
from suti.schema import Candidate

# H W C image.


def difference(
  one_HWC: np.ndarray,
  two_HWC: np.ndarray,
  places_HW2: np.ndarray,
  seen_HW: np.ndarray,
) -> float:
  """Mean absolute difference of colours at pixels that show one point."""
  column, row = places_HW2[seen_HW].astype(int).T
  there = two_HWC[row, column].astype(float)
  return float(np.abs(one_HWC[seen_HW].astype(float) - there).mean())


def measure(workdir: pathlib.Path) -> dict[str, list[float]]:
  """{what is compared: a difference for each pair}."""
  found = collections.defaultdict(list)
  clusters = read_clusters(workdir)
  sets: dict[tuple[str, str], dict[int, Candidate]] = {}
  for wave in open_candidates(workdir):
    for each in wave:
      if each.view is not None and each.group is not None:
        sets.setdefault((each.cluster, each.group), {})[each.view] = each
  if not sets:
    raise SystemExit(f"{workdir} has no images that follow views.")
  subjects = {key for key, _ in sets}
  labels = find_labels(workdir, clusters, subjects)
  for key in subjects:
    groups = [views for (cluster, _), views in sets.items() if cluster == key]
    numbers = sorted(groups[0])
    known = [labels[key][number] for number in numbers]
    pictures = clusters.find(key).images
    side = pictures[0].shape[0]
    places, seen = correspondence(known, size_px=side)
    for (i, one), (j, two) in itertools.combinations(enumerate(numbers), 2):
      if not seen[i, j].any():
        continue
      link = places[i, j], seen[i, j]
      shown = difference(pictures[one], pictures[two], *link)
      found["mined pictures"].append(shown)
      for first, second in itertools.product(groups, groups):
        name = "of one set" if first is second else "of two sets"
        pair = first[one].image, second[two].image
        found[name].append(difference(*pair, *link))
  return found


def main(workdirs: list[str]) -> None:
  """Prints a line for each workdir."""
  for workdir in workdirs:
    found = measure(pathlib.Path(workdir))
    print(
      f"{workdir}: "
      + ", ".join(
        f"{name} {np.mean(values):.1f} ({len(values)} pairs)"
        for name, values in sorted(found.items())
      )
    )


if __name__ == "__main__":
  main(sys.argv[1:])
