# SPDX-License-Identifier: Apache-2.0
"""95% intervals by the bootstrap over subjects (Efron, 1979), paired.

Pictures of one subject resemble each other, so that subjects, not pictures, are
what a benchmark draws at random: each resample draws whole subjects. Two
systems are compared on the same subjects: a resample draws a subject's pair, so
that what makes a subject hard for both cancels out. Intervals are percentiles
of the resamples; with fewer than about 20 subjects they are too narrow, as any
bootstrap's.

Own code, as scipy.stats.bootstrap draws other resamples for each score and is
NaN by default where all values are equal, as hit rates of 1.0 are; the tests
compare the two.

Shape suffixes: S subjects, R resamples.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_BLOCK = 1_000_000  # numbers drawn at once, so that memory stays small


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
  """A figure and where it lies if other subjects had been drawn.

  Attributes:
    mean: the figure on the subjects at hand.
    low, high: the interval, None for fewer than two subjects and where the
      figure is not finite in a resample.
    subjects: how many there were.
  """

  mean: float
  low: float | None
  high: float | None
  subjects: int

  def excludes(self, value: float = 0.0) -> bool:
    """Whether the whole interval lies on one side of a value."""
    if self.low is None or self.high is None:
      return False
    return self.low > value or self.high < value

  def __str__(self) -> str:
    if self.low is None or self.high is None:
      return f"{self.mean:.3f}"
    return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean(values_S: Sequence[float] | np.ndarray, *, seed: int = 0) -> Interval:
  """The mean over subjects.

  Args:
    values_S: one value a subject, finite.
    seed: of the resamples; the same subjects are drawn for the same seed and
      number of subjects, whatever the values are.

  Raises:
    ValueError: no value, or one that is not finite.
  """
  return bootstrap(lambda x: x.mean(-1), values_S, seed=seed)


def difference(
  ours_S: Sequence[float] | np.ndarray,
  theirs_S: Sequence[float] | np.ndarray,
  *,
  seed: int = 0,
) -> Interval:
  """By how much one system's mean exceeds another's, subject by subject.

  Args:
    ours_S, theirs_S: values of the same subjects in the same order.
    seed: of the resamples.

  Raises:
    ValueError: different numbers of subjects, none, or a value not finite.
  """
  return bootstrap(
    lambda a, b: (a - b).mean(-1),
    ours_S,
    theirs_S,
    seed=seed,
  )


def ratio(
  ours_S: Sequence[float] | np.ndarray,
  theirs_S: Sequence[float] | np.ndarray,
  *,
  seed: int = 0,
) -> Interval:
  """One system's mean over another's, such as a ceiling's.

  A mean of 0 below gives an infinite figure, or NaN for 0 / 0; where resamples
  may have one, there is no interval.

  Args:
    ours_S, theirs_S: values of the same subjects in the same order.
    seed: of the resamples.

  Raises:
    ValueError: different numbers of subjects, none, or a value not finite.
  """

  def divide(a, b):
    with np.errstate(divide="ignore", invalid="ignore"):
      return a.mean(-1) / b.mean(-1)

  return bootstrap(divide, ours_S, theirs_S, seed=seed)


def bootstrap(
  statistic: Callable[..., np.ndarray],
  *values_S: Sequence[float] | np.ndarray,
  seed: int = 0,
) -> Interval:
  """A statistic of one or more values a subject, and its interval.

  Args:
    statistic: arrays (..., S), one of each of `values_S` -> (...).
    *values_S: values of the same subjects in the same order, finite.
    seed: of the resamples.

  Raises:
    ValueError: different numbers of subjects, none, or a value not finite.
  """
  columns = [np.asarray(values, np.float64) for values in values_S]
  sizes = [len(column) for column in columns]
  size = sizes[0]
  if len(set(sizes)) > 1:
    raise ValueError(
      f"intervals of {' and '.join(map(str, sizes))} subjects: expected values "
      "of the same subjects, in the same order."
    )
  if not size:
    raise ValueError("an interval of 0 subjects: expected 1 or more.")
  if not all(np.isfinite(column).all() for column in columns):
    raise ValueError(
      "an interval of values that are not all finite: leave out the subjects "
      "that have none."
    )
  figure = float(statistic(*columns))
  if size < 2:
    return Interval(mean=figure, low=None, high=None, subjects=size)
  rng = np.random.default_rng(seed)
  step = max(_BLOCK // size, 1)
  drawn_R = np.concatenate(
    [
      statistic(*(column[rows_RS] for column in columns))
      for rows_RS in (
        rng.integers(0, size, (min(step, RESAMPLES - start), size))
        for start in range(0, RESAMPLES, step)
      )
    ]
  )
  if not np.isfinite(drawn_R).all():
    return Interval(mean=figure, low=None, high=None, subjects=size)
  tail = 100 * (1 - LEVEL) / 2
  low, high = np.percentile(drawn_R, [tail, 100 - tail])
  return Interval(mean=figure, low=float(low), high=float(high), subjects=size)
