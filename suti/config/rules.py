# SPDX-License-Identifier: Apache-2.0
"""Rules as texts: "delta_clip > 0.02, identity > 0.6".

A rule is conditions on named numbers, joined by commas, all of which must hold;
the empty rule always holds. Which names there are, its reader says.
"""

import operator
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from suti.config.names import suggest

_OPERATORS = {
  ">": operator.gt,
  ">=": operator.ge,
  "<": operator.lt,
  "<=": operator.le,
}
_CONDITION = re.compile(
  r"\s*([A-Za-z_]\w*)\s*(>=|<=|>|<)\s*"
  r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
)


class Condition(NamedTuple):
  """One condition: `name` compared with `number`."""

  name: str
  sign: str
  number: float

  def holds(self, values: Mapping[str, float]) -> bool:
    """Whether it holds; of a value that is no number (NaN) nothing holds."""
    return bool(_OPERATORS[self.sign](values[self.name], self.number))

  def __str__(self) -> str:
    return f"{self.name} {self.sign} {self.number:g}"


def parse_rule(text: str, *, field: str) -> tuple[Condition, ...]:
  """Reads a rule.

  Args:
    text: as above.
    field: where it stands, for the message.

  Raises:
    ValueError: a part of it is no condition.
  """
  if not text.strip():
    return ()
  conditions = []
  for part in text.split(","):
    match = _CONDITION.fullmatch(part)
    if match is None:
      raise ValueError(
        f"{field}={text!r}: {part.strip()!r} is no condition: write NAME > "
        "NUMBER, or with >=, < or <=, and join several by commas, as in "
        "'delta_clip > 0.02, identity > 0.6'."
      )
    name, sign, number = match.groups()
    conditions.append(Condition(name, sign, float(number)))
  return tuple(conditions)


def check_names(
  rule: Collection[Condition], known: Collection[str], *, field: str
) -> None:
  """Checks that each condition is on a name that there is.

  Raises:
    ValueError: one is not; lists those there are, and the nearest.
  """
  for condition in rule:
    if condition.name not in known:
      raise ValueError(
        f"{field}: there is no measure '{condition.name}'. There are "
        f"{', '.join(sorted(known))}.{suggest(condition.name, known)}"
      )
