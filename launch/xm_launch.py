# SPDX-License-Identifier: Apache-2.0
"""All stages as one XManager experiment: here, on Vertex AI, or on Kubernetes.

  python launch/xm_launch.py --config configs/quickstart.py:tiny \
    --workdir runs/xm --slices 2
  python launch/xm_launch.py --config configs/experts/suti_imagen64.py:TABLE \
    --workdir /mnt/nfs/suti/run --slices 8 --tpu v4-128 --executor kubernetes \
    --image IMAGE --nfs 10.0.0.2:/share --dry-run

The workdir may lie in a bucket instead (gs://BUCKET/FOLDER): then no disk is
mounted, and the jobs' service account reads and writes there.

`experts.finetune` and `experts.sample` are work units of each slice: slices
share the workdir and lease its waves, and never talk to each other. What comes
before, between and after them is one unit each, labels too where the config
asks for them; `apprentice.train` takes all hosts of a slice. A unit begins when
those before it have ended. Start the same command again after anything: what is
finished is not run again.

The local executor needs no container; where this machine has one accelerator,
one slice is all that can use it. XManager's own specs for TPUs end where
its clients do: Vertex knows v2 and v3, and its Kubernetes jobs request no TPU
at all. The specs here are made for today's types and sent by XManager;
`--dry-run` prints them. Nothing of ours is imported.
"""

import argparse
import asyncio
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from xm_clouds import Kubernetes, Vertex, message_of
from xm_specs import SHARED, Unit, fail, parse_tpu

# (name, module and its arguments, whether each slice runs one), in this order.
# The config says which stages there are, and is not read here: `suti run` is
# told where to stop, and finds what is above it finished.
UNITS = (
  ("prepare", ("suti.cli", "run", "--until", "experts.prompts"), False),
  ("finetune", ("experts.finetune",), True),
  ("sample", ("experts.sample",), True),
  ("pack", ("suti.cli", "run", "--until", "experts.pack"), False),
  ("train", ("apprentice.train",), False),
  # The benchmark and the report.
  ("report", ("suti.cli", "run"), False),
)


# --- The experiment -----------------------------------------------------------


def plan(options: argparse.Namespace, overrides: Sequence[str]) -> list[list]:
  """The work units: those of a row run together, rows one after the other."""
  flags = ("--config", options.config, "--workdir", options.workdir)
  rows = []
  for name, command, every_slice in UNITS:
    args = ("-m", *command, *flags, *overrides)
    count = options.slices if every_slice else 1
    names = [f"{name}-{i}" if count > 1 else name for i in range(count)]
    rows.append([Unit(name=each, args=args) for each in names])
  return rows


def read_arguments(
  argv: Sequence[str],
) -> tuple[argparse.Namespace, list[str], list[str]]:
  """Ours, overrides of the config, and XManager's own (--xm_...)."""
  parser = argparse.ArgumentParser(
    prog="xm_launch.py",
    description="All stages as one XManager experiment.",
    epilog="--config.FIELD=VALUE gives a field of the config another value;"
    " --xm_... are XManager's own flags.",
    allow_abbrev=False,
  )
  parser.error = lambda message: fail(f"{message} (see --help).")  # type: ignore[method-assign]
  parser.add_argument("--config", required=True, metavar="FILE[:ARG]")
  parser.add_argument(
    "--workdir",
    required=True,
    metavar="DIR",
    help="seen by all slices: on a disk, or gs://BUCKET/FOLDER",
  )
  parser.add_argument(
    "--slices", type=int, default=1, metavar="N", help="that tune experts"
  )
  parser.add_argument(
    "--tpu", metavar="TYPE", help="of each slice: v4-128, v5e-16, v6e-8, ..."
  )
  parser.add_argument(
    "--executor", choices=("local", "vertex", "kubernetes"), default="local"
  )
  parser.add_argument(
    "--image", help="a container made by launch/Dockerfile (not for local)"
  )
  parser.add_argument(
    "--nfs",
    metavar="SERVER:/PATH",
    help=f"disk of all slices, which have it as {SHARED} (not for local)",
  )
  parser.add_argument(
    "--network", help="that leads to the disk, in full (for vertex)"
  )
  parser.add_argument("--spot", action="store_true", help="preemptible slices")
  parser.add_argument("--name", default="suti", help="of the experiment")
  parser.add_argument(
    "--dry-run", action="store_true", help="print what would be sent"
  )
  options, rest = parser.parse_known_args(argv)
  overrides = [arg for arg in rest if re.match(r"--(no)?config\.", arg)]
  xm_flags = [arg for arg in rest if re.match(r"--(no)?xm_", arg)]
  for arg in rest:
    if arg not in (*overrides, *xm_flags):
      fail(f"unknown argument '{arg}' (see --help).")
  for arg in overrides:
    if "=" not in arg and not arg.startswith("--noconfig"):
      fail(f"{arg}: write {arg}=VALUE.")
  _check(options)
  return options, overrides, xm_flags


def _check(options: argparse.Namespace) -> None:
  """Refuses what cannot be run, before XManager is loaded."""
  if options.slices < 1:
    fail(f"--slices={options.slices}: 1 or more are expected.")
  # A Service's name has 63 at most, and ours end in -finetune-N and in the 13
  # digits of the experiment.
  if not re.fullmatch(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?", options.name):
    fail(
      f"--name={options.name}: lower-case letters, digits and dashes are"
      " expected, a letter first, 32 at most."
    )
  if options.executor == "local":
    for flag in ("tpu", "image", "nfs", "network"):
      if getattr(options, flag):
        fail(
          f"--{flag} with --executor local, which runs on this machine: give"
          " --executor vertex or kubernetes."
        )
    return
  in_bucket = options.workdir.startswith("gs://")
  disk = ("nfs", "network") if options.executor == "vertex" else ("nfs",)
  for flag in ("tpu", "image", *(() if in_bucket else disk)):
    if not getattr(options, flag):
      fail(f"--executor {options.executor} needs --{flag}.")
  tpu = parse_tpu(options.tpu)
  if options.executor == "vertex":
    if tpu.generation.vertex is None:
      fail(
        f"--tpu={options.tpu}: Vertex AI trains on v2, v3, v5e and v6e alone:"
        " give one of them, or --executor kubernetes."
      )
  elif tpu.generation.gke is None:
    fail(
      f"--tpu={options.tpu}: on Kubernetes v4, v5e, v5p and v6e are supported."
    )
  if in_bucket:
    if options.nfs:
      fail(f"--nfs with --workdir={options.workdir}: give one of them.")
    return
  if not re.fullmatch(r"[^:/]+:/.*", options.nfs):
    fail(f"--nfs={options.nfs}: expected is SERVER:/PATH.")
  if not options.workdir.startswith(f"{SHARED}/"):
    fail(
      f"--workdir={options.workdir}: a folder of the disk that all slices see"
      f" is expected, such as {SHARED}/run."
    )


# --- XManager -----------------------------------------------------------------


class Here:
  """Runs work units on this machine."""

  errors = ()

  def __init__(self, options: argparse.Namespace) -> None:
    """Runs nothing yet."""
    from xmanager import xm_local

    self.executor = xm_local.Local()

  def executable(self, experiment: Any) -> Any:
    """This Python."""
    from xmanager import xm, xm_local

    python = xm.Binary(path=sys.executable)
    wanted = xm.Packageable(
      executable_spec=python, executor_spec=xm_local.Local.Spec()
    )
    return experiment.package([wanted])[0]

  def show(self, rows: Sequence[Sequence[Unit]]) -> str:
    """What would be run; a line that ends in & does not wait."""
    lines = []
    for row in rows:
      tail = " &" if len(row) > 1 else ""
      lines += [shlex.join((sys.executable, *u.args)) + tail for u in row]
      lines += ["wait"] if tail else []
    return "\n".join(lines)

  def register(self, units: Mapping[str, Unit]) -> None:
    """XManager's own launcher does."""


async def launch(
  options: argparse.Namespace, launcher: Any, rows: Sequence[Sequence[Unit]]
) -> None:
  """Runs the rows one after the other, as one experiment.

  Raises:
    ExperimentUnitFailedError: of XManager; nothing is begun after it.
  """
  from xmanager import xm, xm_local

  launcher.register({unit.name: unit for row in rows for unit in row})
  async with xm_local.create_experiment(options.name) as experiment:
    executable = launcher.executable(experiment)
    for row in rows:
      print(f"[{', '.join(unit.name for unit in row)}]", flush=True)
      added = [
        await experiment.add(
          xm.Job(
            executable,
            launcher.executor,
            args=list(unit.args),
            name=unit.name,
          )
        )
        for unit in row
      ]
      await asyncio.gather(*(unit.wait_until_complete() for unit in added))


def main(argv: Sequence[str]) -> None:
  """Plans, then shows or launches."""
  options, overrides, xm_flags = read_arguments(argv)
  if importlib.util.find_spec("xmanager") is None:
    fail("xmanager is not installed: pip install -e '.[xm]'.")
  from absl import flags, logging
  from xmanager import xm

  try:
    flags.FLAGS(["xm_launch.py", *xm_flags])
  except flags.Error as error:
    fail(str(error))
  # XManager logs the traceback of each error, and raises it too.
  logging.set_verbosity(logging.FATAL)
  rows = plan(options, overrides)
  kinds = {"local": Here, "vertex": Vertex, "kubernetes": Kubernetes}
  launcher = kinds[options.executor](options)
  if options.dry_run:
    print(launcher.show(rows))
    return
  try:
    asyncio.run(launch(options, launcher, rows))
  except (xm.ExperimentUnitError, *launcher.errors) as error:
    if os.environ.get("SUTI_TRACEBACK"):
      raise
    line, again = message_of(error).rstrip("."), "start the same command again"
    if not isinstance(error, xm.ExperimentUnitFailedError):
      fail(f"--executor={options.executor}: {line}. Mend it, then {again}.")
    print(
      f"Error: a stage failed ({line}), see above: mend it, then {again}, and"
      " it goes on from there.",
      file=sys.stderr,
    )
    sys.exit(1)


if __name__ == "__main__":
  main(sys.argv[1:])
