# SPDX-License-Identifier: Apache-2.0
"""What the judge is worth on true renders of subjects it has never seen.

Retrieval: how often it finds a subject's render among those of 25 look-alikes
in the same scene. Questions: how often it answers right, beside the kernel
regression of `suti.world.judge` on the same pictures. Distances: that of other
renders, slightly blurred and blurred ones, which must rise in this order.

Shape legend: N pictures, S subjects, C look-alikes, V renders of each.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from suti.evaluation import intervals, kernel_distance, questions, retrieval
from suti.evaluation.judge import Judge, Judged
from suti.evaluation.sharpness import sharpness
from suti.runtime.stage import progress
from suti.schema import seed_of
from suti.world.dataset import Shot, class_of, render_shots, subject_seeds
from suti.world.judge import fit_judge
from suti.world.look_alikes import line_up
from suti.world.questions import CHOICES, asked
from suti.world.templates import LIVE, template_of

_NUM_TEMPLATES = 25
_CAMERAS = 2
_BLURS = {"slightly blurred": 0.6, "blurred": 1.2}  # px, a Gaussian's deviation


def examine_judge(
  judge: Judge,
  *,
  split: str,
  num_subjects: int,
  templates_each: int,
) -> dict[str, Any]:
  """All of the above.

  Args:
    judge: to be examined.
    split: of the subjects.
    num_subjects: each is rendered in `templates_each` of its 25 templates.
    templates_each: drawn without repeats.

  Returns: {"retrieval", "questions" and each question, "kernel_regression":
    intervals; "distances", "sharpness": by kind of picture}.
  """
  rng = np.random.default_rng(0)
  subjects = subject_seeds(split, 0, num_subjects)
  templates = [
    rng.permutation(_NUM_TEMPLATES)[:templates_each] for _ in subjects
  ]
  shots = [
    Shot(
      subject=subject, template=int(t), seed=seed_of("exam", subject, int(t))
    )
    for subject, chosen in zip(subjects, templates, strict=True)
    for t in chosen
  ]
  pictures = list(render_shots(shots, size_px=64)["image"])
  seen = judge(pictures)
  truths = [asked(template_of(s), class_of(s.subject)) for s in shots]
  result: dict[str, Any] = {
    name: intervals.mean(values)
    for name, values in questions.shares(seen.answers, truths).items()
  }
  result["retrieval"] = intervals.mean(
    _retrieval(judge, shots, seen, each=templates_each)
  )
  result["kernel_regression"] = intervals.mean(_regression(shots, pictures))
  other = render_shots(
    [
      Shot(subject=s.subject, template=s.template, seed=s.seed + 1)
      for s in shots
    ],
    size_px=64,
  )["image"]
  kinds: dict[str, Sequence[np.ndarray]] = {"real": list(other)}
  for name, width in _BLURS.items():
    kinds[name] = [_blur(image, width) for image in other]
  result["sharpness"] = {
    name: float(sharpness(images).mean()) for name, images in kinds.items()
  }
  result["distances"] = {
    name: _distance(judge(list(images)), seen, each=templates_each)
    for name, images in kinds.items()
  }
  return result


def as_json(result: dict[str, Any]) -> dict[str, Any]:
  """An examination with its intervals as objects."""
  return {
    name: as_json(value)
    if isinstance(value, dict)
    else dataclasses.asdict(value)
    if isinstance(value, intervals.Interval)
    else value
    for name, value in result.items()
  }


def lines(result: dict[str, Any]) -> dict[str, str]:
  """An examination in words, name -> figure with its interval."""
  rows = {
    "retrieval among 25 look-alikes (chance 0.04)": str(result["retrieval"]),
    "template by kernel regression": str(result["kernel_regression"]),
  }
  for name in ("questions", *CHOICES):
    if name in result:
      rows[f"answers right: {name}"] = str(result[name])
  for kind, value in result["distances"].items():
    rows[f"distance (KID) of {kind} renders"] = str(value)
  return rows


def _retrieval(
  judge: Judge, shots: Sequence[Shot], seen: Judged, *, each: int
) -> np.ndarray:
  """Each subject's share of renders found among look-alikes, (S,)."""
  hits = []
  for start in progress(range(0, len(shots), each), "line-ups"):
    rows = shots[start : start + each]
    line_ups = [
      shot
      for row in rows
      for shot in line_up(
        row.subject,
        template=row.template,
        seeds=[seed_of("line-up", row.template, v) for v in range(_CAMERAS)],
      )
    ]
    embedded = judge(list(render_shots(line_ups, size_px=64)["image"]))
    by_row = embedded.identity_ND.reshape(
      len(rows), retrieval.LINE_UP, _CAMERAS, -1
    )
    hits.append(
      [
        retrieval.found(seen.identity_ND[start + i : start + i + 1], by_row[i])[
          0
        ]
        for i in range(len(rows))
      ]
    )
  return np.array(hits, np.float64).mean(-1)


def _regression(
  shots: Sequence[Shot], pictures: Sequence[np.ndarray]
) -> np.ndarray:
  """Whether the kernel regression finds each picture's template, (N,)."""
  right = np.zeros(len(shots))
  for live in (True, False):
    rows = [
      i
      for i, shot in enumerate(shots)
      if (class_of(shot.subject) in LIVE) == live
    ]
    if rows:
      chosen = fit_judge(live=live).choose([pictures[i] for i in rows])
      right[rows] = chosen == np.array([shots[i].template for i in rows])
  return right


def _distance(ours: Judged, real: Judged, *, each: int) -> intervals.Interval:
  def by_subject(judged: Judged) -> list[np.ndarray]:
    return np.split(judged.features_NF, len(judged) // each)

  return kernel_distance.distance(
    kernel_distance.pair_terms(by_subject(ours), by_subject(real))
  )


def _blur(image_u8: np.ndarray, width: float) -> np.ndarray:
  """A Gaussian blur of some pixels' width, cut at the edge."""
  at = np.arange(len(image_u8))
  weights = np.exp(-np.square(at[:, None] - at) / (2 * width**2))
  weights /= weights.sum(1, keepdims=True)
  mixed = np.einsum("yh,hwc,xw->yxc", weights, image_u8.astype(float), weights)
  return np.round(mixed).astype(np.uint8)
