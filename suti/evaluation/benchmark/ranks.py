# SPDX-License-Identifier: Apache-2.0
"""How well scores rank pictures as the truth does.

Kendall's tau-b (1945), which counts ties: pictures are compared within a group
of one subject and prompt alone, so that what makes a subject easy for an
encoder is not taken for agreement. 1 is the true order, 0 is chance.
"""

import collections
from collections.abc import Sequence

import numpy as np


def tau(scores_N: Sequence[float], truths_N: Sequence[float]) -> float | None:
  """Kendall's tau-b of two rankings.

  By all pairs: groups are of a few dozen pictures, and scipy takes a second to
  import.

  Args:
    scores_N, truths_N: of the same pictures.

  Returns: in [-1, 1]; None where either is the same for all.
  """
  a_N, b_N = (np.asarray(x, np.float64) for x in (scores_N, truths_N))
  upper = np.triu_indices(len(a_N), 1)
  a, b = (np.sign(x[:, None] - x[None])[upper] for x in (a_N, b_N))
  untied = float(np.count_nonzero(a)) * float(np.count_nonzero(b))
  return float((a * b).sum() / np.sqrt(untied)) if untied else None


def mean_tau(
  scores_N: Sequence[float],
  truths_N: Sequence[float],
  groups_N: Sequence,
) -> float | None:
  """The mean of tau over groups.

  Args:
    scores_N, truths_N: of the same pictures.
    groups_N: what each belongs to; hashable.

  Returns: None where no group has two different truths and scores.
  """
  places = collections.defaultdict(list)
  for place, group in enumerate(groups_N):
    places[group].append(place)
  scores_N, truths_N = np.asarray(scores_N), np.asarray(truths_N)
  found = [tau(scores_N[rows], truths_N[rows]) for rows in places.values()]
  taus = [value for value in found if value is not None]
  return float(np.mean(taus)) if taus else None
