# SPDX-License-Identifier: Apache-2.0
"""One file per family of models; `tests.goldens.ours` says what it holds."""

import importlib
import pathlib

FAMILIES = {
  path.stem: importlib.import_module(f"{__name__}.{path.stem}")
  for path in sorted(pathlib.Path(__file__).parent.glob("[a-z]*.py"))
}
CASES = {c: family for family in FAMILIES.values() for c in family.CASES}
PUBLISHED = {
  m: family for family in FAMILIES.values() for m in family.PUBLISHED
}
