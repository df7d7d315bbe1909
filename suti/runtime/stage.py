# SPDX-License-Identifier: Apache-2.0
"""The command and the folder of a stage.

`main` turns a stage's `run(config, workdir)` into a command with two flags;
`stage` gives it a folder that records its config and inputs, so that starting a
finished stage again returns immediately; `progress` shows a progress bar
(`suti.runtime.progress`). A stage implements its own resume. JAX is not
imported here: its start-up would delay the error of a wrong command line.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suti.config import flags
from suti.io import files, parts
from suti.io.paths import in_bucket, path_of
from suti.runtime import locks, preemption, xla_flags
from suti.runtime.progress import (
  progress as progress,  # Re-exported for stages.
)
from suti.runtime.progress import span, unseen

if TYPE_CHECKING:
  from suti.runtime import hosts

_OURS = ("suti", "experts", "apprentice")

# Folders of the stages that this command has opened, and their workdirs: a
# stage that fails before it wrote anything must not fix the config of the next.
_opened: dict[Path, Path] = {}


# --- The command -------------------------------------------------------------


def main(
  name: str,
  run: Callable[[Any, Path], Any],
  *,
  how: "hosts.How" = "first",
  argv: Sequence[str] | None = None,
) -> None:
  """Runs a stage as a command and exits: `python -m experts.mine ...`.

  Args:
    name: the stage's module, "experts.mine".
    run: takes the locked config and the workdir.
    how: how several hosts run it, see `suti.runtime.hosts`: "first", "each" or
      "all". With "each", any number of commands may run simultaneously in one
      workdir.
    argv: arguments after the command's name; those of the process if None.
  """
  argv = sys.argv[1:] if argv is None else list(argv)
  if any(arg in ("-h", "--help", "-help") for arg in argv):
    print(_usage(name))
    sys.exit(0)

  def start() -> None:
    config, workdir = flags.parse(argv)
    from suti.config import options

    # A pretraining's config is its model's published one, checked elsewhere.
    if not name.startswith("pretrain."):
      options.check(config)
    elif in_bucket(workdir):
      raise ValueError(
        f"--workdir={workdir}: {name} maps its pictures into memory, from a"
        " disk: give a folder on one."
      )
    xla_flags.prepare()
    with joined(workdir, how=how) as group:
      group.run(lambda: run(config, workdir), how=how)

  sys.exit(guard(start))


@contextlib.contextmanager
def joined(workdir: Path, *, how: "hosts.How") -> Iterator["hosts.Group"]:
  """Locks the workdir, and joins the other processes of this command.

  Only the first of them prints.

  Args:
    workdir: made if there is none.
    how: how the processes run the stage; with "each", the lock is shared with
      other commands of this kind.

  Raises:
    ValueError: another command holds the workdir, or the processes cannot join.
  """
  from suti.runtime import hosts

  @contextlib.contextmanager
  def held() -> Iterator[None]:
    shared = how == "each"
    with locks.lock(workdir, shared=shared):
      parts.clean_parts(workdir, shared=shared)
      try:
        yield
      finally:
        if shared and in_bucket(workdir):
          _opened.clear()  # without a lock, others may be at work

  group = hosts.join(workdir, how=how)
  with contextlib.ExitStack() as stack:
    if not group.first:
      nowhere = stack.enter_context(open(os.devnull, "w"))
      stack.enter_context(contextlib.redirect_stdout(nowhere))
      stack.enter_context(unseen())
    stack.enter_context(group.opened(held))
    yield group


def _usage(name: str) -> str:
  """The text of --help."""
  return (
    f"usage: python -m {name} --config FILE[:ARG] --workdir DIR"
    " [--config.FIELD=VALUE ...]\n\n"
    "  --config FILE           a Python file with get_config(), such as"
    " configs/quickstart.py;\n"
    "                          it is run: read one that is not yours first\n"
    "  --workdir DIR           where every stage reads and writes, or"
    " gs://BUCKET/FOLDER\n"
    "  --config.FIELD=VALUE    another value for one field of the config"
  )


def guard(start: Callable[[], Any], *, resumes: bool = True) -> int:
  """Runs a command and prints errors that the user can fix as one line.

  By the convention of this code base, a ValueError raised in one of our own
  files is a mistake of the user; one from a library is a bug, and keeps its
  traceback, as does every error if SUTI_TRACEBACK is set.

  Args:
    start: the command, without arguments.
    resumes: whether it resumes where it was stopped.

  Returns:
    The exit code: 0, 2 for a mistake, 130 for Ctrl-C, 143 for SIGTERM.
  """
  code = 1
  _opened.clear()
  try:
    code = _guarded(start, resumes=resumes)
  finally:
    # A process that joined no others may not have imported it.
    if hosts := sys.modules.get("suti.runtime.hosts"):
      hosts.end(code)
  return code


def _guarded(start: Callable[[], Any], *, resumes: bool) -> int:
  """The body of `guard`."""
  try:
    with preemption.watched():
      start()
  except KeyboardInterrupt:
    again = " Start the same command again and it goes on from here."
    _say("Stopped." + (again if resumes else " Nothing was written."))
    return 130
  except preemption.TerminatedError:
    stopped = "Stopped by SIGTERM. Nothing was written."
    _say(preemption.LINE if resumes else stopped)
    return preemption.CODE
  except Exception as error:
    _leave_empty_stages()
    if os.environ.get("SUTI_TRACEBACK"):
      raise
    if isinstance(error, ValueError) and _is_ours(error):
      _say(f"Error: {' '.join(str(error).split())}")
      return 2
    if files.is_disk_full(error):
      _say(
        "Error: the disk is full: free some space and start the same command"
        " again, it goes on from what was written."
      )
      return 2
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
      _say(
        "Error: the memory is full: use smaller pictures or batches, or a"
        " narrower dtype."
      )
      return 2
    if isinstance(error, PermissionError) and error.filename:
      _say(
        f"Error: no permission to write or read {error.filename}: change its"
        " owner, or give another --workdir."
      )
      return 2
    raise
  return 0


def _leave_empty_stages() -> None:
  """Forgets the config of stages in whose folder nothing else was written.

  A mistake is mostly corrected by another config, with the same workdir. The
  stages of another command that is running in it are not changed.
  """
  for folder, workdir in _opened.items():
    with contextlib.suppress(ValueError, OSError), locks.lock(workdir):
      if [path.name for path in folder.iterdir()] == ["stage.json"]:
        (folder / "stage.json").unlink()


def _say(line: str) -> None:
  """Prints one line to stderr, below a bar if one is being drawn."""
  print(line, file=sys.stderr, flush=True)


def _is_ours(error: BaseException) -> bool:
  """Whether the file that raised the error is one of this code base."""
  frames = traceback.extract_tb(error.__traceback__)
  root = Path(__file__).resolve().parent.parent.parent
  file = Path(frames[-1].filename).resolve()
  return any(file.is_relative_to(root / package) for package in _OURS)


# --- A stage's folder --------------------------------------------------------


@dataclasses.dataclass(kw_only=True)
class Stage:
  """A stage's folder in a workdir.

  Attributes:
    name: "experts/mine".
    folder: where the stage writes.
    done: the summary of the run that finished it; None if it must run or
      resume.
    record: fields of done.json beside summary and time.
  """

  name: str
  folder: Path
  done: dict[str, Any] | None
  record: dict[str, Any]
  started: float

  def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Writes done.json and prints the stage's one line.

    Args:
      summary: numbers and texts by name, for the line and for the report.

    Returns:
      The summary; where several processes ran the stage, that of the first.
    """
    seconds = round(time.monotonic() - self.started, 3)
    done = {"summary": dict(summary), "seconds": seconds} | self.record
    path = self.folder / "done.json"
    if self.done is not None:  # finished before, and now again
      files.write_json(path, done)
    elif not files.create_json(path, done):
      done = files.read_json(path)
    first: dict[str, Any] = done["summary"]
    self.done = first
    print(f"{self.name}: {_line(first)} ({span(seconds)})", flush=True)
    return first


def stage(
  workdir: str | os.PathLike,
  name: str,
  sections: Mapping[str, Any],
  *,
  reads: Sequence[str] = (),
  during: str | None = None,
  folders: Mapping[str, str | os.PathLike] | None = None,
) -> Stage:
  """Opens a stage's folder; prints a line if it was finished before.

  A stage begins with

    current = stage(workdir, "experts/mine", {"mine": config.mine})
    if current.done is not None:
      return current.done

  and ends with `return current.finish({"clusters": 300})`.

  Args:
    workdir: the workdir.
    name: the folder in it, and the module with dots for slashes.
    sections: the parts of the config on which the result depends, by field
      name; leave out fields that may change without a rerun.
    reads: names of the stages whose files this one reads; they must be
      finished, and must not have been rerun since this one was started.
    during: the one of them that is running now, and does this one's work too.
    folders: models and datasets from outside the workdir, by the field of the
      config that names them; their content must not have changed either.

  Raises:
    ValueError: the folder was made with another config or of other input, or a
      stage in `reads` is not finished.
  """
  workdir = path_of(workdir)
  folder = workdir / name
  # Through JSON, so that tuples and lists compare equal.
  config = json.loads(json.dumps({k: _plain(v) for k, v in sections.items()}))
  inputs = {
    read: _identity(workdir, read, name, finished=read != during)
    for read in reads
  }
  inputs |= {
    field: files.fingerprint(folder)
    for field, folder in (folders or {}).items()
  }
  record = {"config": config, "inputs": inputs}
  done = None
  path = folder / "stage.json"
  # Of several processes that start a stage together, one writes this.
  if path.exists() or not files.create_json(path, record):
    _compare(folder, name, record, files.read_json(path))
    if (folder / "done.json").exists():
      last = files.read_json(folder / "done.json")
      done = last["summary"]
      seconds = span(last["seconds"])
      print(f"{name}: {_line(done)} (finished before, {seconds})", flush=True)
  _opened[folder] = workdir
  return Stage(
    name=name,
    folder=folder,
    done=done,
    record=record,
    started=time.monotonic(),
  )


def _plain(value: Any) -> Any:
  """Turns a ConfigDict into a dict."""
  return value.to_dict() if hasattr(value, "to_dict") else value


def _identity(workdir: Path, read: str, reader: str, *, finished: bool) -> str:
  """A hash of the config and inputs of the run that made a stage's files."""
  path = workdir / read / ("done.json" if finished else "stage.json")
  if not path.exists():
    raise ValueError(
      f"{reader} reads {workdir / read}, which is not finished: run"
      f" python -m {read.replace('/', '.')} first, with the same --config and"
      " --workdir."
    )
  done = files.read_json(path)
  made_of = json.dumps([done["config"], done["inputs"]], sort_keys=True)
  return hashlib.blake2s(made_of.encode(), digest_size=8).hexdigest()


def _compare(
  folder: Path, name: str, now: Mapping[str, Any], then: Mapping[str, Any]
) -> None:
  """Raises unless a folder was started with the same config and input."""
  if found := files.first_difference(then["config"], now["config"], "config"):
    field, old, new = found
    raise ValueError(
      f"{field} was {old} when {name} was run in {folder}, and is {new} now:"
      f" give another --workdir, or delete {folder} to run it anew."
    )
  for read, identity in now["inputs"].items():
    if read not in then["inputs"]:
      raise ValueError(
        f"{folder} was made without {read}: delete it to run {name} anew with"
        " it, or leave the config as it was."
      )
    if then["inputs"][read] != identity:
      what = (
        f"what {read} names has changed"
        if read.startswith("config.")
        else f"{read} was run anew"
      )
      raise ValueError(
        f"{what} after {folder} was made from it: delete {folder} to run it"
        " anew as well."
      )


def _line(summary: Mapping[str, Any]) -> str:
  """{"clusters": 300, "purity": 0.98124} -> "clusters 300, purity 0.9812"."""
  return ", ".join(
    f"{key.replace('_', ' ')} {value:.4g}"
    if isinstance(value, float)
    else f"{key.replace('_', ' ')} {value}"
    for key, value in summary.items()
    if not isinstance(value, (dict, list, tuple))
  )
