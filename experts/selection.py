# SPDX-License-Identifier: Apache-2.0
"""Which candidates are kept: the `Filter` record, and rules on measures.

A file of `experts/filters` defines `FILTER`; `config.filter.name` names it, and
`config.filter.rule` replaces its rule by another, any combination of measures
(`suti/evaluation/measures`). Scores are made by `experts.filter`.
"""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experts import filters
from suti.config.names import find_record
from suti.config.rules import Condition, check_names, parse_rule
from suti.evaluation.measure import Measure, all_measures
from suti.io.records import read_lines
from suti.schema import Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filter:
  """A published filter.

  Attributes:
    paper: link; becomes a row of docs/stages.md.
    rule: its conditions, see `suti.config.rules`.
    min_group: images of a group that must be kept, or none is.
  """

  paper: str
  rule: str
  min_group: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
  """What a config keeps.

  Attributes:
    name: of the filter.
    text: the rule as it stands in the config, or in the filter.
    rule: the same, read.
    min_group: of the filter.
    measures: all that the candidates can have, by name.
  """

  name: str
  text: str
  rule: tuple[Condition, ...]
  min_group: int
  measures: dict[str, Measure]

  def about(self) -> dict[str, Any]:
    """What decides, to compare runs by."""
    return {
      "filter": self.name,
      "rule": self.text,
      "min_group": self.min_group,
    }


def find(name: str) -> Filter:
  """The filter of a file of `experts/filters`.

  Raises:
    ValueError: there is no such file; lists those there are, and the nearest.
  """
  return find_record(
    name, package=filters, record="FILTER", field="config.filter.name"
  )


def open_selection(config: Any) -> Selection:
  """Reads a config's filter and its rule.

  Args:
    config: the whole config: what candidates can have depends on how they are
      sampled.

  Raises:
    ValueError: no such filter, a rule with a mistake, or a measure that these
      candidates cannot have.
  """
  found, field = find(config.filter.name), "config.filter.rule"
  text = config.filter.rule
  if text is None:
    text = found.rule
    field += f" (of experts/filters/{config.filter.name}.py)"
  rule = parse_rule(text, field=field)
  known = all_measures()
  check_names(rule, known, field=f"{field}={text!r}")
  in_groups = config.sample.together > 1
  for condition in rule:
    if lack := _lack(known[condition.name], condition.name, config):
      raise ValueError(f"{field}={text!r}: {lack}")
  if found.min_group > 1 and not in_groups:
    raise ValueError(
      f"config.filter.name='{config.filter.name}' keeps groups of "
      f"{found.min_group} images or more, and config.sample.together=1 samples "
      "each alone: take another filter, or a teacher that samples several "
      "together."
    )
  return Selection(
    name=config.filter.name,
    text=text,
    rule=rule,
    min_group=found.min_group,
    measures={
      name: measure
      for name, measure in known.items()
      if not _lack(measure, name, config)
    },
  )


def _lack(measure: Measure, name: str, config: Any) -> str:
  """Why candidates cannot have a measure, and what helps; "" if they can."""
  label = config.label
  if measure.of == "group" and config.sample.together == 1:
    return (
      f"{name} compares images that were sampled in each other's sight, and "
      f"the teacher '{config.finetune.teacher}' samples each alone with "
      "config.sample.together=1: take another measure, or a teacher that "
      "samples several together."
    )
  if measure.of == "head" and not config.filter.aesthetic:
    return (
      f"{name} needs a head, and config.filter.aesthetic='' names none: give "
      "the file of a linear head on config.clip, or a rule without it."
    )
  if measure.of in ("label", "masks") and label.candidates == "none":
    return (
      f"{name} reads where the subject of an image is, and "
      "config.label.candidates='none' labels none: set it to segmenter, or to "
      "teacher if that says so, or take another measure."
    )
  if measure.of == "masks" and label.source == "none":
    return (
      f"{name} compares with subjects cut out of their own pictures, and "
      "config.label.source='none' knows no mask of these: set it to folder, "
      "segmenter or world, or take another measure."
    )
  return ""


def read_scores(workdir: Path) -> list[Score]:
  """Reads the scores of `experts.filter`, in the order of the candidates."""
  return read_lines(workdir / "experts/filter/scores.jsonl", Score)


def select(scores: Sequence[Score], selection: Selection) -> list[Score]:
  """Marks the scores of the candidates that are kept."""
  passed = [
    all(condition.holds(score.values) for condition in selection.rule)
    for score in scores
  ]
  num = collections.Counter(
    score.group for score, is_in in zip(scores, passed, strict=True) if is_in
  )
  return [
    dataclasses.replace(
      score, kept=is_in and num[score.group] >= selection.min_group
    )
    for score, is_in in zip(scores, passed, strict=True)
  ]


def explain_nothing(scores: Sequence[Score], selection: Selection) -> str:
  """Why no candidate is kept: the condition that drops the last of them."""
  left, before = list(scores), ""
  for condition in selection.rule:
    passed = [score for score in left if condition.holds(score.values)]
    if not passed:
      values = [score.values[condition.name] for score in left]
      known = [value for value in values if value == value]
      is_lower = condition.sign[0] == ">"
      word = "largest" if is_lower else "smallest"
      pick = max if is_lower else min
      best = f"{pick(known):.3f}" if known else "not known"
      return (
        f"filter kept 0 of {len(scores)} candidates: the {word} "
        f"{condition.name}{before} is {best}, and config.filter.rule="
        f"{selection.text!r} asks for {condition}: loosen it, or tune the "
        "experts longer and guide them more."
      )
    left, before = passed, f" of the {len(passed)} that pass the rest"
  return (
    f"filter kept 0 of {len(scores)} candidates: {len(left)} pass "
    f"config.filter.rule={selection.text!r}, and no group has "
    f"{selection.min_group} of them, as config.filter.name='{selection.name}' "
    "asks: loosen the rule, or sample larger groups (config.sample.together)."
  )
