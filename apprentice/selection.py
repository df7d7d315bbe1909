# SPDX-License-Identifier: Apache-2.0
"""Which of the packed examples the apprentice learns from.

Examples keep the measures of their images, so that a stricter filter, fewer
experts or other classes need neither new images nor new shards:
`config.train.rule`, `config.train.num_clusters`, `config.train.without_nouns`.
Some clusters are held out, to measure by (`config.train.validation_clusters`).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from suti.config.rules import parse_rule
from suti.io.records import Examples, Summary


class Selected(Sequence):
  """Some rows of a dataset, read when they are asked for."""

  def __init__(self, source: Any, rows: Sequence[int]):
    self._source, self._rows = source, rows

  def summaries(self) -> Iterator[Summary]:
    """As `Examples.summaries`."""
    summaries = list(self._source.summaries())
    return (summaries[row] for row in self._rows)

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self._source[row] for row in self._rows[index]]
    return self._source[self._rows[index]]


def select(
  sources: Sequence[Examples],
  *,
  rule: str | None,
  num_clusters: int | None,
  without_nouns: Sequence[str] = (),
) -> list[Examples | Selected]:
  """Leaves out examples by a rule or their nouns, and clusters above a number.

  Args:
    sources: datasets of `experts.pack`.
    rule: see `suti.config.rules`; None or "" keeps all.
    num_clusters: keeps the first N of all clusters, in the order of their keys,
      which are hashes: a number takes what a smaller one takes, and more. None
      keeps all.
    without_nouns: leaves out examples whose prompts have one of these, as whole
      words in any case.

  Returns: the datasets, those without any example left out.

  Raises:
    ValueError: a mistake in the rule, a measure that an example does not have,
      or no example left.
  """
  if not rule and num_clusters is None and not without_nouns:
    return list(sources)
  named = re.compile(
    r"\b(?:" + "|".join(map(re.escape, without_nouns)) + r")\b", re.I
  )
  conditions = parse_rule(rule or "", field="config.train.rule")
  tables = [list(source.summaries()) for source in sources]
  clusters = sorted({s.cluster for table in tables for s in table})
  taken = set(clusters[:num_clusters])
  selected, num, left_of = [], sum(map(len, tables)), set()
  for source, table in zip(sources, tables, strict=True):
    rows = []
    for row, summary in enumerate(table):
      for condition in conditions:
        if condition.name not in summary.values:
          raise ValueError(
            f"config.train.rule={rule!r}: example {row} of {source.folder} has "
            f"no measure '{condition.name}'. It has "
            f"{', '.join(sorted(summary.values)) or 'none'}."
          )
      if without_nouns and named.search(summary.prompt):
        continue
      if summary.cluster in taken and all(
        condition.holds(summary.values) for condition in conditions
      ):
        rows.append(row)
        left_of.add(summary.cluster)
    if rows:
      selected.append(Selected(source, rows))
  left = sum(map(len, selected))
  if not left:
    raise ValueError(
      f"config.train.rule={rule!r}, config.train.num_clusters={num_clusters} "
      f"and config.train.without_nouns={tuple(without_nouns)} leave none of "
      f"{num} examples: loosen them."
    )
  print(
    f"{left} of {num} examples, of {len(left_of)} of {len(clusters)} clusters, "
    "are learned from."
  )
  return selected


def hold_out(
  sources: Sequence[Examples | Selected], *, num_clusters: int
) -> tuple[list[Examples | Selected], list[Selected]]:
  """Takes clusters away from training, to measure on them what it is worth.

  Args:
    sources: datasets, of `select`.
    num_clusters: how many; the last of those that `select` left, in the order
      of their keys. Losses of runs that select other examples are therefore
      not comparable. At most a third, and a line says so: few clusters are
      better spent on training.

  Returns: the datasets without these clusters, and these.
  """
  if not num_clusters:
    return list(sources), []
  tables = [[s.cluster for s in source.summaries()] for source in sources]
  clusters = sorted({cluster for table in tables for cluster in table})
  if num_clusters > (most := len(clusters) // 3):
    print(
      f"config.train.validation_clusters={num_clusters} is more than a "
      f"third of {len(clusters)} clusters: {most} "
      f"{'is' if most == 1 else 'are'} held out."
    )
    num_clusters = most
  if not num_clusters:
    return list(sources), []
  held = set(clusters[-num_clusters:])

  def part(*, is_held: bool) -> list[Selected]:
    parts = [
      Selected(
        source,
        [r for r, each in enumerate(table) if (each in held) == is_held],
      )
      for source, table in zip(sources, tables, strict=True)
    ]
    return [each for each in parts if len(each)]

  learned, measured = part(is_held=False), part(is_held=True)
  print(
    f"{sum(map(len, measured))} of {sum(map(len, tables))} examples, of "
    f"{num_clusters} of {len(clusters)} clusters, are held out: the loss is "
    "measured on them, and nothing is learned from them."
  )
  return [*learned], measured
