# SPDX-License-Identifier: Apache-2.0
"""The `suti` command: short entry points for users.

One file a command. It reads arguments and calls a stage: nothing is computed
here. Each import stands where it is needed, so that help and mistakes cost no
start-up.
"""

import sys
from collections.abc import Sequence

DESCRIPTION = """\
Subject-driven text-to-image generation by apprenticeship learning, in JAX.

commands:
  run        the whole loop: mine, finetune, sample, filter, pack, train,
             sample, evaluate, and a report
  study      variants of one config, several seeds, and what they show
  generate   pictures of a subject, given as pictures, in a scene given as text;
             or a text alone, with a published text-to-image model
  demo       the same in a browser: drop pictures, type, see
  evaluate   scores of any model's pictures by DreamBench's protocol
  report     evaluations side by side on one page
  judge      a language model, or SubjectWorld's judge, on an evaluation
  rate       people rate pictures in a browser, blind
  push       a run's model or data to the Hugging Face hub, with a card
  plan       memory, time and cost of a config on a TPU slice, without one
  status     progress of the workers of a farm
  convert    check a published model and write it anew; take an expert out of a
             run as a LoRA that other tools open

suti COMMAND --help says more. Each stage is also a command of its own, such as
python -m experts.mine, with the arguments of `suti run`.
"""

COMMANDS = (
  "run",
  "study",
  "generate",
  "demo",
  "evaluate",
  "report",
  "judge",
  "rate",
  "push",
  "plan",
  "status",
  "convert",
)
_RESUMES = ("run", "study", "evaluate", "judge", "rate")


def main(argv: Sequence[str] | None = None) -> None:
  """Runs a command and exits.

  Args:
    argv: arguments after `suti`; those of the process if None.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
  if command in ("-h", "--help", "help"):
    print(f"usage: suti COMMAND ...\n\n{DESCRIPTION}", end="")
    sys.exit(0)
  if command not in COMMANDS:
    from suti.config.names import suggest

    hint = suggest(command, COMMANDS) or f" There are {', '.join(COMMANDS)}."
    print(f"Error: no command '{command}'.{hint}", file=sys.stderr)
    sys.exit(2)
  import importlib

  from suti.runtime import stage

  module = importlib.import_module(f"suti.cli.{command}")
  start = getattr(module, command)
  sys.exit(stage.guard(lambda: start(rest), resumes=command in _RESUMES))
