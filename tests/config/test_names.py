# SPDX-License-Identifier: Apache-2.0
"""Names: the nearest one is offered, a record is found by its file's name."""

import pytest

from apprentice import methods
from experts import teachers
from suti.config.names import find_record, names_in, nearest, suggest


@pytest.mark.parametrize(
  ("name", "hint"), [("suty", " Did you mean 'suti'?"), ("zebra", "")]
)
def test_suggest(name, hint):
  assert suggest(name, ("suti", "toffee")) == hint


def test_how_near_is_near_is_the_callers():
  assert nearest("v5", ("v5litepod",), cutoff=0.3) == "v5litepod"
  assert nearest("v5", ("v5litepod",)) is None


@pytest.mark.parametrize(
  ("package", "record"), [(methods, "METHOD"), (teachers, "TEACHER")]
)
def test_each_file_of_a_package_has_its_record(package, record):
  for name in names_in(package):
    found = find_record(name, package=package, record=record, field="x")
    assert found.paper.startswith("https://")


def test_a_file_that_is_not_there_is_answered_with_those_there_are():
  with pytest.raises(ValueError) as error:
    find_record("suty", package=methods, record="METHOD", field="config.a.b")
  known = ", ".join(names_in(methods))
  assert str(error.value) == (
    f"No method 'suty' (config.a.b). apprentice/methods has {known}. Did you "
    "mean 'suti'?"
  )
