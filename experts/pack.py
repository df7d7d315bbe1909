# SPDX-License-Identifier: Apache-2.0
"""Stage 5: packs the kept candidates into the apprentice's training set.

SuTI (arXiv 2304.00186), section 3.4: an example is a kept image, its prompt,
and the cluster's pictures with their texts as demonstrations. All of them are
packed; the apprentice chooses some for each batch.

Examples are shuffled once, here, by a hash of the seed and their key: a reader
that goes through the shards in order sees clusters mixed. The folder is a
dataset of TensorFlow Datasets, read without TensorFlow.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from experts.clusters import Clusters, find_clusters, read_clusters
from experts.sample import open_candidates
from experts.selection import open_selection, read_scores, select
from suti.io.files import remove_folder
from suti.io.records import write_examples
from suti.runtime.stage import main, progress, stage
from suti.schema import Candidate, Cluster, Example, Score, content_key


def run(config, workdir: Path) -> dict:
  """Writes the dataset into experts/pack."""
  current = stage(
    workdir,
    "experts/pack",
    {"seed": config.seed, "filter": config.filter, "pack": config.pack},
    reads=["experts/mine", "experts/sample", "experts/filter"],
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
    kept, read_clusters(workdir), origin=config.finetune.teacher
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
) -> Iterator[Example]:
  """Joins candidates and demonstrations, one at a time.

  Args:
    kept: (score, file of candidates, index in it), in the order to pack.
    clusters: from `experts.mine`.
    origin: name of the teacher.

  Yields: examples.
  """

  @functools.lru_cache(maxsize=256)
  def cluster_of(key: str) -> Cluster:
    return find_clusters(clusters, [key])[key]

  for score, file, index in kept:
    candidate = file[index]
    assert candidate.key == score.candidate, (candidate.key, score.candidate)
    cluster = cluster_of(candidate.cluster)
    yield Example(
      key=candidate.key,
      cluster=candidate.cluster,
      prompt=candidate.prompt,
      image=candidate.image,
      demonstrations=cluster.images,
      captions=cluster.captions,
      values=score.values,
      mask=candidate.mask,
      group=candidate.group,
      origin=origin,
    )


if __name__ == "__main__":
  main("experts.pack", run)
