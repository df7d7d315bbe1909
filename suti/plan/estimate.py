# SPDX-License-Identifier: Apache-2.0
"""Hours and cost of a compiled program: an estimate, not a measurement.

The program is the one that would run, compiled. Its time is not measured: it is
taken to be the longest of four:

  products   at `share_of_peak` of the chip's published peak
  memory     HBM at the whole of its published bandwidth
  links      to other chips, at the whole of theirs
  schedule   the cycles that the compiler has estimated of each operation, one
             after the other; of some it has no estimate

Nothing is counted that is not in the program: reading data, encoding texts and
pictures once a wave, writing weights, compiling, being preempted.
"""

import dataclasses
import math
from typing import Any

from suti.plan.chips import Topology
from suti.plan.preflight import Program, Report, roofline


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumptions:
  """What an estimate takes for granted.

  Attributes:
    share_of_peak: of the chip's products a second, what is reached.
    num_subjects: how many are to be done.
    price: of a chip for an hour, in whatever money; None if it is not known.
  """

  share_of_peak: float
  num_subjects: int
  price: float | None


def fits(report: Report, room: int) -> bool:
  """Whether a chip that has so many bytes for a program has room for it."""
  return not report.too_large and report.total_bytes <= room


def estimate(
  stage: str,
  program: Program,
  report: Report,
  topology: Topology,
  assumptions: Assumptions,
  *,
  room: int,
) -> dict[str, Any]:
  """All that a plan says of a stage, as plain data.

  Args:
    stage: its module.
    program: what was compiled.
    report: of it.
    topology: the slice. Its chip-hours are those of all its chips, as they are
      paid for, though some stages leave most of them idle: `experts.filter`
      works on one, `apprentice.sample` on those of the first host.
    assumptions: see there.
    room: bytes of a chip that the program may take.

  Returns: numbers by name; bytes and seconds, of one device and one run where
    the name does not say otherwise. Of a program that does not fit, no times.
  """
  chip, costs = topology.chip, report.costs
  row: dict[str, Any] = {
    "stage": stage,
    "batch_size": program.batch_size,
    "replicas": program.replicas,
    "parameters": program.num_parameters,
    "fits": fits(report, room),
    "total_bytes": report.total_bytes,
    "argument_bytes": report.argument_bytes,
    "output_bytes": report.output_bytes,
    "alias_bytes": report.alias_bytes,
    "temp_bytes": report.temp_bytes,
    "code_bytes": report.code_bytes,
    "room_bytes": room,
    "compile_seconds": report.compile_s,
  }
  if not row["fits"]:
    return row
  least = roofline(costs, chip)
  times = least | {
    "products": least["products"] / assumptions.share_of_peak,
    "schedule": costs.cycles / chip.clock_hz,
  }
  limit = max(times, key=lambda name: times[name])
  seconds = times[limit]
  groups = 1
  if program.subjects is not None:
    together = program.subjects * program.replicas
    groups = math.ceil(assumptions.num_subjects / together)
  hours = groups * program.calls * seconds / 3600
  chip_hours = hours * topology.num_chips
  row |= {
    "flops": costs.flops,
    "hbm_bytes": costs.bytes,
    "collective_bytes": dict(costs.collectives),
    "collectives": dict(costs.num_collectives),
    "unknown_loops": costs.unknown_loops,
    "least_seconds": max(least.values()),
    "seconds_by": times,
    "seconds": seconds,
    "limit": limit,
    "share_of_peak": least["products"] / seconds if seconds else 0.0,
    "calls": program.calls,
    "hours": hours,
    "chip_hours": chip_hours,
    "cost": None
    if assumptions.price is None
    else chip_hours * assumptions.price,
  }
  if program.subjects is not None and seconds:
    done = program.subjects * program.replicas
    each = program.calls * topology.num_chips / done / 3600
    row["subjects_per_chip_hour"] = 1 / (each * seconds)
    row["most_per_chip_hour"] = 1 / (each * row["least_seconds"])
  return row
