# SPDX-License-Identifier: Apache-2.0
"""A value of a config is of the kind of its default, or is named."""

import math

import pytest

from suti.config.values import check_kinds

DEFAULTS = {
  "flag": True,
  "count": 4,
  "offset": 0,
  "scale": 1.0,
  "shift": -1.0,
  "name": "silu",
  "widths": (8, 16),
  "kinds": ("a",),
  "steps": (),
  "num_layers": 2,
  "anything": None,
}
GOOD = {
  "flag": [True, False],
  "count": [1, 2**31 - 1],
  "offset": [0, 5],
  "scale": [0, 0.5, 3],
  "shift": [-2.5, 0, -math.inf],
  "name": ["", "x"],
  "widths": [[1], (3, 4)],
  "kinds": [["x", "y"]],
  "steps": [[], [0, 3]],
  "num_layers": [1, 1000],
  "anything": [None, {}, "x", -1],
}
BAD = {
  "flag": [0, 1, None, "true"],
  "count": [0, -1, 2.0, "4", None, True, [4], 2**31],
  "offset": [-1, 0.0, False],
  "scale": [-0.1, math.nan, math.inf, "1", None, True],
  "shift": [math.nan, "0", None],
  "name": [None, 3, ["x"]],
  "widths": [[], 8, "88", [8, 0], [8, None], [[8]], None, {}],
  "kinds": [[], "a", [3]],
  "steps": [[-1], 3, None],
  "num_layers": [1001, 0],
}


def pairs(values):
  return [(key, value) for key in values for value in values[key]]


@pytest.mark.parametrize(("key", "value"), pairs(GOOD))
def test_values_of_the_kind_of_their_default(key, value):
  check_kinds({key: value, "unknown": object()}, DEFAULTS, what="a net")


@pytest.mark.parametrize(("key", "value"), pairs(BAD))
def test_values_of_another_kind(key, value):
  with pytest.raises(ValueError, match=f"^{key}=.* of a net must be ") as error:
    check_kinds({key: value}, DEFAULTS, what="a net")
  assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_messages():
  wrong = {"widths": [8] * 999 + [0], "count": "4", "flag": 1, "scale": 1.0}
  with pytest.raises(ValueError) as error:
    check_kinds(wrong, DEFAULTS, what="a net")
  assert str(error.value) == (
    "flag=1 of a net must be true or false (2 more values are wrong): correct "
    "it, or fetch the file again."
  )
  del wrong["flag"], wrong["count"]
  with pytest.raises(ValueError) as error:
    check_kinds(wrong, DEFAULTS, what="a net")
  assert str(error.value) == (
    "widths=[8, 8, 8, 8, 8, 8, ...] of a net must be a list, of which each is "
    "a whole number from 1: correct it, or fetch the file again."
  )


def test_one_value_for_each_level():
  for value in (4, [4, 5], (4,)):
    check_kinds({"count": value}, DEFAULTS, what="", per_level=("count",))
  for value in ([], [4, 0], [[4]], "4"):
    with pytest.raises(ValueError, match="must be a whole number from 1"):
      check_kinds({"count": value}, DEFAULTS, what="", per_level=("count",))
