# SPDX-License-Identifier: Apache-2.0
"""Slices by name, and what is said of the chips they are made of."""

import pytest

from suti.plan.chips import CHIPS, parse_topology


@pytest.mark.parametrize(
  ("name", "chips"),
  [("v4:4x4x8", 128), ("v5e:2x4", 8), ("v5p:2x2x2", 8), ("v6e:1x1", 1)],
)
def test_a_slice_has_the_chips_of_its_shape(name, chips):
  topology = parse_topology(name)
  assert topology.num_chips == chips
  assert topology.name == name


MISTAKES = {
  "v9:2x2": "--topology=v9:2x2: there is no chip 'v9' here, but v4, v5e, v5p, "
  "v6e. Did you mean 'v4:4x4x8'?",
  "v5:2x2": "--topology=v5:2x2: there is no chip 'v5' here, but v4, v5e, v5p, "
  "v6e. Did you mean 'v5p:4x4x8'?",
  "gpu": "--topology=gpu: there is no chip 'gpu' here, but v4, v5e, v5p, v6e.",
  "v5e": "--topology=v5e: a slice of v5e is v5e:AxB, chips along each axis; "
  "give v5e:2x4 or another.",
  "v5e:2x2x2": "--topology=v5e:2x2x2: a slice of v5e is v5e:AxB, chips along "
  "each axis; give v5e:2x4 or another.",
  "v4:2x2": "--topology=v4:2x2: a slice of v4 is v4:AxBxC, chips along each "
  "axis; give v4:4x4x8 or another.",
  "v5e:2x²": "--topology=v5e:2x²: a slice of v5e is v5e:AxB, chips along each "
  "axis; give v5e:2x4 or another.",
  "v5e:3x4": "--topology=v5e:3x4: a slice is made of hosts of 2x2 chips, or is "
  "one chip; give v5e:2x4 or another.",
  "v5e:0x2": "--topology=v5e:0x2: a slice is made of hosts of 2x2 chips, or is "
  "one chip; give v5e:2x4 or another.",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_name_that_is_none_is_one_line(name):
  with pytest.raises(ValueError) as caught:
    parse_topology(name)
  assert str(caught.value) == MISTAKES[name]


def test_the_numbers_of_a_chip_agree_with_each_other():
  """The peak over what the units do in a cycle is a clock that chips have."""
  clocks = {kind: chip.clock_hz / 1e9 for kind, chip in CHIPS.items()}
  assert clocks == pytest.approx(
    {"v4": 1.05, "v5e": 1.5, "v5p": 1.75, "v6e": 1.75}, rel=0.002
  )
  for chip in CHIPS.values():
    assert 0.9 < chip.program_bytes / chip.hbm_bytes < 1.01
