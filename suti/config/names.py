# SPDX-License-Identifier: Apache-2.0
"""Names that users give: the nearest known one, and the file that has it.

A method, a teacher: nothing is registered, a name in a config is the name of a
file, which defines one record.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import Any


def nearest(
  name: str, known: Iterable[str], *, cutoff: float = 0.6
) -> str | None:
  """The known name that is most like another; None if all are far from it.

  Args:
    name: as given.
    known: those there are.
    cutoff: how alike the two must be, 1 being equal.
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
    package: where it lies.
    record: what it calls its record, such as "TEACHER".
    field: of the config, in which the name stands, for the message.

  Raises:
    ValueError: there is no such file; names those there are, and the nearest.
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
