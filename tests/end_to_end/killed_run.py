# SPDX-License-Identifier: Apache-2.0
"""`suti run` in a process that kills itself at a named file; run by the tests.

  python killed_run.py FOLDER COUNT --config ... --workdir DIR ...

dies by SIGKILL just before the COUNT-th file below DIR/FOLDER gets its name,
while the half of it that was written still lies there. Of the training log,
which grows line by line, it is the COUNT-th line. COUNT 0 never dies.
"""

import os
import pathlib
import signal
import sys

import suti.cli
import suti.log

FOLDER, COUNT, *ARGUMENTS = sys.argv[1:]
WORKDIR = pathlib.Path(ARGUMENTS[ARGUMENTS.index("--workdir") + 1]).resolve()
left = int(COUNT)


def count_down(path: str) -> None:
  global left
  if pathlib.Path(path).resolve().is_relative_to(WORKDIR / FOLDER):
    left -= 1
    if left == 0:
      os.kill(os.getpid(), signal.SIGKILL)


def watched(rename):
  def rename_and_count(source, target, *args, **kw):
    count_down(os.fspath(target))
    return rename(source, target, *args, **kw)

  return rename_and_count


def main() -> None:
  write = suti.log.Log.write

  def write_line(log, step, scalars):
    count_down(WORKDIR / "log" / str(step))
    return write(log, step, scalars)

  for name in ("link", "rename", "replace"):
    setattr(os, name, watched(getattr(os, name)))
  suti.log.Log.write = write_line
  suti.cli.main(["run", *ARGUMENTS])


if __name__ == "__main__":
  main()
