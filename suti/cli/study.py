# SPDX-License-Identifier: Apache-2.0
"""`suti study`: variants of one config, several seeds, and what they show."""

import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Before the benchmark; the examples are there.
STEPS = (("6/8 train", "apprentice.train"),)

USAGE = """\
usage: suti study --config FILE[:ARG] --workdir DIR [--config.FIELD=VALUE ...]
       suti study --page DIR [DIR ...] --out PAGE

Trains and evaluates an apprentice for each variant and seed of a study, a file
of configs/studies, and writes DIR/page/index.html, anew after each run:
measures with intervals over subjects, differences to one row, curves, pictures.
What is finished in DIR is not done again; a study that was killed goes on where
it was. Examples to learn from are made before, by the stages of `suti run` or
by suti.pretrain.examples.

  --config FILE[:ARG]      such as configs/studies/supervision.py
  --config.run.FIELD=V     another value of a field of all its runs
  --config.seeds=(0,1,2)   other seeds
  --workdir DIR            holds a run's workdir for each variant and seed
  --page DIR [DIR ...]     one page of several studies, in this order
  --out PAGE               where that page goes
"""


def study(argv: Sequence[str]) -> None:
  """Runs a study, or gathers finished ones on a page.

  Raises:
    ValueError: any mistake in the arguments or in a variant, in one line.
  """
  argv = list(argv)
  if any(arg in ("-h", "--help", "-help") for arg in argv):
    print(USAGE, end="")
  elif "--page" in argv:
    _gather(argv)
  else:
    _run(argv)


def _run(argv: Sequence[str]) -> None:
  from suti.cli.run import is_first_host, look_ahead, run_stages
  from suti.config import flags
  from suti.evaluation.findings import METRICS, run_folder
  from suti.evaluation.findings_page import check_out
  from suti.io import parts
  from suti.runtime import locks, xla_flags

  config, workdir = flags.parse(argv)
  runs = list(list_runs(config))
  xla_flags.prepare()
  if not is_first_host():
    return
  with locks.lock(workdir):
    parts.clean_parts(workdir)
    check_out(workdir / "page")
    for name, _, one in runs:
      _explained(name, look_ahead, one, STEPS)
    folders = [run_folder(workdir, name, seed) for name, seed, _ in runs]
    finished = [(folder / METRICS).is_file() for folder in folders]
    for number, (name, seed, one) in enumerate(runs):
      print(
        f"\n=== {name}, seed {seed} ({number + 1} of {len(runs)})", flush=True
      )
      folders[number].mkdir(parents=True, exist_ok=True)
      run_stages(one, folders[number], steps=STEPS)
      # A page for each that is new; of a study that goes on, at the end too.
      if not finished[number] or number + 1 == len(runs):
        finished[number] = True
        there = [run[:2] for run in itertools.compress(runs, finished)]
        _write(config, workdir, there, left=finished.count(False), argv=argv)
  print(f"\nDone: {len(runs)} runs.\nThe page: {workdir / 'page/index.html'}")


def _write(
  config: Any,
  workdir: Path,
  finished: Sequence[tuple[str, int]],
  *,
  left: int,
  argv: Sequence[str],
) -> None:
  """Writes what is found so far, and its page.

  Beside what `read_findings` says there are in the file: how many runs are
  `runs_left`, the reference that is `awaited` or "", and the `command`.
  """
  from suti.evaluation.findings import (
    of_finished,
    read_findings,
    reference_of,
  )
  from suti.evaluation.findings_page import FILE, write_page
  from suti.io.files import write_json

  found = read_findings(of_finished(config, finished), workdir)
  reference = reference_of(config)
  found |= {
    "runs_left": left,
    "awaited": reference if found["reference"] != reference else "",
    "command": shlex.join(["suti", "study", *argv]),
  }
  write_json(workdir / FILE, found)
  write_page([workdir], workdir / "page")


def list_runs(config: Any) -> Iterator[tuple[str, int, Any]]:
  """(variant, seed, config of the run) of all runs, seeds outermost.

  Raises:
    ValueError: not a study's config, or a variant with a mistake.
  """
  from suti.config import options
  from suti.evaluation.findings import MEASURES, reference_of

  for field in ("run", "variants", "order", "seeds", "systems", "measures"):
    if field not in config:
      raise ValueError(
        f"--config has no '{field}': `suti study` takes a file of "
        "configs/studies; `suti run` takes other configs."
      )
  seeds = tuple(config.seeds)
  if not seeds or len(set(seeds)) < len(seeds):
    raise ValueError(
      f"config.seeds={seeds}: expected one or more, each once, as (0, 1)."
    )
  if unknown := [x for x in config.measures if x not in MEASURES]:
    raise ValueError(
      f"config.measures has {unknown[0]!r}: expected some of "
      f"{', '.join(MEASURES)}."
    )
  reference_of(config)
  for seed in config.seeds:
    for name in config.order:
      variant = config.variants[name]
      one = config.run.copy_and_resolve_references().unlock()
      one.seed = seed
      _explained(name, _change, one, variant)
      one.report.title = f"{config.title}: {name}, seed {seed}"
      _explained(name, options.check, one)
      yield name, seed, one.lock()


def _change(config: Any, variant: Any) -> None:
  """Gives a variant's fields to a config."""
  for section, fields in variant.items():
    if section in ("row", "x", "systems"):
      continue
    if section not in config:
      raise ValueError(f"config.run has no section '{section}'.")
    if not hasattr(fields, "items"):
      raise ValueError(
        f"'{section}' is {fields!r}: expected fields of that section; what a "
        "row is called is its 'row'."
      )
    for field, value in fields.items():
      if field not in config[section]:
        raise ValueError(f"config.run.{section} has no field '{field}'.")
      config[section][field] = value


def _explained(name: str, check: Any, *args: Any) -> None:
  """Calls a check; what it raises names the variant too."""
  try:
    check(*args)
  except (ValueError, TypeError) as error:
    raise ValueError(f"Variant '{name}': {error}") from error


def _gather(argv: list[str]) -> None:
  from suti.cli.parser import Parser

  parser = Parser(prog="suti study", description="One page of several studies.")
  parser.add_argument("--page", nargs="+", required=True, metavar="DIR")
  parser.add_argument("--out", required=True, metavar="PAGE")
  args = parser.parse_args(argv)
  from suti.evaluation.findings_page import write_page
  from suti.io.paths import path_of

  out = path_of(args.out)
  write_page([path_of(name) for name in args.page], out)
  print(f"Wrote {out / 'index.html'}.")
