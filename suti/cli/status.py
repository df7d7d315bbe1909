# SPDX-License-Identifier: Apache-2.0
"""`suti status`: progress of the workers of a farm, from any machine."""

import sys
from collections.abc import Sequence

from suti.cli.parser import Parser
from suti.config.flags import workdir_of

_DESCRIPTION = """\
Shows the progress of the workers of experts.finetune in a workdir: waves that
are done, experts an hour, quarantined ones, time of a step, memory, and which
worker has which wave. It only reads their files.
"""
_EXAMPLES = """\
examples:
  suti status runs/quickstart
  watch suti status runs/quickstart
"""


def status(argv: Sequence[str]) -> None:
  """Prints the farm in one line, and a row for each wave at work.

  Raises:
    ValueError: no farm was started in the workdir.
  """
  parser = Parser(
    prog="suti status", description=_DESCRIPTION, epilog=_EXAMPLES
  )
  parser.add_argument("workdir", metavar="WORKDIR")
  args = parser.parse_args(list(argv))
  workdir = workdir_of(args.workdir)
  folder = workdir / "experts" / "finetune"
  if not (folder / "stage.json").exists():
    raise ValueError(
      f"{args.workdir} has no experts/finetune: give the --workdir of a farm "
      "that was started."
    )
  from experts.farm import monitor
  from experts.farm.wave_files import count_experts
  from experts.farm.work_queue import finished
  from suti.io.files import read_json
  from suti.runtime.leases import Leases

  tune = read_json(folder / "stage.json")["config"]["finetune"]
  done = finished(folder)
  held = Leases(folder / "leases", lease_s=1.0).holders()
  held = {wave: worker for wave, worker in held.items() if wave not in done}
  lines, unread = monitor.read_lines(folder)
  for worker in sorted(unread):
    print(monitor.unread_log(folder, worker), file=sys.stderr)
  counts = [count_experts(folder, wave) for wave in done]
  num = max([len(counts), *(int(x.get("waves", 0)) for x in lines.values())])
  print(monitor.total(lines, held.values(), counts=counts, num_waves=num))
  num_steps = tune["num_steps"] * tune["experts_per_slot"]
  for row in monitor.table(lines, held, num_steps=num_steps):
    print(row)
