# SPDX-License-Identifier: Apache-2.0
"""How far do the images of a set agree? SynCD's table 5, by the world's truth.

SynCD (arXiv 2502.01720, table 5) compares ways to make its sets: with warping
and shared attention or without, by the similarity of a set's subjects, cut out
of their images, and by the share that its filter keeps. Of finished
`experts.filter`, on the subjects that all have, the first being what others are
compared with:

  identity  mean cosine over the pairs of a set, subjects cut out by the
            teacher's masks, by the identity encoder, which also filters
  judge     the same by the judge, which takes no part in anything else
  colour    mean difference of colours, of 255, where two images show one point;
            of the rigid variant, whose images follow views of known geometry
  CLIP-T    of the prompts
  kept      the share that the filter keeps

Two rows say what a value of the first is worth: the mined pictures of the same
views, a perfect set, and pairs of images of two sets, of subjects of one class.

  python -m tests.benchmarks.set_agreement full=runs/full no_warp=runs/no_warp
  # full=runs/full,runs/full-1 is the mean of a subject's sets of two seeds
  # --sheet sets.webp draws the first sets too, of each subject a column: the
  # mined pictures of the same views, and a row for each workdir
"""

import argparse
import collections
import copy
import itertools
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from experts.clusters import find_clusters, read_clusters
from experts.label import find_labels
from experts.mining.views import correspondence
from experts.sample import open_candidates
from experts.selection import read_scores
from suti.evaluation import intervals
from suti.evaluation.cut_outs import cut_out
from suti.evaluation.judge import load_judge
from suti.evaluation.scores import load_scorer, mean_over_distinct_pairs
from suti.schema import Candidate, Cluster, Label

# H W C image, T images of a set, D embedding width.

COLUMNS, GAP = 6, 8  # of the sheet
MEASURES = ("identity", "judge", "colour", "CLIP-T", "kept")
Values = dict[str, dict[str, float]]  # {measure: {cluster: value}}
Embed = Callable[[list[np.ndarray]], np.ndarray]
# Pictures whose geometry a set follows, their masks, their labels.
Views = tuple[list[np.ndarray], list[np.ndarray], list[Label]]


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


def colours(images: list[np.ndarray], labels: list[Label]) -> float:
  """The mean difference over pairs of views that show points in common."""
  places, seen = correspondence(labels, size_px=images[0].shape[0])
  return float(
    np.mean(
      [
        difference(images[i], images[j], places[i, j], seen[i, j])
        for i, j in itertools.combinations(range(len(labels)), 2)
        if seen[i, j].any()
      ]
    )
  )


def read_sets(workdir: pathlib.Path) -> dict[str, list[Candidate]]:
  """{cluster: the images of its first set, in order}."""
  sets: dict[str, dict[str | None, list[Candidate]]] = {}
  for wave in open_candidates(workdir):
    for each in wave:
      groups = sets.setdefault(each.cluster, {})
      groups.setdefault(each.group, []).append(each)
  return {
    key: sorted(next(iter(groups.values())), key=lambda c: c.number)
    for key, groups in sets.items()
  }


def cut_outs(images: list[Candidate]) -> list[np.ndarray]:
  """Their subjects; an image whose mask is empty is left whole."""
  return [
    each.image if (mask := _mask(each)) is None else cut_out(each.image, mask)
    for each in images
  ]


def _mask(image: Candidate) -> np.ndarray | None:
  """Where the subject is; None if that is not known, or nowhere."""
  return image.mask if image.mask is not None and image.mask.any() else None


def embedded(
  embed: Embed, images: dict[str, list[np.ndarray]]
) -> dict[str, np.ndarray]:
  """Unit embeddings of the images of each key, all embedded together."""
  rows_ND = embed([image for each in images.values() for image in each])
  ends = np.cumsum([len(each) for each in images.values()])
  return dict(zip(images, np.split(rows_ND, ends[:-1]), strict=True))


def measure(
  workdir: pathlib.Path,
  sets: dict[str, list[Candidate]],
  embeds: dict[str, Embed],
) -> tuple[Values, Values, Values]:
  """Values of a workdir, of the mined pictures it follows, and across sets."""
  own: Values = {name: {} for name in MEASURES}
  mined, across = copy.deepcopy(own), copy.deepcopy(own)
  clusters = find_clusters(read_clusters(workdir), set(sets))
  subjects = {key: clusters[key].subject for key in sets}
  views = views_of(workdir, sets, clusters)
  for name, embed in embeds.items():
    sets_TD = embedded(embed, {key: cut_outs(sets[key]) for key in sets})
    for key, here_TD in sets_TD.items():
      own[name][key] = mean_over_distinct_pairs(here_TD)
      if (other := _next_of_class(key, subjects)) != key:
        across[name][key] = float((here_TD @ sets_TD[other].T).mean())
    if views:
      cut = {key: list(map(cut_out, *view[:2])) for key, view in views.items()}
      for key, here_TD in embedded(embed, cut).items():
        mined[name][key] = mean_over_distinct_pairs(here_TD)
  for key, (pictures, _, labels) in views.items():
    own["colour"][key] = colours([each.image for each in sets[key]], labels)
    mined["colour"][key] = colours(pictures, labels)
  scores = collections.defaultdict(list)
  for score in read_scores(workdir):
    if score.cluster in sets:
      scores[score.cluster].append((score.values["clip_t"], score.kept))
  for key, rows in scores.items():
    own["CLIP-T"][key], own["kept"][key] = map(float, np.mean(rows, axis=0))
  return own, mined, across


def over_seeds(found: list[Values]) -> Values:
  """The mean of each subject's values, where all seeds have one."""
  return {
    name: {
      key: float(np.mean([each[name][key] for each in found]))
      for key in found[0][name]
      if all(key in each[name] for each in found)
    }
    for name in MEASURES
  }


def views_of(
  workdir: pathlib.Path,
  sets: dict[str, list[Candidate]],
  clusters: Mapping[str, Cluster],
) -> dict[str, Views]:
  """What the sets follow, by cluster; nothing of the deformable variant."""
  numbers = {key: [each.view for each in sets[key]] for key in sets}
  rigid = {k: [n for n in x if n is not None] for k, x in numbers.items()}
  rigid = {key: each for key, each in rigid.items() if each}
  if not rigid:
    return {}
  labels = find_labels(workdir, read_clusters(workdir), set(rigid))
  return {
    key: (
      [clusters[key].images[number] for number in each],
      [labels[key][number].masks[0] for number in each],
      [labels[key][number] for number in each],
    )
    for key, each in rigid.items()
  }


def _next_of_class(key: str, subjects: Mapping[str, str]) -> str:
  """The next set of a class, in the order of keys, around."""
  same = sorted(k for k in subjects if subjects[k] == subjects[key])
  return same[(same.index(key) + 1) % len(same)]


def row(name: str, values: Values, reference: Values | None = None) -> str:
  """One line of the table; differences to a reference are paired."""
  cells = []
  for each in MEASURES:
    if not values[each]:
      cells.append("")
      continue
    cell = str(intervals.mean(list(values[each].values())))
    if reference and (
      both := sorted(values[each].keys() & reference[each].keys())
    ):
      ours, theirs = ([x[each][k] for k in both] for x in (values, reference))
      gap = intervals.difference(ours, theirs)
      cell += f"; {'' if gap.excludes() else '~ '}{gap}"
    cells.append(cell)
  num = max(map(len, values.values()))
  return f"| {name} | {num} | " + " | ".join(cells) + " |"


def draw(
  out: str,
  views: Mapping[str, Views],
  sets: Mapping[str, Mapping[str, list[Candidate]]],
) -> None:
  """Draws the first sets, none chosen: views above, a row for each workdir."""
  columns = []
  for key in sorted(set(views).intersection(*sets.values()))[:COLUMNS]:
    rows = [views[key][0]]
    rows += [[image.image for image in each[key]] for each in sets.values()]
    columns.append(np.concatenate([np.concatenate(r, axis=1) for r in rows]))
  columns = [
    np.pad(c, ((0, 0), (0, GAP), (0, 0)), mode="constant", constant_values=255)
    for c in columns
  ]
  Image.fromarray(np.concatenate(columns, axis=1)[:, :-GAP]).save(
    out, quality=75
  )


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--identity", default="world_identity")
  parser.add_argument("--judge", default="world_judge")
  parser.add_argument("--sheet", help="a picture file to draw sets into")
  parser.add_argument("workdirs", nargs="+", metavar="NAME=WORKDIR")
  args = parser.parse_args()
  judge = load_judge(args.judge)
  embeds: dict[str, Embed] = {
    "identity": load_scorer(identity=args.identity).identity,
    "judge": lambda images: judge(images).identity_ND,
  }
  print(f"| | sets | {' | '.join(MEASURES)} |\n|{'---|' * (len(MEASURES) + 2)}")
  named = [each.partition("=")[::2] for each in args.workdirs]
  if wrong := [name for name, workdir in named if not workdir]:
    parser.error(f"{wrong[0]}: expected NAME=WORKDIR")
  workdirs = {
    name: [pathlib.Path(each) for each in of_seeds.split(",")]
    for name, of_seeds in named
  }
  sets = {name: [read_sets(w) for w in each] for name, each in workdirs.items()}
  shared = set.intersection(*(set(s) for each in sets.values() for s in each))
  sets = {
    name: [{key: s[key] for key in s if key in shared} for s in each]
    for name, each in sets.items()
  }
  if args.sheet:
    first = named[0][0]
    workdir = workdirs[first][0]
    those = {name: each[0] for name, each in sets.items()}
    clusters = find_clusters(read_clusters(workdir), shared)
    draw(args.sheet, views_of(workdir, those[first], clusters), those)
  reference, worth = None, []
  for name, of_seeds in workdirs.items():
    found = [
      measure(workdir, each, embeds)
      for workdir, each in zip(of_seeds, sets[name], strict=True)
    ]
    own, mined, across = map(over_seeds, map(list, zip(*found, strict=True)))
    print(row(name, own, reference))
    if reference is None:
      reference = own
      worth = [("mined pictures of the same views", mined)]
      worth += [(f"images of two sets, {name}", across)]
  for name, values in worth:
    if any(values.values()):
      print(row(name, values))
  for name, each in sets.items():
    images = [image for s in each for of_one in s.values() for image in of_one]
    whole = sum(_mask(image) is None for image in images)
    print(f"{name}: {whole} of {len(images)} images without a mask, seen whole")


if __name__ == "__main__":
  main()
