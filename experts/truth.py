# SPDX-License-Identifier: Apache-2.0
"""Evaluates the filter against SubjectWorld's ground truth.

The filter scores by CLIP; here an independent judge (`suti.world.judge`)
classifies which of the group's 25 templates a candidate shows, and which style
where its prompt asks for one. If that is the one of its prompt, the candidate
is a match. A good filter keeps candidates that match more often than those it
drops.

Of candidates of templates, `config.judge` also says whether they show their
subject, among 25 look-alikes in the same scene. Against scene, subject and both
each measure of `experts.filter` is then calibrated (`experts.calibration`): the
threshold that keeps as many as the paper's, and how many of those are right.
Evaluation only: no stage reads its output.

  reads   experts/{mine,sample,filter}
  writes  experts/filter/truth.json

  python -m experts.truth --config configs/quickstart.py --workdir runs/q
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.calibration import calibrate, lines
from experts.clusters import find_clusters, read_clusters
from experts.prompts import subject_of
from experts.sample import open_candidates
from experts.selection import read_scores
from suti.evaluation import retrieval
from suti.evaluation.dreambench import fill, templates_of
from suti.evaluation.judge import load_judge
from suti.evaluation.styles import style_in
from suti.io.files import write_json
from suti.runtime.stage import main, progress
from suti.schema import Candidate, Cluster, Score, seed_of
from suti.world.dataset import render_shots
from suti.world.judge import STYLE_NAMES, fit_judge, fit_style_judge
from suti.world.look_alikes import line_up

# G candidates, C look-alikes, V renders of each, D embedding width.

_CAMERAS = 2  # renders of each look-alike in a scene


def run(config, workdir: Path) -> dict:
  """Measures the filter of a workdir.

  Args:
    config: judge, its encoder of subjects.
    workdir: with a finished experts/filter.

  Returns: `match_kept` and `match_dropped`, shares of the candidates whose
    prompt is a template or asks for a style, and how many of each there are;
    `calibration`, where there are candidates of templates.

  Raises:
    ValueError: no candidate's prompt is one of SubjectWorld's templates.
  """
  scores = {score.candidate: score for score in read_scores(workdir)}
  kept = {key: score.kept for key, score in scores.items()}
  candidates = [c for wave in open_candidates(workdir) for c in wave]
  clusters = find_clusters(
    read_clusters(workdir), {c.cluster for c in candidates}
  )
  match = {True: [], False: []}
  of_scenes = []
  for live in (True, False):
    group = [c for c in candidates if clusters[c.cluster].live == live]
    of_scenes += matches(group, clusters, live=live)
  for candidate, _, right in of_scenes:
    match[kept[candidate.key]].append(right)
  truths = {truth for c in clusters.values() for truth in c.truth or ()}
  rendered = any(truth.startswith("world:") for truth in truths)
  if rendered:
    for candidate, right in style_matches(candidates):
      match[kept[candidate.key]].append(right)
  if not match[True] and not match[False]:
    raise ValueError(
      f"{workdir} has no candidate of SubjectWorld's templates: its truth does "
      "not cover these; mine with config.mine.source=world."
    )
  summary: dict[str, Any] = {}
  for name, side in (("kept", True), ("dropped", False)):
    summary[name] = len(match[side])
    if match[side]:
      summary[f"match_{name}"] = float(np.mean(match[side]))
  print("truth: " + ", ".join(f"{k} {v:.3g}" for k, v in summary.items()))
  if rendered and len(of_scenes) > 1:
    summary["calibration"] = _calibrate(config, of_scenes, clusters, scores)
    print("\n".join(lines(summary["calibration"])))
  write_json(workdir / "experts/filter/truth.json", summary)
  return summary


def _calibrate(
  config: Any,
  of_scenes: Sequence[tuple[Candidate, int, bool]],
  clusters: Mapping[str, Cluster],
  scores: Mapping[str, Score],
) -> dict[str, Any]:
  """All measures of the candidates of templates against what is true."""
  candidates = [candidate for candidate, _, _ in of_scenes]
  scene_G = np.array([right for _, _, right in of_scenes])
  asked = [(candidate, template) for candidate, template, _ in of_scenes]
  subject_G = subject_matches(asked, clusters, judge=config.judge)
  values = [scores[candidate.key].values for candidate in candidates]
  return calibrate(
    {name: np.array([v[name] for v in values]) for name in values[0]},
    {
      "scene": scene_G,
      "subject": subject_G,
      "both": scene_G & subject_G,
    },
    [candidate.cluster for candidate in candidates],
  )


def subject_matches(
  asked: Sequence[tuple[Candidate, int]],
  clusters: Mapping[str, Cluster],
  *,
  judge: str,
) -> np.ndarray:
  """Whether candidates show their subject, among look-alikes in the scene.

  Args:
    asked: each with the template of its prompt; where the subject cannot be
      rendered, it is not shown.
    clusters: of the candidates, by key.
    judge: an encoder of subjects, `config.judge`.

  Returns: (G,) bool.
  """
  look = load_judge(judge)
  found = []
  for candidate, template in progress(asked, "look-alikes"):
    cluster = clusters[candidate.cluster]
    truth = cluster.truth[0] if cluster.truth else ""
    if not truth.startswith("world:"):
      found.append(False)
      continue
    shots = line_up(
      int(truth.split(":")[2]),
      template=template,
      seeds=[seed_of("line-up", candidate.prompt, i) for i in range(_CAMERAS)],
    )
    size_px = candidate.image.shape[0]
    seen = look(list(render_shots(shots, size_px=size_px)["image"]))
    others_CVD = seen.identity_ND.reshape(retrieval.LINE_UP, _CAMERAS, -1)
    mine_GD = look([candidate.image]).identity_ND
    found.append(bool(retrieval.found(mine_GD, others_CVD)[0]))
  return np.array(found)


def matches(
  candidates: Sequence[Candidate],
  clusters: dict[str, Cluster],
  *,
  live: bool,
) -> list[tuple[Candidate, int, bool]]:
  """Whether candidates show the template of their prompt.

  Args:
    candidates: of one group.
    clusters: of the candidates, by key.
    live: the group.

  Returns: those whose prompt is one of the group's templates, which it is, and
    whether each matches.
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
    (candidate, template, bool(chosen == template))
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
