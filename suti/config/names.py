# SPDX-License-Identifier: Apache-2.0
"""Resolves names given by users: suggestions, and records loaded from files.

There is no registry of methods or teachers: a name in a config is the name of a
file, which defines one record.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

# Fields that are gone -> what took their place.
REPLACED: Mapping[str, str] = {
  "config.filter.threshold": "A threshold of 0.02 is "
  '--config.filter.rule="delta_clip > 0.02"',
  "config.filter.identity_threshold": "It is a condition of "
  '--config.filter.rule="delta_clip > 0.02, identity > 0.6"',
}


def nearest(
  name: str, known: Iterable[str], *, cutoff: float = 0.6
) -> str | None:
  """The known name that is most similar to another; None if none is similar.

  Args:
    name: as given.
    known: all known names.
    cutoff: the least similarity, 1 being equal.
  """
  close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
  return close[0] if close else None


def suggest(name: str, known: Iterable[str]) -> str:
  """' Did you mean …?' for a name close to a known one, else ''."""
  close = nearest(name, known)
  return f" Did you mean '{close}'?" if close else ""


def names_in(package: ModuleType) -> list[str]:
  """The files of a package, by name."""
  return sorted(
    module.name for module in pkgutil.iter_modules(package.__path__)
  )


def find_record(name: str, *, package: ModuleType, record: str, field: str):
  """The record that a file of a package defines.

  Args:
    name: of the file.
    package: of the file.
    record: name of the record in it, such as "TEACHER".
    field: of the config with the name, for the message.

  Raises:
    ValueError: there is no such file; lists those there are, and the nearest.
  """
  known = names_in(package)
  if name not in known:
    folder = package.__name__.replace(".", "/")
    raise ValueError(
      f"No {record.lower()} '{name}' ({field}). {folder} has "
      f"{', '.join(known)}.{suggest(str(name), known)}"
    )
  module: Any = importlib.import_module(f"{package.__name__}.{name}")
  return getattr(module, record)
