# SPDX-License-Identifier: Apache-2.0
"""`suti plan`: planning a TPU run, without a TPU."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suti.cli.parser import Parser, check_file

_DESCRIPTION = """\
Compiles every stage of a config that computes for a slice of TPUs that is not
there, and prints for each whether it fits, what it computes, moves and sends,
and how long it may take. An estimate: nothing is run. Needs libtpu, no TPU.

A slice is named by chip and shape: v4:4x4x8, v5e:4x8, v5p:2x2x2, v6e:1x1.
"""
_EXAMPLES = """\
examples:
  suti plan --config configs/experts/suti_imagen64.py --topology v4:4x4x8
  suti plan --config configs/experts/lora_sd15.py --topology v5e:2x2 --search \\
    --subjects 100000 --config.plan.price_per_chip_hour.v5e=1.0
"""


# Stages that see pictures through the method's encoder.
_APPRENTICES = {"train", "apprentice_sample"}


def plan(argv: Sequence[str]) -> None:
  """Compiles, prints a table, and writes it as JSON with `--json`.

  Raises:
    ValueError: no such slice or config, libtpu is missing, or a config that
      does not fit the slice's devices or its own backbone.
  """
  args, rest = _parser().parse_known_args(list(argv))
  from suti.config import flags, options
  from suti.plan.chips import parse_topology

  topology = parse_topology(args.topology)
  config = flags.parse_config(rest, command="suti plan")
  options.check(config, data=False)
  if args.subjects is not None and args.subjects < 1:
    raise ValueError(f"--subjects={args.subjects}: expected 1 or more.")
  out = check_file(args.json, flag="--json") if args.json else None
  # Nothing here needs an accelerator, and a TPU's may be in use.
  os.environ["JAX_PLATFORMS"] = "cpu"
  from suti.plan.estimate import Assumptions

  assumptions = Assumptions(
    share_of_peak=config.plan.share_of_peak,
    num_subjects=args.subjects or config.plan.num_subjects,
    price=config.plan.price_per_chip_hour.get(topology.chip.kind),
  )
  models, rows = _plan_stages(config, topology, assumptions, search=args.search)
  from suti.cli import plan_table

  print(plan_table.table(models, rows, topology, assumptions))
  if out:
    from suti.io.files import write_json

    write_json(out, plan_table.as_data(models, rows, topology, assumptions))
    print(f"Wrote {out}.")


def _plan_stages(
  config: Any, topology: Any, assumptions: Any, *, search: bool
) -> tuple[list[str], list[dict[str, Any]]]:
  """Compiles one stage after the other.

  Returns: which models were planned, in words, and a row for each stage.
  """
  import tempfile

  from experts.teacher import check_size
  from suti.cli.plan_stages import Setting, make_jobs
  from suti.pipeline.backbone import describe_backbone
  from suti.plan import preflight
  from suti.plan.estimate import estimate
  from suti.runtime.progress import progress

  devices = list(preflight.devices(topology))
  judges = ("clip", "identity") if "filter" in config.plan.stages else ()
  rows = []
  with tempfile.TemporaryDirectory() as place:
    found = {
      field: _find(config[field], config, field, Path(place))
      for field in ("backbone", *judges)
    }
    if "encoder" in config.method and set(config.plan.stages) & _APPRENTICES:
      config = config.copy_and_resolve_references().unlock()
      found["encoder"] = _find(
        config.method.encoder, config, "encoder", Path(place)
      )
      config.method.encoder = str(found["encoder"][0])
    backbone = describe_backbone(found["backbone"][0])
    check_size(backbone, config)
    jobs = make_jobs(
      Setting(
        config=config,
        backbone=backbone,
        judges={field: found[field][0] for field in judges},
        topology=topology,
        devices=devices,
        num_subjects=assumptions.num_subjects,
        search=search,
        inspect=lambda program: preflight.inspect(
          program,
          topology,
          effort=config.plan.effort,
          # Two stages have programs in common.
          cache=_cache() or Path(place) / "plans",
        ),
      )
    )
    with progress(len(jobs), "compile") as bar:
      for stage, compile_stage in jobs:
        bar.update(0, note=stage)
        planned = compile_stage()
        row = estimate(
          stage,
          planned.program,
          planned.report,
          topology,
          assumptions,
          room=planned.room,
        )
        rows.append(
          row | {"per_device": planned.size, "remedy": planned.remedy}
        )
        bar.update(1, note=stage)
  return [words for _, words in found.values()], rows


def _find(name: str, config: Any, field: str, place: Path) -> tuple[Path, str]:
  """A model's own folder, or one of the configs that the plan has of it.

  Returns: the folder, and which model that is, in words.

  Raises:
    ValueError: there is neither.
  """
  from suti.hf.find import find_model
  from suti.io.files import write_json

  published = config.plan[field].to_dict()
  try:
    return find_model(name), f"{field}: {name}"
  except ValueError:
    if not published:
      raise
  if "model_type" in published:
    published = {".": published}
  folder = place / field
  for part, content in published.items():
    file = "scheduler_config" if part == "scheduler" else "config"
    write_json(folder / part / f"{file}.json", content)
  return folder, (
    f"{field}: {name} is not here; what config.plan.{field} describes"
  )


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
