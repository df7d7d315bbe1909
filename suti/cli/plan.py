# SPDX-License-Identifier: Apache-2.0
"""`suti plan`: what a config takes on a TPU slice, before one is paid for."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from suti.cli.parser import Parser

AUTO = 0  # as many as fit
MOST = 4096  # things a device; no stage is quicker a thing with more

_DESCRIPTION = """\
Compiles every stage of a config that computes for a slice of TPUs that is not
there, and says of each whether it fits, what it computes, moves and sends, and
how long it may take. An estimate: nothing is run. Needs libtpu, no TPU.

A slice is named by chip and shape: v4:4x4x8, v5e:4x8, v5p:2x2x2, v6e:1x1.
"""
_EXAMPLES = """\
examples:
  suti plan --config configs/experts/suti_imagen64.py --topology v4:4x4x8
  suti plan --config configs/experts/lora_sd15.py --topology v5e:2x2 --search \\
    --subjects 100000 --config.plan.price_per_chip_hour.v5e=1.0
"""


def plan(argv: Sequence[str]) -> None:
  """Compiles, prints a table, and writes it as JSON if asked to.

  Raises:
    ValueError: no such slice or config, libtpu is missing, or a config that
      does not fit the slice's devices.
  """
  args, rest = _parser().parse_known_args(list(argv))
  from suti import arguments, options
  from suti.parallel.chips import parse_topology

  topology = parse_topology(args.topology)
  config = arguments.parse_config(rest, command="suti plan")
  options.check(config, data=False)
  if args.subjects is not None and args.subjects < 1:
    raise ValueError(f"--subjects={args.subjects}: expected 1 or more.")
  # Nothing here needs an accelerator, and a TPU's may be in use.
  os.environ["JAX_PLATFORMS"] = "cpu"
  from suti.parallel.estimate import Assumptions

  assumptions = Assumptions(
    share_of_peak=config.plan.share_of_peak,
    num_subjects=args.subjects or config.plan.num_subjects,
    price=config.plan.price_per_chip_hour.get(topology.chip.kind),
  )
  rows = _plan_stages(config, topology, assumptions, search=args.search)
  from suti.cli import plan_table

  print(plan_table.table(rows, topology, assumptions))
  if args.json:
    from suti.io.files import write_json

    out = Path(args.json)
    write_json(out, plan_table.as_data(rows, topology, assumptions))
    print(f"Wrote {out}.")


def _plan_stages(
  config: Any, topology: Any, assumptions: Any, *, search: bool
) -> list[dict[str, Any]]:
  """Compiles one stage after the other."""
  import tempfile

  from suti.backbone import describe_backbone
  from suti.parallel.mesh import make_mesh
  from suti.parallel.preflight import devices, inspect
  from suti.progress import progress

  found = devices(topology)
  mesh = make_mesh(config.mesh, devices=found)
  alone = make_mesh(
    {"expert": 1, "data": 1, "fsdp": 1}, devices=list(found)[:1]
  )
  look = functools.partial(inspect, effort=config.plan.effort, cache=_cache())
  rows = []
  with tempfile.TemporaryDirectory() as place:
    backbone = describe_backbone(_folder(config, "backbone", Path(place)))
    jobs = _jobs(config, backbone, mesh, alone, Path(place), search=search)
    with progress(len(jobs), "compile") as bar:
      for job in jobs:
        bar.update(0, note=job.stage)
        rows.append(_plan_job(job, topology, assumptions, look))
        bar.update(1, note=job.stage)
  return rows


def _plan_job(
  job: "_Job",
  topology: Any,
  assumptions: Any,
  inspect: Callable[..., Any],
) -> dict[str, Any]:
  """Compiles a stage: as it is, or to find how much of it fits."""
  from suti.parallel.estimate import estimate, fits

  row: dict[str, Any] = {}
  for make in job.ways:
    report_of = functools.cache(
      lambda size, make=make: inspect(make(size), topology)
    )
    size = job.size
    if size == AUTO:
      size = _largest(report_of, topology) or 1
    report = report_of(size or 1)
    row = estimate(job.stage, make(size or 1), report, topology, assumptions)
    row["per_device"] = size
    if fits(report, topology):
      break
  return row


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
  """What is planned of a stage.

  Attributes:
    stage: its module.
    size: how many of its things a device takes at once; None if that is no
      field of the config.
    ways: size -> program; the first whose program fits is taken.
  """

  stage: str
  size: int | None = None
  ways: Sequence[Callable[[int], Any]]


def _jobs(
  config: Any,
  backbone: Any,
  mesh: Any,
  alone: Any,
  place: Path,
  *,
  search: bool,
) -> list[_Job]:
  """All that is to be compiled, in the order of `config.plan.stages`."""
  import apprentice.programs
  import experts.programs

  def ways(make: Callable[..., Any], configs: Sequence[Any] = (config,)):
    return [
      lambda size, config=config: make(config, backbone, mesh, per_device=size)
      for config in configs
    ]

  def judge(field: str):
    folder = _folder(config, field, place)
    return [lambda _: experts.programs.judge(config, folder, alone)]

  def each(field: str) -> int:
    return _each(config, field, mesh, search=search)

  def jobs_of(stage: str) -> list[_Job]:
    if stage == "filter":
      return [
        _Job(stage=f"experts.filter {field}", ways=judge(field))
        for field in ("clip", "identity")
      ]
    if stage == "train":
      size, make = each("train.batch_size"), ways(apprentice.programs.train)
      return [_Job(stage="apprentice.train", size=size, ways=make)]
    if stage == "apprentice_sample":
      size = each("apprentice_sample.batch_size")
      make = ways(apprentice.programs.sample)
      return [_Job(stage="apprentice.sample", size=size, ways=make)]
    size = _experts(config, mesh, search=search)
    make = ways(experts.programs.sample)
    if stage == "finetune":
      make = ways(experts.programs.finetune, _settled(config))
    return [_Job(stage=f"experts.{stage}", size=size, ways=make)]

  return [job for stage in config.plan.stages for job in jobs_of(stage)]


def _settled(config: Any) -> list[Any]:
  """The config, for each way of running a device's experts that it leaves."""
  if config.finetune.inner != "auto":
    return [config]
  copies = []
  for inner in ("vmap", "map"):
    copy = config.copy_and_resolve_references().unlock()
    copy.finetune.inner = inner
    copies.append(copy.lock())
  return copies


def _experts(config: Any, mesh: Any, *, search: bool) -> int:
  """How many experts a device tunes at once.

  Raises:
    ValueError: the devices cannot share a wave evenly.
  """
  tune = config.finetune
  if search or tune.experts_per_device == "auto":
    return AUTO
  if tune.experts_per_device:
    return int(tune.experts_per_device)
  return _each(config, "finetune.experts_per_wave", mesh, search=search)


def _each(config: Any, field: str, mesh: Any, *, search: bool) -> int:
  """A device's share of a number of the config.

  Raises:
    ValueError: the devices cannot share it evenly.
  """
  from suti.parallel.mesh import check_batch

  if search:
    return AUTO
  section, name = field.split(".")
  check_batch(f"config.{field}", config[section][name], mesh)
  return config[section][name] // mesh.size


def _largest(report_of: Callable[[int], Any], topology: Any) -> int:
  """The most of a stage's things that fit a device."""
  from suti.parallel.memory import fit_size

  return fit_size(
    lambda size: report_of(size).total_bytes,
    topology.chip.program_bytes,
    most=MOST,
  )


def _folder(config: Any, field: str, place: Path) -> Path:
  """A model's own folder, or one of the configs that the plan has of it.

  Raises:
    ValueError: there is neither.
  """
  from suti.backbone import find_model
  from suti.io.files import write_json

  published = config.plan[field].to_dict()
  folder = place / field
  if not published or Path(config[field]).is_dir():
    return find_model(config[field])
  if "model_type" in published:
    published = {".": published}
  for part, content in published.items():
    name = "scheduler_config" if part == "scheduler" else "config"
    write_json(folder / part / f"{name}.json", content)
  return folder


def _cache() -> Path | None:
  """Where reports of compiled programs are kept."""
  given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if given is not None:
    return Path(given) / "plans" if given else None
  home = os.environ.get("HOME")
  return Path(home) / ".cache" / "suti" / "plans" if home else None


def _parser() -> Parser:
  parser = Parser(
    prog="suti plan",
    usage="suti plan --config FILE[:ARG] --topology SLICE [--search]\n"
    "                 [--subjects N] [--json FILE] [--config.FIELD=VALUE ...]",
    description=_DESCRIPTION,
    epilog=_EXAMPLES,
  )
  add = parser.add_argument
  add(
    "--topology",
    required=True,
    metavar="SLICE",
    help="chip and shape, such as v5e:2x4",
  )
  add(
    "--search",
    action="store_true",
    help="find the most experts, examples or pictures that fit a chip, in a "
    "few compilations a stage",
  )
  add(
    "--subjects",
    type=int,
    metavar="N",
    help="how many subjects are to be done (default: config.plan.num_subjects)",
  )
  add("--json", metavar="FILE", help="write all numbers there, too")
  return parser
