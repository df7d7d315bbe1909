# SPDX-License-Identifier: Apache-2.0
"""Type checks of values in published configs.

A reader lists a default for each key, and a value must have its default's type.
Configs come from untrusted sources; a text instead of a number would otherwise
be an error deep inside of a model, or none at all. Which values of the right
type are supported is checked by the reader.
"""

import math
import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any


def check_kinds(
  config: Mapping[str, Any],
  defaults: Mapping[str, Any],
  *,
  what: str,
  per_level: Collection[str] = (),
) -> None:
  """Checks that values have the types of their defaults.

  A whole number must be above 0, or not below it where its default is 0; a
  fraction finite and not below 0, unless its default is; a list must have an
  element, and all of them be of the kind of the default's first. Where the
  default is an empty list, it is one of whole numbers, and may be empty.

  Args:
    config: as published; keys without a default are not checked.
    defaults: of its keys. None stands for any type.
    what: name of the config, for the message.
    per_level: keys that may hold a list of such values, one per level.

  Raises:
    ValueError: names the first value of another kind, and counts the others.
  """
  wrong = []
  for key, default in defaults.items():
    if key not in config or default is None:
      continue
    words, fits = _kind(default, _MOST_LAYERS if "layers" in key else _MOST)
    value = config[key]
    if key in per_level and isinstance(value, list | tuple):
      # An empty list fits no number of levels.
      if not value or not all(map(fits, value)):
        wrong.append((key, f"{words}, or a list of such"))
    elif not fits(value):
      wrong.append((key, words))
  if wrong:
    (key, words), *others = wrong
    more = f" ({len(others)} more values are wrong)" if others else ""
    raise ValueError(
      f"{key}={shorten(config[key])} of {what} must be {words}{more}: correct "
      "it, or fetch the file again."
    )


def shorten(value: Any) -> str:
  """A value as text, shortened to fit a line."""
  return reprlib.repr(value)


# Of sizes and counts: the largest 32-bit number. Of layers fewer, as they are
# declared one by one, which would take hours.
_MOST, _MOST_LAYERS = 2**31 - 1, 1000


def _kind(default: Any, most: int) -> tuple[str, Callable[[Any], bool]]:
  """The type of a default in words, and whether a value has it."""
  if isinstance(default, bool):
    return "true or false", lambda x: isinstance(x, bool)
  if isinstance(default, int):
    low = min(default, 1)
    words = f"a whole number from {low}"
    words += f" to {most}" if most < _MOST else ""
    return words, lambda x: _is(x, int) and low <= x <= most
  if isinstance(default, float) and default < 0:
    return "a number", lambda x: _is(x, int, float) and x == x
  if isinstance(default, float):
    return "a number from 0", lambda x: _is(x, int, float) and 0 <= x < math.inf
  if isinstance(default, str):
    return "a text", lambda x: isinstance(x, str)
  assert isinstance(default, tuple), default
  words, fits = _kind(default[0] if default else 0, most)
  return (
    f"a list, of which each is {words}",
    lambda x: (
      isinstance(x, list | tuple)
      and len(x) >= min(len(default), 1)
      and all(map(fits, x))
    ),
  )


def _is(value: Any, *kinds: type) -> bool:
  return isinstance(value, kinds) and not isinstance(value, bool)
