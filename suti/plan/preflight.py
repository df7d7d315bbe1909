# SPDX-License-Identifier: Apache-2.0
"""Compiles a stage's program for a TPU slice that is not there.

libtpu describes a slice by its name and compiles for it on any machine. What
comes out is the program that would run, so what it holds, computes and sends
(`suti.plan.hlo`) is read off, not modelled. How long that takes is not
known without the chip: `roofline` gives the least time that its published peaks
(`suti.plan.chips`) allow.

Reports are kept in a folder by the hash of the program, the slice, the versions
and the code that reads them, as a large program takes minutes to compile. No
stage is known here: programs are handed over, with descriptions in the place of
arrays.
"""

import dataclasses
import hashlib
import importlib.util
import os
import re
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from suti.io.files import read_json, write_json
from suti.plan import hlo
from suti.plan.chips import Chip, Topology
from suti.plan.hlo import Costs, read_costs
from suti.plan.memory import program_bytes

# What libtpu would query a Cloud TPU VM's metadata server for.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v4-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# What the compiler says of memory that no program has: "Used 41.25G of 30.75G
# hbm", or "(384.00G) exceeds available HBM (30.75G)".
_TOO_LARGE = re.compile(
  r"Used ([\d.]+)([KMGT]?)B? of [\d.]+[KMGT]?B? hbm"
  r"|\(([\d.]+)([KMGT]?)B?\) exceeds available HBM"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """A program of a stage, ready to be lowered.

  Attributes:
    function: a jitted function.
    arguments: what it is called with, `jax.ShapeDtypeStruct`s with shardings.
    num_parameters: of the net, those that are frozen included.
    batch_size: experts, examples or pictures that one run works on, on all
      devices together.
    calls: how often it runs, for `subjects` if these are given.
    subjects: how many subjects are done with after `calls` runs; None if the
      stage's work does not grow with them.
    replicas: how many of it run beside each other on a slice: one on each host
      where each host works for itself.
  """

  function: Any
  arguments: Sequence[Any]
  num_parameters: int
  batch_size: int
  calls: int = 1
  subjects: float | None = None
  replicas: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """What is known of a compiled program, of one device.

  Attributes:
    argument_bytes, output_bytes, alias_bytes, temp_bytes, code_bytes: what it
      holds while it runs; aliases are outputs in the place of arguments.
    total_bytes: the peak of what it holds.
    costs: what it does.
    too_large: the compiler's message if it does not fit; `total_bytes` is then
      what it would need, and the other numbers are 0.
    compile_s: seconds that it took, when it was compiled.
  """

  argument_bytes: int = 0
  output_bytes: int = 0
  alias_bytes: int = 0
  temp_bytes: int = 0
  code_bytes: int = 0
  total_bytes: int = 0
  costs: Costs = dataclasses.field(default_factory=Costs)
  too_large: str = ""
  compile_s: float = 0.0


def devices(topology: Topology) -> Sequence[Any]:
  """The devices of a slice, to make a mesh of.

  Raises:
    ValueError: libtpu is not installed.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      "suti plan compiles with libtpu, which is not installed: "
      "pip install 'suti-jax[tpu]' (from a checkout: pip install -e '.[tpu]')."
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  shape = "x".join(map(str, topology.shape))
  options: dict[str, Any] = dict(topology.chip.libtpu)
  if topology.num_chips == 1:
    options["chips_per_host_bounds"] = (1, 1, 1)
  return topologies.get_topology_desc(
    f"{topology.chip.kind}:{shape}", platform="tpu", **options
  ).devices


def inspect(
  program: Program,
  topology: Topology,
  *,
  effort: float = 0.0,
  cache: Path | None = None,
) -> Report:
  """Compiles a program and reports what it holds and does.

  Args:
    program: its arguments' shardings are over the devices of `topology`.
    topology: the slice.
    effort: of the compiler, -1 to 1; 0 is what stages run with. Below it
      compiles faster, to a slower program, which is then an upper bound.
    cache: a folder where reports are kept.
  """
  lowered = program.function.lower(*program.arguments)
  file = None
  if cache is not None:
    file = cache / f"{_hash(lowered.as_text(), topology, effort)}.json"
    if file.is_file():
      fields = read_json(file)
      return Report(**fields | {"costs": Costs(**fields["costs"])})
  started = time.monotonic()
  report = _compile(lowered, effort)
  report = dataclasses.replace(
    report, compile_s=round(time.monotonic() - started, 1)
  )
  if file is not None:
    write_json(file, dataclasses.asdict(report))
  return report


def total_bytes(program: Program) -> int:
  """What a program holds on one of the devices that it is to run on.

  Args:
    program: its arguments' shardings are over devices that are there.
  """
  lowered = program.function.lower(*program.arguments)
  try:
    return program_bytes(lowered.compile())
  except jax.errors.JaxRuntimeError as error:
    needed = _needed(str(error))
    if needed is None:
      raise
    return needed


def roofline(costs: Costs, chip: Chip) -> dict[str, float]:
  """The least seconds that a chip's peaks allow, by what takes them.

  Products, memory and links work at the same time: the largest one is a floor
  of the whole, and names what limits it.
  """
  return {
    "products": costs.flops / chip.peak_flops,
    "memory": costs.bytes / chip.hbm_bandwidth,
    "links": sum(costs.collectives.values()) / chip.ici_bandwidth,
  }


def _compile(lowered: Any, effort: float) -> Report:
  try:
    compiled = lowered.compile(
      compiler_options={"exec_time_optimization_effort": effort}
    )
  except jax.errors.JaxRuntimeError as error:
    text = str(error)
    needed = _needed(text)
    if needed is None:
      raise
    return Report(too_large=text.splitlines()[0], total_bytes=needed)
  memory = compiled.memory_analysis()
  return Report(
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    alias_bytes=memory.alias_size_in_bytes,
    temp_bytes=memory.temp_size_in_bytes,
    code_bytes=memory.generated_code_size_in_bytes,
    total_bytes=program_bytes(compiled),
    costs=read_costs(compiled.as_text()),
  )


def _needed(text: str) -> int | None:
  """Bytes of a device's memory that an error names, or None."""
  found = _TOO_LARGE.search(text)
  if found is None or "RESOURCE_EXHAUSTED" not in text:
    return None
  number, unit = (part for part in found.groups() if part is not None)
  return int(float(number) * _UNITS[unit])


def _hash(text: str, topology: Topology, effort: float) -> str:
  made_of = (
    # What a report holds, and how it is read out of a program.
    [field.name for field in dataclasses.fields(Report)],
    Path(hlo.__file__).read_text(encoding="utf-8"),
    effort,
    topology.name,
    *map(_version, ("jax", "jaxlib", "libtpu")),
    text,
  )
  return hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]


def _version(package: str) -> str:
  """Of what is installed; where it is compiled for a CPU, libtpu may be not."""
  try:
    return version(package)
  except PackageNotFoundError:
    return ""
