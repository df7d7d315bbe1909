# SPDX-License-Identifier: Apache-2.0
"""Evaluates the filter against SubjectWorld's ground truth.

The filter scores by CLIP; here an independent judge (`suti.world.judge`)
classifies which of the group's 25 templates a candidate shows, and which style
where its prompt asks for one. If that is the one of its prompt, the candidate
is a match. A good filter keeps candidates that match more often than those it
drops. Evaluation only: no stage reads its
output.

  reads   experts/{mine,sample,filter}
  writes  experts/filter/truth.json

  python -m experts.truth --config configs/quickstart.py --workdir runs/q
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experts.clusters import find_clusters, read_clusters
from experts.prompts import subject_of
from experts.sample import open_candidates
from experts.selection import read_scores
from suti.evaluation.dreambench import fill, templates_of
from suti.evaluation.styles import style_in
from suti.io.files import write_json
from suti.runtime.stage import main
from suti.schema import Candidate, Cluster
from suti.world.judge import STYLE_NAMES, fit_judge, fit_style_judge

# G candidates.


def run(config, workdir: Path) -> dict:
  """Measures the filter of a workdir.

  Args:
    config: not used; the workdir has everything.
    workdir: with a finished experts/filter.

  Returns: `match_kept` and `match_dropped`, shares of the candidates whose
    prompt is a template or asks for a style, and how many of each there are.

  Raises:
    ValueError: no candidate's prompt is one of SubjectWorld's templates.
  """
  del config
  kept = {score.candidate: score.kept for score in read_scores(workdir)}
  candidates = [c for wave in open_candidates(workdir) for c in wave]
  clusters = find_clusters(
    read_clusters(workdir), {c.cluster for c in candidates}
  )
  match = {True: [], False: []}
  for live in (True, False):
    group = [c for c in candidates if clusters[c.cluster].live == live]
    for candidate, right in matches(group, clusters, live=live):
      match[kept[candidate.key]].append(right)
  truths = {truth for c in clusters.values() for truth in c.truth or ()}
  if any(truth.startswith("world:") for truth in truths):
    for candidate, right in style_matches(candidates):
      match[kept[candidate.key]].append(right)
  if not match[True] and not match[False]:
    raise ValueError(
      f"{workdir} has no candidate of SubjectWorld's templates: its truth does "
      "not cover these; mine with config.mine.source=world."
    )
  summary: dict[str, float] = {}
  for name, side in (("kept", True), ("dropped", False)):
    summary[name] = len(match[side])
    if match[side]:
      summary[f"match_{name}"] = float(np.mean(match[side]))
  write_json(workdir / "experts/filter/truth.json", summary)
  print("truth: " + ", ".join(f"{k} {v:.3g}" for k, v in summary.items()))
  return summary


def matches(
  candidates: Sequence[Candidate],
  clusters: dict[str, Cluster],
  *,
  live: bool,
) -> list[tuple[Candidate, bool]]:
  """Whether candidates show the template of their prompt.

  Args:
    candidates: of one group.
    clusters: of the candidates, by key.
    live: the group.

  Returns: those whose prompt is one of the group's templates, and whether each
    matches.
  """
  templates = templates_of(live=live)
  templated = []
  for candidate in candidates:
    cluster = clusters[candidate.cluster]
    texts = {
      fill(t.text, subject_of(cluster, t, captions=captions)): row
      for captions in ("noun", "descriptive")
      for row, t in enumerate(templates)
    }
    if candidate.prompt in texts:
      templated.append((candidate, texts[candidate.prompt]))
  if not templated:
    return []
  chosen_G = fit_judge(live=live).choose([c.image for c, _ in templated])
  return [
    (candidate, bool(chosen == template))
    for (candidate, template), chosen in zip(templated, chosen_G, strict=True)
  ]


def style_matches(
  candidates: Sequence[Candidate],
) -> list[tuple[Candidate, bool]]:
  """Whether candidates are in the style of their prompt, of those with one.

  Scenes are not judged here: `fit_judge` has seen none that is painted.
  """
  styled = [c for c in candidates if style_in(c.prompt)]
  if not styled:
    return []
  chosen_G = fit_style_judge().choose([c.image for c in styled])
  return [
    (candidate, STYLE_NAMES[chosen] == style_in(candidate.prompt))
    for candidate, chosen in zip(styled, chosen_G, strict=True)
  ]


if __name__ == "__main__":
  main("experts.truth", run)
