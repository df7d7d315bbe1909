# SPDX-License-Identifier: Apache-2.0
"""Embeddings -> a row a picture -> tables with intervals. Arrays and numbers.

Every figure is a sum over subjects divided by a sum of weights, so that the
same bootstrap over subjects (`intervals`) serves pairs, pictures and means of
subjects. Copying is the cosine to the nearest demonstration, beside what real
photographs have to theirs, in another pose; diversity is 1 minus the mean
cosine of pictures of one prompt.

Shape suffixes: G generated pictures, R references, D embedding width, S
subjects.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from suti.evaluation import intervals
from suti.evaluation.protocol import METRICS, Protocol
from suti.evaluation.rows import BAND, nearest, nearest_of_real
from suti.evaluation.rows import diversity as diversity_of
from suti.evaluation.scores import mean_over_distinct_pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """The scores of one picture.

  Attributes:
    subject, prompt, number: which.
    category, noun: of the subject.
    template: the prompt with "{}" for the class.
    skill: of the prompt, "" where it is not known.
    path: of its file.
    references: how many it was compared with.
    identity, clip_i: mean cosines to them.
    clip_t: of it and its prompt, as the protocol scales it.
    delta_clip: raw cosine with the prompt, above that of the best reference.
    copying: cosine to the nearest demonstration by the identity encoder.
  """

  subject: str
  prompt: str
  number: int
  category: str
  noun: str
  template: str
  skill: str
  path: str
  references: int
  identity: float
  clip_i: float
  clip_t: float
  delta_clip: float
  copying: float


def scale_text(cosine_G: np.ndarray, protocol: Protocol) -> np.ndarray:
  """Cosines of picture and prompt as a protocol has them."""
  if protocol.text_scale == 1.0:
    return cosine_G
  return protocol.text_scale * np.maximum(cosine_G, 0.0)


def measure(
  *,
  clip_GD: np.ndarray,
  identity_GD: np.ndarray,
  text_GD: np.ndarray,
  real_clip_RD: np.ndarray,
  real_identity_RD: np.ndarray,
  shown_RD: np.ndarray,
  protocol: Protocol,
) -> dict[str, np.ndarray]:
  """The scores of the pictures of one subject.

  Args:
    clip_GD, identity_GD: the generated pictures.
    text_GD: the prompt of each.
    real_clip_RD, real_identity_RD: the references.
    shown_RD: the demonstrations, by the identity encoder.
    protocol: how CLIP-T is scaled.

  Returns: {metric: (G,)}.
  """
  text_G = (clip_GD * text_GD).sum(-1)
  best_G = (text_GD @ real_clip_RD.T).max(-1)
  return {
    "identity": (identity_GD @ real_identity_RD.T).mean(-1),
    "clip_i": (clip_GD @ real_clip_RD.T).mean(-1),
    "clip_t": scale_text(text_G, protocol),
    "delta_clip": text_G - best_G,
    "copying": nearest(identity_GD, shown_RD),
  }


# --- Real photographs --------------------------------------------------------


def measure_real(
  clip_RD: np.ndarray, identity_RD: np.ndarray
) -> dict[str, Any]:
  """The photographs of one subject, against each other.

  Returns: {"identity", "clip_i": means over pairs of different ones, "pairs",
    "nearest": each one's largest cosine to another}; {} for fewer than two.
  """
  count = len(identity_RD)
  if count < 2:
    return {}
  return {
    "pairs": count * (count - 1),
    "identity": mean_over_distinct_pairs(identity_RD),
    "clip_i": mean_over_distinct_pairs(clip_RD),
    "nearest": [float(x) for x in nearest_of_real(identity_RD, count)],
  }


# --- Tables ------------------------------------------------------------------


def mean_of(
  rows: Sequence[Row], metric: str, protocol: Protocol
) -> dict[str, Any] | None:
  """One metric over rows, with its interval; None of no rows."""
  if not rows:
    return None
  sums = sums_of(rows, metric, protocol)
  return _figure(list(sums.values()), len(rows))


def sums_of(
  rows: Iterable[Row], metric: str, protocol: Protocol
) -> dict[str, tuple[float, float]]:
  """{subject: (weighted sum, weight)} of a metric; their ratio is the mean."""
  sums: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
  for row in rows:
    # Of a mean over pairs, a picture has as many as it has references.
    pairs = row.references if metric in ("identity", "clip_i") else 1
    sums[row.subject][0] += pairs * getattr(row, metric)
    sums[row.subject][1] += pairs
  if protocol.average == "subjects":
    return {name: (total / w, 1.0) for name, (total, w) in sums.items()}
  return {name: (total, w) for name, (total, w) in sums.items()}


def _figure(
  sums: Sequence[tuple[float, float]], pictures: int
) -> dict[str, Any]:
  totals_S, weights_S = np.asarray(sums).T
  interval = intervals.bootstrap(_ratio, totals_S, weights_S)
  return {
    "mean": interval.mean,
    "low": interval.low,
    "high": interval.high,
    "subjects": interval.subjects,
    "pictures": pictures,
  }


def _ratio(totals: np.ndarray, weights: np.ndarray) -> np.ndarray:
  return totals.sum(-1) / weights.sum(-1)


def difference(
  ours: Mapping[str, tuple[float, float]],
  theirs: Mapping[str, tuple[float, float]],
) -> intervals.Interval | None:
  """How much higher one system's mean is, on the subjects that both have.

  Args:
    ours, theirs: of `sums_of`.

  Returns: None where no subject is in both.
  """
  both = sorted(ours.keys() & theirs.keys())
  if not both:
    return None
  a = np.asarray([ours[name] for name in both]).T
  b = np.asarray([theirs[name] for name in both]).T
  return intervals.bootstrap(
    lambda p, v, q, w: _ratio(p, v) - _ratio(q, w), *a, *b
  )


def overall(rows: Sequence[Row], protocol: Protocol) -> dict[str, Any]:
  """Every metric over all rows."""
  return {metric: mean_of(rows, metric, protocol) for metric in METRICS}


def grouped(
  rows: Sequence[Row], protocol: Protocol, *, by: Callable[[Row], str]
) -> dict[str, dict[str, Any]]:
  """Every metric by group, groups in order of their names."""
  groups: dict[str, list[Row]] = collections.defaultdict(list)
  for row in rows:
    groups[by(row)].append(row)
  return {
    name: {
      "pictures": len(groups[name]),
      **{
        metric: _plain_mean(groups[name], metric, protocol)
        for metric in METRICS
      },
    }
    for name in sorted(groups)
    if name
  }


def _plain_mean(rows: Sequence[Row], metric: str, protocol: Protocol) -> float:
  totals, weights = np.asarray(list(sums_of(rows, metric, protocol).values())).T
  return float(totals.sum() / weights.sum())


def real_row(
  real: Mapping[str, Mapping[str, Any]], protocol: Protocol
) -> dict[str, Any]:
  """Real photographs against each other, as a system's row.

  Args:
    real: {subject: of `measure_real`}.
    protocol: how subjects are averaged.
  """
  found = [row for row in real.values() if row]
  if not found:
    return {}
  table: dict[str, Any] = {}
  for metric in ("identity", "clip_i"):
    sums = [(row[metric] * row["pairs"], row["pairs"]) for row in found]
    if protocol.average == "subjects":
      sums = [(total / weight, 1.0) for total, weight in sums]
    table[metric] = _figure(sums, sum(len(row["nearest"]) for row in found))
  cosines = np.concatenate([row["nearest"] for row in found])
  low, high = np.percentile(cosines, BAND)
  table["copying"] = {
    "mean": float(cosines.mean()),
    "low": float(low),
    "high": float(high),
    "subjects": len(found),
    "pictures": len(cosines),
  }
  return table


def copied(rows: Sequence[Row], real: Mapping[str, Any]) -> dict[str, Any]:
  """How many pictures are nearer to a demonstration than real ones ever are.

  Args:
    rows: of the system.
    real: of `real_row`.

  Returns: "share" of the pictures above the upper end of the band, "above" the
    cosine there; {} without real pairs.
  """
  if not rows or "copying" not in real:
    return {}
  above = real["copying"]["high"]
  return {
    "above": above,
    # A copy is equal up to rounding, as a real picture may be.
    "share": float(np.mean([row.copying > above + 1e-6 for row in rows])),
  }


def diversity(
  rows: Sequence[Row], identity_GD: np.ndarray
) -> dict[str, Any] | None:
  """1 minus the mean cosine of different pictures of one prompt.

  Args:
    rows: of pictures.
    identity_GD: their embeddings, in the same order.

  Returns: with an interval over subjects; None where no prompt has two.
  """
  subjects: dict[str, list[int]] = collections.defaultdict(list)
  for place, row in enumerate(rows):
    subjects[row.subject].append(place)
  sums, pictures = [], 0
  for places in subjects.values():
    texts = [rows[place].prompt for place in places]
    value = diversity_of(identity_GD[places], texts)
    if value is not None:
      counts = collections.Counter(texts).values()
      prompts = sum(count > 1 for count in counts)
      sums.append((value * prompts, float(prompts)))
      pictures += sum(count for count in counts if count > 1)
  return _figure(sums, pictures) if sums else None
