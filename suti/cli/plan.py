# SPDX-License-Identifier: Apache-2.0
"""`suti plan`: what a config takes on a TPU slice, before one is paid for."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from suti.cli.parser import Parser

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
  from suti import options, stage
  from suti.parallel.chips import parse_topology

  topology = parse_topology(args.topology)
  config = stage.parse_config(rest, command="suti plan")
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
  from suti.parallel.estimate import estimate
  from suti.parallel.mesh import make_mesh
  from suti.parallel.preflight import devices, inspect
  from suti.progress import progress

  found = devices(topology)
  mesh = make_mesh(config.mesh, devices=found)
  alone = make_mesh(
    {"expert": 1, "data": 1, "fsdp": 1}, devices=list(found)[:1]
  )
  cache = _cache()
  rows = []
  with tempfile.TemporaryDirectory() as place:
    backbone = describe_backbone(_folder(config, "backbone", Path(place)))
    jobs = _jobs(config, backbone, mesh, alone, Path(place))
    with progress(len(jobs), "compile") as bar:
      for name, size, make in jobs:
        bar.update(0, note=name)
        report_of = _remembering(
          lambda size, make=make: inspect(make(size), topology, cache=cache)
        )
        if search and size is not None:
          size = _largest(report_of, topology) or 1
        program = make(size)
        row = estimate(name, program, report_of(size), topology, assumptions)
        rows.append(row | {"per_device": size})
        bar.update(1, note=name)
  return rows


def _jobs(
  config: Any, backbone: Any, mesh: Any, alone: Any, place: Path
) -> list[tuple[str, int | None, Callable[[Any], Any]]]:
  """(stage, how many of its things a device takes at once, size -> program)."""
  import apprentice.programs
  import experts.programs

  experts_each = _each(config.finetune.experts_per_wave, mesh)
  jobs: dict[str, list[tuple[str, int | None, Callable[[Any], Any]]]] = {
    "finetune": [
      (
        "experts.finetune",
        experts_each,
        lambda size: experts.programs.finetune(
          config, backbone, mesh, per_device=size
        ),
      )
    ],
    "sample": [
      (
        "experts.sample",
        experts_each,
        lambda size: experts.programs.sample(
          config, backbone, mesh, per_device=size
        ),
      )
    ],
    "filter": [
      (
        f"experts.filter {judge}",
        None,
        lambda _, judge=judge: experts.programs.judge(
          config, _folder(config, judge, place), alone
        ),
      )
      for judge in ("clip", "identity")
    ],
    "train": [
      (
        "apprentice.train",
        _each(config.train.batch_size, mesh),
        lambda size: apprentice.programs.train(
          config, backbone, mesh, per_device=size
        ),
      )
    ],
    "apprentice_sample": [
      (
        "apprentice.sample",
        _each(config.apprentice_sample.batch_size, mesh),
        lambda size: apprentice.programs.sample(
          config, backbone, mesh, per_device=size
        ),
      )
    ],
  }
  return [job for name in config.plan.stages for job in jobs[name]]


def _each(num: int, mesh: Any) -> int:
  """A device's share of a config's number, one at least."""
  return max(1, num // mesh.size)


def _largest(report_of: Callable[[int], Any], topology: Any) -> int:
  """The most of a stage's things that fit a device."""
  from suti.parallel.memory import fit_size

  return fit_size(
    lambda size: report_of(size).total_bytes,
    topology.chip.program_bytes,
    most=MOST,
  )


MOST = 4096  # things a device; no stage is quicker a thing with more


def _remembering(function: Callable[[int], Any]) -> Callable[[int], Any]:
  known: dict[int, Any] = {}

  def call(size: int) -> Any:
    if size not in known:
      known[size] = function(size)
    return known[size]

  return call


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
    allow_abbrev=False,
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
