# SPDX-License-Identifier: Apache-2.0
"""Stage 4: measures the candidates, and decides which are kept.

SuTI (arXiv 2304.00186), eq. 7: a candidate y of prompt p is kept if

  CLIP(y, p) - max over the demonstrations x of CLIP(x, p) > 0.02

so it must match the prompt better than every picture its expert was tuned on.
That is the filter `suti` of `experts/filters`; others are beside it, and
`config.filter.rule` is any combination of the measures of
`suti/evaluation/measures`.

Every measure of every candidate is written, kept or not: to change the rule,
only this stage is run again, and it measures nothing anew.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.clusters import Clusters, find_clusters, read_clusters
from experts.label import find_labels
from experts.label_candidates import read_wave
from experts.sample import open_candidates
from experts.selection import explain_nothing, open_selection, select
from suti.evaluation.cut_outs import cut_out
from suti.evaluation.measure import Evidence, Measure
from suti.evaluation.scores import Scorer, load_scorer
from suti.hf.find import find_model
from suti.hf.linear_head import Head, find_head, load_head
from suti.images import square_around
from suti.io.records import read_lines, write_lines
from suti.runtime.stage import main, progress, stage
from suti.schema import Candidate, Cluster, Label, Score

# G candidates, K demonstrations of one cluster, D embedding width.


def run(config, workdir: Path) -> dict:
  """Writes experts/filter/scores.jsonl."""
  selection, aesthetic = open_selection(config), config.filter.aesthetic
  if aesthetic:
    aesthetic = str(find_head(aesthetic))
  # The folder does not depend on the rule: scores are reused with others.
  current = stage(
    workdir,
    "experts/filter",
    {"clip": config.clip, "identity": config.identity} | _crop(config),
    reads=["experts/mine", "experts/sample", *_labels(config)],
    folders={
      "config.clip": find_model(config.clip),
      "config.identity": find_model(config.identity),
    }
    | ({"config.filter.aesthetic": aesthetic} if aesthetic else {}),
  )
  about = selection.about()
  if current.done is not None and about.items() <= current.done.items():
    return current.done

  waves = open_candidates(workdir)
  # The index of a wave is its number, as no wave is left out.
  parts = [current.folder / f"wave-{i:05d}.jsonl" for i in range(len(waves))]
  left = [
    i for i, part in enumerate(parts) if not _has(part, selection.measures)
  ]
  if left:
    scorer = load_scorer(clip=config.clip, identity=config.identity)
    head = None
    if aesthetic:
      head = load_head(aesthetic, width=scorer.clip_texts([""]).shape[1])
    clusters = read_clusters(workdir)
    total = sum(map(len, waves))
    done = total - sum(len(waves[i]) for i in left)
    with progress(total, "filter", done=done) as bar:
      for i in left:
        candidates = list(waves[i])
        found = find_clusters(clusters, {c.cluster for c in candidates})
        masked = config.label.candidates != "none"
        scores = score_all(
          candidates,
          found,
          scorer=scorer,
          measures=selection.measures,
          labels=read_wave(workdir, i) if masked else {},
          masks=_masks(workdir, clusters, found, config) if masked else {},
          head=head,
          crop=config.filter.crop,
        )
        write_lines(parts[i], scores)
        bar.update(len(candidates))

  # A group lies in one wave, as its cluster does.
  scores = [
    score
    for part in parts
    for score in select(read_lines(part, Score), selection)
  ]
  kept = [score for score in scores if score.kept]
  if not kept:
    raise ValueError(_nothing(scores, selection))
  write_lines(current.folder / "scores.jsonl", scores)
  return current.finish(
    {
      "candidates": len(scores),
      "kept": len(kept),
      "keep_rate": len(kept) / len(scores),
      "clip_t_of_kept": float(np.mean([s.values["clip_t"] for s in kept])),
      "clip_t_of_all": float(np.mean([s.values["clip_t"] for s in scores])),
      **about,
    }
  )


def _crop(config) -> dict[str, Any]:
  """What scores depend on if images are compared by their subjects' squares."""
  if not config.filter.crop:
    return {}
  # Whose masks they are; without labels the teacher's own, if it has any.
  return {
    "filter": {"crop": True},
    "label": {"candidates": config.label.candidates},
  }


def _labels(config) -> list[str]:
  """The stages of labels that are read, if candidates have any."""
  if config.label.candidates == "none":
    return []
  stages = ["experts/label_candidates"]
  return stages + (["experts/label"] if config.label.source != "none" else [])


def _masks(
  workdir: Path, clusters: Clusters, found: Mapping[str, Cluster], config
) -> dict[str, list[np.ndarray | None]]:
  """{cluster: where the subject is in each picture}, as far as it is known."""
  if config.label.source == "none":
    return {}
  return {
    key: [each.masks[0] if each.masks else None for each in labels]
    for key, labels in find_labels(workdir, clusters, found).items()
  }


def _has(part: Path, measures: Mapping[str, Measure]) -> bool:
  """Whether a wave's scores are there, by each of these measures."""
  if not part.exists():
    return False
  scores = read_lines(part, Score)
  return all(measures.keys() <= score.values.keys() for score in scores)


def score_all(
  candidates: Sequence[Candidate],
  clusters: Mapping[str, Cluster],
  *,
  scorer: Scorer,
  measures: Mapping[str, Measure],
  labels: Mapping[str, Label] | None = None,
  masks: Mapping[str, Sequence[np.ndarray | None]] | None = None,
  head: Head | None = None,
  crop: bool = False,
) -> list[Score]:
  """Measures a wave's candidates: all images together, then all texts.

  Args:
    candidates: any number.
    clusters: those of the candidates, by key.
    scorer: the encoders.
    measures: what to measure, by name.
    labels: of the candidates, if they are labelled.
    masks: of the clusters' pictures, as far as they are known.
    head: of aesthetics.
    crop: whether images of a group are compared by squares around their
      subjects, where masks of these are known.

  Returns: a score for each candidate, not marked as kept yet.
  """
  if not candidates:
    return []
  images = [candidate.image for candidate in candidates]
  image_GD, identity_GD = scorer.clip_images(images), scorer.identity(images)
  texts = sorted({candidate.prompt for candidate in candidates})
  text_D = dict(zip(texts, scorer.clip_texts(texts), strict=True))
  shown = [image for cluster in clusters.values() for image in cluster.images]
  shown_clip, shown_identity = scorer.clip_images(shown), scorer.identity(shown)
  rows_of, start = {}, 0
  for key, cluster in clusters.items():
    rows_of[key] = slice(start, start := start + len(cluster.images))
  groups = np.array([c.group or c.key for c in candidates])
  labels, cut = labels or {}, {}
  pair_GD = identity_GD
  if crop:
    pair_GD = scorer.identity(_squares(candidates, labels))
  if any(measure.of == "masks" for measure in measures.values()):
    cut = embed_cut_outs(
      candidates, clusters, scorer=scorer, labels=labels, masks=masks or {}
    )

  scores = []
  for index, candidate in enumerate(candidates):
    rows = rows_of[candidate.cluster]
    others_G = groups == groups[index]
    others_G[index] = False
    evidence = Evidence(
      clip_D=image_GD[index],
      text_D=text_D[candidate.prompt],
      clip_KD=shown_clip[rows],
      identity_D=identity_GD[index],
      identity_KD=shown_identity[rows],
      pair_D=pair_GD[index],
      pair_GD=pair_GD[others_G],
      label=labels.get(candidate.key),
      masked_D=cut[candidate.key][0] if candidate.key in cut else None,
      masked_KD=cut.get(candidate.cluster, identity_GD[:0]),
      head=head,
    )
    scores.append(
      Score(
        candidate=candidate.key,
        cluster=candidate.cluster,
        prompt=candidate.prompt,
        values={n: each.measure(evidence) for n, each in measures.items()},
        kept=False,
        group=candidate.group,
      )
    )
  return scores


def _squares(
  candidates: Sequence[Candidate], labels: Mapping[str, Label]
) -> list[np.ndarray]:
  """Squares around the subjects, whole images where nobody knows them."""
  squares = []
  for candidate in candidates:
    mask, label = candidate.mask, labels.get(candidate.key)
    if label is not None and label.masks:
      mask = label.masks[0]
    image = candidate.image
    squares.append(image if mask is None else square_around(image, mask))
  return squares


def embed_cut_outs(
  candidates: Sequence[Candidate],
  clusters: Mapping[str, Cluster],
  *,
  scorer: Scorer,
  labels: Mapping[str, Label],
  masks: Mapping[str, Sequence[np.ndarray | None]],
) -> dict[str, np.ndarray]:
  """Subjects cut out of their pictures, as the identity encoder sees them.

  Returns: {candidate or cluster: unit embeddings}, a row a picture whose mask
    is known; without those that have none.
  """
  cut: dict[str, list[np.ndarray]] = {}
  for candidate in candidates:
    label = labels.get(candidate.key)
    if label is not None and label.masks:
      cut[candidate.key] = [cut_out(candidate.image, label.masks[0])]
  for key, cluster in clusters.items():
    known = [
      cut_out(image, mask)
      for image, mask in zip(cluster.images, masks.get(key, ()), strict=False)
      if mask is not None and mask.any()
    ]
    if known:
      cut[key] = known
  if not cut:
    return {}
  rows = scorer.identity([image for each in cut.values() for image in each])
  ends = np.cumsum([len(each) for each in cut.values()])
  return dict(zip(cut, np.split(rows, ends[:-1]), strict=True))


def _nothing(scores: Sequence[Score], selection) -> str:
  """The error message of a filter that keeps nothing."""
  if not scores:
    return (
      "experts/sample has no candidates: every expert was quarantined; lower "
      "config.finetune.learning_rate and begin at experts.finetune."
    )
  return explain_nothing(scores, selection)


if __name__ == "__main__":
  main("experts.filter", run)
