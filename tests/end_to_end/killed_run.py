# SPDX-License-Identifier: Apache-2.0
"""`suti run` in processes that kill themselves at named files; run by tests.

  python killed_run.py DEATHS --config ... --workdir DIR ...

DEATHS is JSON: [[FOLDER, COUNT], ...]. Each is a run that dies by SIGKILL just
before the COUNT-th file below DIR/FOLDER gets its name, while the half of it
that was written still lies there. Of the training log, which grows line by
line, it is the COUNT-th line. A last run goes to the end, and its exit code is
this process's. All are forked from one process, which has paid for the imports
and touches no device.
"""

import contextlib
import importlib
import json
import os
import pathlib
import signal
import sys
import warnings

import suti.cli
import suti.runtime.log
from tests.extensions.found import extended

IMPORTED = ("apprentice.train", "apprentice.evaluate", "experts.finetune")
# Set where the run is to find tests/extensions.
EXTENDED = "SUTI_TESTS_EXTENDED"
DEATHS, *ARGUMENTS = sys.argv[1:]
WORKDIR = pathlib.Path(ARGUMENTS[ARGUMENTS.index("--workdir") + 1]).resolve()


def die_at(folder: str, count: int) -> None:
  """Makes this process kill itself at a file."""
  left = count

  def count_down(path: str | os.PathLike) -> None:
    nonlocal left
    if pathlib.Path(path).resolve().is_relative_to(WORKDIR / folder):
      left -= 1
      if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

  def watched(rename):
    def rename_and_count(source, target, *args, **kw):
      count_down(target)
      return rename(source, target, *args, **kw)

    return rename_and_count

  write = suti.runtime.log.Log.write

  def write_line(log, step, scalars, **kw):
    if kw.get("timed", True):  # a line of steps, not of the validation
      count_down(WORKDIR / "log" / str(step))
    return write(log, step, scalars, **kw)

  for name in ("link", "rename", "replace"):
    setattr(os, name, watched(getattr(os, name)))
  suti.runtime.log.Log.write = write_line


def run(*death) -> int:
  """Forks a run; its exit code."""
  with warnings.catch_warnings():
    # JAX has started nothing yet that a fork could lose.
    warnings.simplefilter("ignore", RuntimeWarning)
    process = os.fork()
  if process == 0:
    if death:
      die_at(*death)
    suti.cli.main(["run", *ARGUMENTS])
  _, status = os.waitpid(process, 0)
  return os.waitstatus_to_exitcode(status)


def main() -> None:
  deaths = json.loads(DEATHS)
  for name in IMPORTED if deaths else ():
    importlib.import_module(name)
  for death in deaths:
    code = run(*death)
    assert code == -signal.SIGKILL, (death, code)
  sys.exit(run())


if __name__ == "__main__":
  with extended() if EXTENDED in os.environ else contextlib.nullcontext():
    main()
