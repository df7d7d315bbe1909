# SPDX-License-Identifier: Apache-2.0
"""How well scores rank pictures as the truth does.

Somers' D (1962) of scores given the truth: of the pairs of pictures whose truth
differs, the share that scores put in the true order, less the share that they
put the other way. 1 is the true order, 0 is chance; pictures of one truth may
have any scores. Pictures are compared within a group of one subject and prompt
alone, so that what makes a subject easy for an encoder is not taken for
agreement.
"""

import collections
from collections.abc import Sequence

import numpy as np

Values = Sequence[float] | np.ndarray


def agreement_of(scores_N: Values, truths_N: Values) -> float | None:
  """Somers' D of scores given the truth.

  By all pairs: groups are of a few dozen pictures, and scipy takes a second to
  import.

  Args:
    scores_N, truths_N: of the same pictures.

  Returns: in [-1, 1]; None where the truth is the same for all.
  """
  scores, truths = (np.asarray(x, np.float64) for x in (scores_N, truths_N))
  upper = np.triu_indices(len(scores), 1)
  a, b = (np.sign(x[:, None] - x[None])[upper] for x in (scores, truths))
  different = np.count_nonzero(b)
  return float((a * b).sum() / different) if different else None


def mean_agreement(
  scores_N: Values, truths_N: Values, groups_N: Sequence
) -> float | None:
  """The mean of `agreement_of` over groups.

  Args:
    scores_N, truths_N: of the same pictures.
    groups_N: what each belongs to; hashable.

  Returns: None where no group has two different truths.
  """
  places = collections.defaultdict(list)
  for place, group in enumerate(groups_N):
    places[group].append(place)
  scores, truths = np.asarray(scores_N), np.asarray(truths_N)
  found = [agreement_of(scores[rows], truths[rows]) for rows in places.values()]
  values = [value for value in found if value is not None]
  return float(np.mean(values)) if values else None
