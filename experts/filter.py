# SPDX-License-Identifier: Apache-2.0
"""Stage 4: scores the candidates by CLIP, and decides which are kept.

SuTI (arXiv 2304.00186), eq. 7: a candidate y of prompt p is kept if

  CLIP(y, p) - max over the demonstrations x of CLIP(x, p) > 0.02

so it must match the prompt better than every picture its expert was tuned on.
Only the text is compared; the subject's identity is left to the expert. In
addition, `config.filter.identity_threshold` requires a mean identity cosine to
the demonstrations; it is off by default, as in the paper.

The score of every candidate is written, kept or not: to change the thresholds,
only this stage is run again, and it reuses the scores.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experts.clusters import find_clusters, read_clusters
from experts.sample import open_candidates
from suti.evaluation.scores import Scorer, delta_clip, load_scorer
from suti.hf.find import find_model
from suti.io.records import read_lines, write_lines
from suti.runtime.stage import main, progress, stage
from suti.schema import Candidate, Cluster, Score

# G candidates, K demonstrations of one cluster, D embedding width.


def read_scores(workdir: Path) -> list[Score]:
  """Reads the scores, in the order of the candidates."""
  return read_lines(workdir / "experts/filter/scores.jsonl", Score)


def run(config, workdir: Path) -> dict:
  """Writes experts/filter/scores.jsonl."""
  # The folder does not depend on thresholds: scores are reused with others.
  current = stage(
    workdir,
    "experts/filter",
    {"clip": config.clip, "identity": config.identity},
    reads=["experts/mine", "experts/sample"],
    folders={
      "config.clip": find_model(config.clip),
      "config.identity": find_model(config.identity),
    },
  )
  thresholds = config.filter.to_dict()
  if current.done is not None and thresholds.items() <= current.done.items():
    return current.done

  waves = open_candidates(workdir)
  # The index of a wave is its number, as no wave is left out.
  parts = [current.folder / f"wave-{i:05d}.jsonl" for i in range(len(waves))]
  left = [i for i, part in enumerate(parts) if not part.exists()]
  if left:
    scorer = load_scorer(clip=config.clip, identity=config.identity)
    clusters = read_clusters(workdir)
    total = sum(map(len, waves))
    done = total - sum(len(waves[i]) for i in left)
    with progress(total, "filter", done=done) as bar:
      for i in left:
        candidates = list(waves[i])
        found = find_clusters(clusters, {c.cluster for c in candidates})
        write_lines(parts[i], score_all(candidates, found, scorer=scorer))
        bar.update(len(candidates))

  scores = [
    dataclasses.replace(score, kept=passes(score, config.filter))
    for part in parts
    for score in read_lines(part, Score)
  ]
  kept = [score for score in scores if score.kept]
  if not kept:
    raise ValueError(_nothing(scores, config.filter))
  write_lines(current.folder / "scores.jsonl", scores)
  return current.finish(
    {
      "candidates": len(scores),
      "kept": len(kept),
      "keep_rate": len(kept) / len(scores),
      "clip_t_of_kept": float(np.mean([s.clip_t for s in kept])),
      "clip_t_of_all": float(np.mean([s.clip_t for s in scores])),
      **thresholds,
    }
  )


def score_all(
  candidates: Sequence[Candidate],
  clusters: Mapping[str, Cluster],
  *,
  scorer: Scorer,
) -> list[Score]:
  """Scores a wave's candidates: all images together, then all texts.

  Args:
    candidates: any number.
    clusters: those of the candidates, by key.
    scorer: the encoders.

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

  scores = []
  for candidate, image_D, identity_D in zip(
    candidates, image_GD, identity_GD, strict=True
  ):
    rows, prompt_D = rows_of[candidate.cluster], text_D[candidate.prompt]
    clip_t = float(image_D @ prompt_D)
    delta = float(
      delta_clip(
        image_D,
        shown_clip[rows],
        prompt_D,
        np.ones(rows.stop - rows.start, bool),
      )
    )
    scores.append(
      Score(
        candidate=candidate.key,
        cluster=candidate.cluster,
        prompt=candidate.prompt,
        delta_clip=delta,
        clip_t=clip_t,
        best_demonstration=clip_t - delta,
        identity=float((shown_identity[rows] @ identity_D).mean()),
        kept=False,
      )
    )
  return scores


def passes(score: Score, config) -> bool:
  """Whether a score passes the thresholds of the section `filter`."""
  floor = config.identity_threshold
  return score.delta_clip > config.threshold and (
    floor is None or score.identity > floor
  )


def _nothing(scores: Sequence[Score], config) -> str:
  """The error message of a filter that keeps nothing."""
  if not scores:
    return (
      "experts/sample has no candidates: every expert was quarantined; lower "
      "config.finetune.learning_rate and begin at experts.finetune."
    )
  best = max(score.delta_clip for score in scores)
  result = (
    f"filter kept 0 of {len(scores)} candidates: best delta-CLIP {best:.3f}"
  )
  if best <= config.threshold:
    return (
      f"{result} <= config.filter.threshold {config.threshold}: lower it, or "
      "tune the experts longer and guide them more."
    )
  closest = max(
    score.identity for score in scores if score.delta_clip > config.threshold
  )
  return (
    f"{result}, but those above config.filter.threshold {config.threshold} "
    f"have an identity of at most {closest:.3f} <= "
    f"config.filter.identity_threshold {config.identity_threshold}: lower it."
  )


if __name__ == "__main__":
  main("experts.filter", run)
