# SPDX-License-Identifier: Apache-2.0
"""From a program's costs to hours: each number by hand."""

import dataclasses

import pytest

from suti.plan.chips import parse_topology
from suti.plan.estimate import Assumptions, estimate, fits
from suti.plan.hlo import Costs
from suti.plan.preflight import Program, Report

TOPOLOGY = parse_topology("v5e:2x2")
CHIP = TOPOLOGY.chip
ASSUMED = Assumptions(share_of_peak=0.5, num_subjects=100, price=2.0)
# A second each of products at half the peak and of memory.
COSTS = Costs(flops=0.5 * CHIP.peak_flops, bytes=CHIP.hbm_bandwidth)
# Eight experts on four chips, 900 runs of a second.
PROGRAM = Program(
  function=None,
  arguments=(),
  num_parameters=7,
  batch_size=8,
  calls=900,
  subjects=8,
)


def plan(costs, program=PROGRAM, assumed=ASSUMED):
  report = Report(total_bytes=1000, costs=costs)
  return estimate(
    "experts.finetune", program, report, TOPOLOGY, assumed, room=1000
  )


def test_subjects_hours_and_money():
  row = plan(COSTS)
  assert row["seconds"] == pytest.approx(1.0)
  # 13 groups of at most 8 experts, a quarter of an hour each, on four chips.
  assert row["hours"] == pytest.approx(13 * 0.25)
  assert row["chip_hours"] == pytest.approx(13)
  assert row["cost"] == pytest.approx(26)
  assert row["subjects_per_chip_hour"] == pytest.approx(8)
  assert row["share_of_peak"] == pytest.approx(0.5)


def test_hosts_that_work_for_themselves_share_the_subjects():
  """Two hosts of four: seven groups of sixteen, a quarter of an hour each."""
  row = plan(COSTS, dataclasses.replace(PROGRAM, replicas=2))
  assert row["hours"] == pytest.approx(7 * 0.25)
  assert row["chip_hours"] == pytest.approx(7)
  assert row["subjects_per_chip_hour"] == pytest.approx(16)


def test_what_takes_longest_is_the_time_and_is_named():
  slower = {
    "products": {"flops": CHIP.peak_flops},
    "memory": {"bytes": 2 * CHIP.hbm_bandwidth},
    "links": {"collectives": {"all-reduce": 2 * CHIP.ici_bandwidth}},
    "schedule": {"cycles": 2 * CHIP.clock_hz},
  }
  for name, costs in slower.items():
    row = plan(dataclasses.replace(COSTS, **costs))
    assert row["limit"] == name
    assert row["seconds"] == pytest.approx(2.0)


def test_the_least_time_knows_no_assumption():
  row = plan(dataclasses.replace(COSTS, cycles=3 * CHIP.clock_hz))
  assert row["least_seconds"] == pytest.approx(1.0)
  assert row["most_per_chip_hour"] == pytest.approx(8)
  assert row["subjects_per_chip_hour"] == pytest.approx(8 / 3)


def test_work_that_does_not_grow_with_subjects():
  program = dataclasses.replace(PROGRAM, subjects=None, calls=7200)
  row = plan(COSTS, program)
  assert row["hours"] == pytest.approx(2.0)
  assert "subjects_per_chip_hour" not in row


def test_without_a_price_there_is_no_cost():
  assumed = dataclasses.replace(ASSUMED, price=None)
  assert plan(COSTS, assumed=assumed)["cost"] is None


def test_what_does_not_fit_has_no_time():
  for report in (
    Report(total_bytes=1001),
    Report(total_bytes=900, too_large="RESOURCE_EXHAUSTED: ..."),
  ):
    assert not fits(report, 1000)
    row = estimate("x", PROGRAM, report, TOPOLOGY, ASSUMED, room=1000)
    assert not row["fits"]
    assert "seconds" not in row
  assert fits(Report(total_bytes=1000), 1000)
