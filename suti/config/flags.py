# SPDX-License-Identifier: Apache-2.0
"""Parses `--config FILE --workdir DIR --config.FIELD=VALUE`, for all stages.

Configs are Python files that return a ConfigDict; every mistake in them or on
the command line is a one-line error. A config is code that is executed when it
is read: do not run one from a source that you do not trust. Values are checked
by `suti.config.options`.
"""

import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suti.config.names import REPLACED
from suti.io.paths import in_bucket, path_of


def parse(argv: Sequence[str]) -> tuple[Any, Path]:
  """Reads `--config FILE --workdir DIR --config.a.b=c`.

  Args:
    argv: arguments after the command's name.

  Returns:
    The config, a locked ConfigDict, and the workdir, which need not exist.

  Raises:
    ValueError: any mistake in them, in one line.
  """
  config, rest, workdir = _parse(argv)
  if rest:
    raise ValueError(
      f"Unexpected argument '{rest[0]}': this command takes --config FILE,"
      " --workdir DIR and --config.FIELD=VALUE."
    )
  if config is None:
    raise ValueError(_NO_CONFIG)
  if not workdir:
    raise ValueError(
      "--workdir is missing: give a folder to work in, such as"
      " --workdir runs/quickstart."
    )
  return config, workdir_of(workdir)


def workdir_of(name: str) -> Path:
  """The path of a workdir, which need not exist; its bucket must.

  Raises:
    ValueError: it is not a folder, or its bucket cannot be read.
  """
  try:
    workdir = path_of(name)
  except ValueError as error:
    raise ValueError(
      f"--workdir={name} is no folder: give one on a local disk or, for several"
      " machines, on NFS or as gs://BUCKET/FOLDER."
    ) from error
  if in_bucket(workdir):
    workdir.check()
  return workdir.expanduser()


_NO_CONFIG = (
  "--config is missing: give a config file, such as"
  " --config configs/quickstart.py."
)


def parse_config(argv: Sequence[str], *, command: str) -> Any:
  """Reads `--config FILE --config.a.b=c` of a command without a workdir.

  Args:
    argv: its arguments, without those specific to the command.
    command: its name, for messages.

  Returns:
    The config, locked.

  Raises:
    ValueError: any mistake in them, in one line.
  """
  config, rest, workdir = _parse(argv)
  if rest or workdir:
    raise ValueError(
      f"Unexpected argument '{rest[0] if rest else '--workdir'}': see {command}"
      " --help."
    )
  if config is None:
    raise ValueError(_NO_CONFIG)
  return config


def _parse(argv: Sequence[str]) -> tuple[Any, list[str], str | None]:
  """Reads the flags with new FlagValues, so that a process may do it twice.

  Returns:
    The config or None, positional arguments, the workdir or None.
  """
  from absl import flags
  from ml_collections import config_flags

  values = flags.FlagValues()
  argv = ["suti", *argv]
  path = _config_path(argv)
  _let_configs_import_each_other(path)
  try:
    config_flags.DEFINE_config_file(
      "config", flag_values=values, lock_config=True, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    with warnings.catch_warnings():
      # ml_collections loads the file with a call that Python is retiring.
      warnings.simplefilter("ignore", DeprecationWarning)
      rest = values([arg for arg in argv if not _NONE.fullmatch(arg)])[1:]
    config = values["config"].value
    if config is not None:
      config.lock()  # Also raises the error of a file that could not be read.
      for field in _without_value(argv):
        _set_none(config, field)
    elif path:
      raise ValueError("its get_config returns nothing.")
    return config, rest, values["workdir"].value
  except (AttributeError, KeyError) as error:
    raise ValueError(_unknown_field(argv, path, error)) from error
  except OSError as error:
    raise ValueError(
      f"--config={path} cannot be read: give the path of a Python file with"
      " a get_config function, such as configs/quickstart.py."
    ) from error
  except flags.Error as error:
    raise ValueError(_bad_flag(path, str(error).strip())) from error
  except Exception as error:
    # Any mistake inside a config file; ml_collections puts the whole traceback
    # into the message, of which the last line says what it was.
    text = str(error).strip() or type(error).__name__
    raise ValueError(
      f"--config={path} failed: {text.splitlines()[-1]}"
    ) from error


# A field that is left without a value: of a number ml_collections would say
# that it is none, of a text it would take the word.
_NONE = re.compile(r"--?config\.([\w.]+)=None")


def _without_value(argv: Sequence[str]) -> list[str]:
  """The fields that `--config.FIELD=None` is the last word on."""
  given = {}
  for arg in argv:
    if found := re.match(r"--?config\.([\w.]+)=", arg):
      given[found[1]] = bool(_NONE.fullmatch(arg))
  return [field for field, is_none in given.items() if is_none]


def _set_none(config: Any, field: str) -> None:
  """Takes a field's value away, whatever its type.

  Raises:
    KeyError: there is no such field.
  """
  *sections, name = field.split(".")
  section = config
  for each in sections:
    section = section[each]
    if not hasattr(section, "ignore_type"):
      raise KeyError(f"lookup: {field}")  # below a value there are no fields
  section[name]  # raises as any other field that is not there
  with config.unlocked(), section.ignore_type():
    section[name] = None


def _bad_flag(path: str, text: str) -> str:
  """Translates an error of absl about a flag."""
  if "parsing config file" in text:
    return f"--config={path} failed: {text.splitlines()[-1]}"
  flag, _, reason = text.removeprefix("flag ").partition(": ")
  if "literal for int" in reason:
    reason = "a whole number is expected."
  elif "string to float" in reason:
    reason = "a number is expected."
  elif "Non-boolean argument" in reason:
    reason = "True or False is expected."
  return f"{flag}: {reason}" if reason else f"{flag} (see --help)"


def _let_configs_import_each_other(path: str) -> None:
  """Makes `from configs import quickstart` work from any folder.

  Last in sys.path, not first: another file beside the folder of configs, such
  as a `jax.py`, must not shadow an installed package.
  """
  folders = Path(path.partition(":")[0]).resolve().parents
  beside = [str(f.parent) for f in folders if f.name == "configs"]
  sys.path += [folder for folder in beside if folder not in sys.path]


def _config_path(argv: Sequence[str]) -> str:
  """Finds the value of --config, for messages."""
  for index, arg in enumerate(argv):
    flag, equals, value = arg.lstrip("-").partition("=")
    if flag == "config" and arg.startswith("-"):
      return value if equals else "".join(argv[index + 1 : index + 2])
  return ""


def _unknown_field(argv: Sequence[str], path: str, error: Exception) -> str:
  """The error message of a name that is not there.

  That of an override, of a field that the config lacks; or of anything inside
  of the config file.
  """
  kind = type(error).__name__
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  text = str(error.args[0]) if error.args else ""
  hint = re.search(r"Did you mean .*", text)
  # Below a value there are no fields: "... lookup: train.num_steps.x".
  below = re.search(r"lookup: (\S+)", text)
  name = re.search(r"\w+", text)
  for arg in argv:
    field = arg.lstrip("-").removeprefix("no").partition("=")[0]
    if not field.startswith("config."):
      continue
    if (
      field == f"config.{below[1]}"
      if below
      else (name and name[0] in field.split("."))
    ):
      remedy = hint[0].rstrip("'") if hint else "See the file for its fields."
      if field in REPLACED:
        remedy = f"Did you mean config.filter.rule? {REPLACED[field]}."
      return f"--{field}: {path} has no such field. {remedy}"
  # What ml_collections says after that is the whole section.
  what = text.partition(" and cannot be added")[0].strip() or "no text"
  more = f". {hint[0]}" if hint else ""
  return f"--config={path} failed: {kind}: {what.splitlines()[0]}{more}"
