# SPDX-License-Identifier: Apache-2.0
"""KID, the kernel distance of pictures to real ones, with its interval.

Binkowski et al. (arXiv 1801.01401), section 4: the unbiased estimate of the
squared maximum mean discrepancy of two sets of features under the kernel
(x.y / F + 1)^3. It is 0 on average where the sets are alike and may fall below.

Pictures of one subject are not independent draws; subjects are. So the estimate
takes pairs of pictures of two different subjects alone (Gretton et al., 2012,
Lemma 6, with a subject for a draw), and the interval resamples subjects.

Shape suffixes: S subjects, n pictures of one, F features.
"""

from collections.abc import Sequence

import numpy as np

from suti.evaluation.intervals import Interval, bootstrap


def kernel(x_nF: np.ndarray, y_mF: np.ndarray) -> np.ndarray:
  """The cubic polynomial kernel of all pairs, (n, m)."""
  return (x_nF @ y_mF.T / x_nF.shape[-1] + 1.0) ** 3


def pair_terms(
  generated: Sequence[np.ndarray], real: Sequence[np.ndarray]
) -> np.ndarray:
  """What each pair of subjects adds to the distance, (S, S) float64.

  Args:
    generated, real: features (n, F) of the pictures of each subject, the same
      subjects in the same order; their numbers of pictures may differ.

  Returns: for subjects s and t, the mean kernel of generated pictures, plus
    that of real ones, less those of a generated and a real one; symmetric.
  """
  size = len(generated)
  assert size == len(real), (size, len(real))
  generated = [np.asarray(x, np.float64) for x in generated]
  real = [np.asarray(x, np.float64) for x in real]
  terms_SS = np.zeros((size, size))
  for s in range(size):
    for t in range(s + 1, size):
      terms_SS[s, t] = terms_SS[t, s] = (
        kernel(generated[s], generated[t]).mean()
        + kernel(real[s], real[t]).mean()
        - kernel(generated[s], real[t]).mean()
        - kernel(generated[t], real[s]).mean()
      )
  return terms_SS


def distance(terms_SS: np.ndarray, *, seed: int = 0) -> Interval:
  """The distance and its interval over subjects.

  A subject that is drawn twice is not paired with itself, in which it is alike.

  Args:
    terms_SS: of `pair_terms`; the difference of two such matrices gives the
      paired difference of two systems' distances.
    seed: of the resamples.

  Raises:
    ValueError: fewer than two subjects.
  """
  size = len(terms_SS)
  if size < 2:
    raise ValueError(
      f"a kernel distance of {size} subjects: it compares pictures of different"
      " subjects, 2 or more."
    )
  off_SS = np.where(np.eye(size, dtype=bool), 0.0, terms_SS)

  def statistic(drawn: np.ndarray) -> np.ndarray:
    rows = np.atleast_2d(drawn).astype(int)
    where = rows + size * np.arange(len(rows))[:, None]
    count_RS = np.bincount(where.ravel(), minlength=rows.size)
    count_RS = count_RS.reshape(len(rows), size).astype(np.float64)
    pairs_R = size**2 - np.square(count_RS).sum(-1)
    total_R = ((count_RS @ off_SS) * count_RS).sum(-1)
    # All draws of one subject: as often as not with two subjects.
    value_R = np.divide(
      total_R, pairs_R, out=np.zeros_like(total_R), where=pairs_R > 0
    )
    return value_R.reshape(drawn.shape[:-1])

  return bootstrap(statistic, np.arange(size), seed=seed)
