# SPDX-License-Identifier: Apache-2.0
"""What `suti plan` prints of its estimates, and the same as data."""

from collections.abc import Mapping, Sequence
from typing import Any

from suti.cli.convert import short

_GIB = 2**30
_HEADINGS = (
  "stage",
  "a chip",
  "parameters",
  "arguments",
  "temporaries",
  "outputs",
  "total GiB",
  "TFLOP",
  "GB moved",
  "GB sent",
  "least s",
  "s a run",
  "limit",
  "% of peak",
)


def as_data(
  models: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  topology: Any,
  assumptions: Any,
) -> dict[str, Any]:
  """The whole plan, for a program to read."""
  chip = topology.chip
  return {
    "topology": topology.name,
    "chips": topology.num_chips,
    "chip": {
      "peak_flops": chip.peak_flops,
      "hbm_bytes": chip.hbm_bytes,
      "program_bytes": chip.program_bytes,
      "hbm_bandwidth": chip.hbm_bandwidth,
      "ici_bandwidth": chip.ici_bandwidth,
    },
    "share_of_peak": assumptions.share_of_peak,
    "models": list(models),
    "subjects": assumptions.num_subjects,
    "price_per_chip_hour": assumptions.price,
    "stages": list(rows),
  }


def table(
  models: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  topology: Any,
  assumptions: Any,
) -> str:
  """The plan as text: of what, what each program is, what the work takes."""
  chip = topology.chip
  lines = [
    f"{topology.name}: {topology.num_chips} chip"
    f"{'s, each' if topology.num_chips > 1 else ''} of "
    f"{chip.peak_flops / 1e12:g} TFLOP/s, {chip.program_bytes / _GIB:.2f} GiB "
    f"for programs at {chip.hbm_bandwidth / 1e9:g} GB/s, "
    f"{chip.ici_bandwidth / 1e9:g} GB/s to its neighbours.",
    *models,
    "",
    *_aligned([_HEADINGS, *(_cells(row) for row in rows)]),
    "",
    *[line for row in rows for line in _lines(row, topology, assumptions)],
    "",
    "An estimate: compiled for this chip, run on none. A run takes the longest "
    "of: products at",
    f"{assumptions.share_of_peak:.0%} of the chip's peak "
    "(config.plan.share_of_peak), memory and links at all of theirs, and the",
    "schedule by the compiler's own count of cycles. Least: all at their "
    "peaks. Nothing is counted",
    "but these programs. Chip-hours are the whole slice's, though filter works "
    "on one chip of it",
    "and apprentice.sample on one host's.",
  ]
  return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  memory = tuple(
    f"{row[name] / _GIB:.2f}" if row[name] else "-"
    for name in ("argument_bytes", "temp_bytes")
  )
  outputs = row["output_bytes"] - row["alias_bytes"]
  total = f"{row['total_bytes'] / _GIB:.2f}"
  about = (
    row["stage"],
    "-" if row["per_device"] is None else str(row["per_device"]),
    short(row["parameters"]),
    *memory,
    f"{outputs / _GIB:.2f}",
    total if row["fits"] else f"{total} does not fit",
  )
  if not row["fits"]:
    return (*about, *["-"] * (len(_HEADINGS) - len(about)))
  return (
    *about,
    f"{row['flops'] / 1e12:.3g}",
    f"{row['hbm_bytes'] / 1e9:.3g}",
    f"{sum(row['collective_bytes'].values()) / 1e9:.3g}",
    f"{row['least_seconds']:.3g}",
    f"{row['seconds']:.3g}",
    row["limit"],
    f"{row['share_of_peak']:.0%}",
  )


def _lines(
  row: Mapping[str, Any], topology: Any, assumptions: Any
) -> list[str]:
  """The rest of a stage in words."""
  name = row["stage"]
  if not row["fits"]:
    return [
      f"{name} does not fit: {row['total_bytes'] / _GIB:.2f} GiB of "
      f"{row['room_bytes'] / _GIB:.2f}; {row['remedy']}."
    ]
  words = []
  if rate := row.get("subjects_per_chip_hour"):
    what = "experts" if "finetune" in name else "subjects"
    words.append(
      f"{rate:.3g} {what} a chip-hour, {row['most_per_chip_hour']:.3g} at most"
    )
    words.append(
      f"{assumptions.num_subjects:,} subjects in {_time(row['hours'])}"
    )
  else:
    words.append(f"{1 / row['seconds']:.3g} runs a second")
    words.append(f"{row['calls']} runs in {_time(row['hours'])}")
  words.append(f"{_number(row['chip_hours'])} chip-hours")
  if row["cost"] is not None:
    words.append(f"cost {_number(row['cost'])}")
  sent = ", ".join(
    f"{count} {kind} of {row['collective_bytes'][kind] / 1e9:.3g} GB in all"
    for kind, count in row["collectives"].items()
  )
  words.append(f"sends {sent}" if sent else "no chip sends another anything")
  if row["unknown_loops"]:
    words.append(f"{row['unknown_loops']} loops of unknown length counted once")
  return [f"{name}: {'; '.join(words)}."]


def _number(value: float) -> str:
  """69999.2 -> "69,999", 0.01234 -> "0.0123"."""
  return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _time(hours: float) -> str:
  """0.25 -> "15 min"."""
  if hours < 1 / 60:
    return f"{3600 * hours:.2g} s"
  if hours < 1:
    return f"{60 * hours:.2g} min"
  return f"{hours:.3g} h" if hours < 72 else f"{hours / 24:.3g} days"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(
      cell.ljust(width) if place == 0 else cell.rjust(width)
      for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]
