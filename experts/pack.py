# SPDX-License-Identifier: Apache-2.0
"""Stage 5: packs the kept candidates into the apprentice's training set.

SuTI (arXiv 2304.00186), section 3.4: an example is a kept image, its prompt,
and the cluster's pictures with their texts as demonstrations. All of them are
packed; the apprentice chooses some for each batch.

Examples are shuffled once, here, by a hash of the seed and their key: a reader
that goes through the shards in order sees clusters mixed. The folder is a
dataset of TensorFlow Datasets, read without TensorFlow.
"""

import collections
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.clusters import Clusters, find_clusters, read_clusters
from experts.label import read_labels
from experts.label_candidates import STAGE, read_all
from experts.prompts import undescribed
from experts.sample import open_candidates
from experts.selection import open_selection, read_scores, select
from suti.io.files import remove_folder
from suti.io.records import write_examples
from suti.runtime.stage import main, progress, stage
from suti.schema import Candidate, Cluster, Example, Label, Score, content_key


def run(config, workdir: Path) -> dict:
  """Writes the dataset into experts/pack."""
  current = stage(
    workdir,
    "experts/pack",
    {
      "seed": config.seed,
      "filter": config.filter,
      "pack": config.pack,
      "label": config.label,
    },
    reads=[
      "experts/mine",
      "experts/sample",
      "experts/filter",
      *(["experts/label"] if config.label.source != "none" else []),
      *([STAGE] if config.label.candidates != "none" else []),
    ],
  )
  if current.done is not None:
    return current.done
  # By the rule of now, which may be another than that of experts.filter.
  scores = select(read_scores(workdir), open_selection(config))
  candidates = [
    (file, index)
    for file in open_candidates(workdir)
    for index in range(len(file))
  ]
  kept = [
    (score, *where)
    for score, where in zip(scores, candidates, strict=True)
    if score.kept
  ]
  kept.sort(key=lambda row: content_key(config.seed, row[0].candidate))
  examples = make_examples(
    kept,
    read_clusters(workdir),
    origin=config.finetune.teacher,
    labels=read_labels(workdir, config),
    targets=read_all(workdir, config),
    of_group=config.pack.demonstrations == "group",
    nouns=config.pack.prompts == "noun",
  )
  part = current.folder / "part"
  count = write_examples(
    part,
    progress(examples, "pack", total=len(kept)),
    shard_size=config.pack.shard_size,
  )
  # Moved from the folder that was written atomically into the stage's own, next
  # to stage.json; done.json, written last, marks it as complete.
  for file in sorted(part.iterdir()):
    file.replace(current.folder / file.name)
  remove_folder(part)
  return current.finish(
    {"examples": count, "clusters": len({row[0].cluster for row in kept})}
  )


def make_examples(
  kept: Sequence[tuple[Score, Sequence[Candidate], int]],
  clusters: Clusters,
  *,
  origin: str,
  labels: Mapping[str, Sequence[Label]] | None = None,
  targets: Mapping[str, Label] | None = None,
  of_group: bool = False,
  nouns: bool = False,
) -> Iterator[Example]:
  """Joins candidates and demonstrations, one at a time.

  Args:
    kept: (score, file of candidates, index in it), in the order to pack.
    clusters: from `experts.mine`.
    origin: name of the teacher.
    labels: of the clusters' pictures, if there are any.
    targets: of the candidates, if they are labelled.
    of_group: demonstrations are the other kept images of a candidate's group,
      and not the cluster's pictures.
    nouns: whether prompts name subjects by their nouns, without descriptions.

  Yields: examples.
  """

  @functools.lru_cache(maxsize=256)
  def cluster_of(key: str) -> Cluster:
    return find_clusters(clusters, [key])[key]

  def text_of(candidate: Candidate) -> str:
    text, key = candidate.prompt, candidate.cluster
    return undescribed(text, cluster_of(key)) if nouns else text

  groups = collections.defaultdict(list)
  for score, file, index in kept:
    groups[score.group or score.candidate].append((file, index))

  def shown_of(candidate: Candidate) -> dict[str, Any]:
    if not of_group:
      cluster = cluster_of(candidate.cluster)
      return {
        "demonstrations": cluster.images,
        "captions": cluster.captions,
        "demonstration_masks": _masks(cluster, (labels or {})),
      }
    # In the order of the group, whatever order they are packed in.
    others = sorted(
      (
        other
        for file, index in groups[candidate.group or candidate.key]
        if (other := file[index]).key != candidate.key
      ),
      key=lambda other: other.number,
    )
    masks = [
      mask
      for other in others
      if (mask := _known(other, (targets or {}).get(other.key))["mask"])
      is not None
    ]
    return {
      "demonstrations": tuple(other.image for other in others),
      "captions": tuple(text_of(other) for other in others),
      "demonstration_masks": tuple(masks) if len(masks) == len(others) else (),
    }

  for score, file, index in kept:
    candidate = file[index]
    assert candidate.key == score.candidate, (candidate.key, score.candidate)
    yield Example(
      key=candidate.key,
      cluster=candidate.cluster,
      prompt=text_of(candidate),
      image=candidate.image,
      values=score.values,
      group=candidate.group,
      origin=origin,
      **_known(candidate, (targets or {}).get(candidate.key)),
      **shown_of(candidate),
    )


def _known(candidate: Candidate, label: Label | None) -> dict[str, Any]:
  """What is known of where things are in a candidate, as an example has it."""
  if label is None:
    return {"mask": candidate.mask}
  return {
    "mask": label.masks[0] if label.masks else candidate.mask,
    "depth": label.depth,
    "camera": label.camera,
    "names": label.names,
    "boxes_xyxy": label.boxes_xyxy,
    "masks": label.masks,
  }


def _masks(
  cluster: Cluster, labels: Mapping[str, Sequence[Label]]
) -> tuple[np.ndarray, ...]:
  """Where the subject is in each picture; all of one of which nobody knows."""
  if cluster.key not in labels:
    return ()
  return tuple(
    each.masks[0] if each.masks else np.ones(image.shape[:2], bool)
    for each, image in zip(labels[cluster.key], cluster.images, strict=True)
  )


if __name__ == "__main__":
  main("experts.pack", run)
