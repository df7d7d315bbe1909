# SPDX-License-Identifier: Apache-2.0
"""How commands read their arguments, and check where they write."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from suti.io.paths import in_bucket, path_of

MAX_NUM = 64  # pictures, on one contact sheet


class Parser(argparse.ArgumentParser):
  """An argument parser whose mistakes are one line.

  Description and examples are printed as they are written. A flag is written
  whole: a new one must not change what a short one means.
  """

  def __init__(self, **options: Any):
    style = argparse.RawDescriptionHelpFormatter
    super().__init__(formatter_class=style, allow_abbrev=False, **options)

  def error(self, message: str) -> NoReturn:
    """Prints the line and exits with 2."""
    print(f"Error: {message} (see {self.prog} --help)", file=sys.stderr)
    sys.exit(2)


def place_of(name: str, *, flag: str = "") -> Path:
  """A folder or file that is read or written, on a disk or in a bucket.

  Raises:
    ValueError: an address of another kind, or links that lead in a circle.
  """
  path = path_of(name)
  try:
    return path.resolve()
  except (RuntimeError, OSError) as error:
    raise ValueError(
      f"{flag and f'{flag}='}{name} is a link that leads nowhere: give the "
      "place itself."
    ) from error


def check_numbers(args: argparse.Namespace) -> None:
  """Refuses numbers, and a prompt, that no model can sample with.

  Args:
    args: of `suti generate`; what is None, the model knows.

  Raises:
    ValueError: one is out of its range, or the prompt is empty.
  """
  if not args.prompt.strip():
    raise ValueError(
      "The prompt is empty: say what to show, e.g. 'a dog in the snow'."
    )
  for name, low, high in (
    ("num", 1, MAX_NUM),
    ("steps", 1, 1000),
    ("seed", 0, 2**32 - MAX_NUM),
    ("guidance", 0, 1000),
    ("text_guidance", 0, 1000),
  ):
    value = getattr(args, name)
    # Not a number is not between any two.
    if value is not None and not low <= value <= high:
      flag = name.replace("_", "-")
      raise ValueError(f"--{flag}={value} must be between {low} and {high}.")


def check_out(name: str) -> Path:
  """The contact sheet's path, before anything is computed."""
  out = Path(name)
  if not out.name:
    raise ValueError(f"--out={name}: give the name of a PNG file.")
  if out.suffix.lower() != ".png":
    raise ValueError(
      f"--out={name}: expected the name of a PNG file; call it "
      f"{out.with_suffix('.png')}."
    )
  return check_file(name, flag="--out")


def check_here(name: str, *, flag: str, what: str = "folder") -> Path:
  """A path of this machine, where a bucket is not written.

  Raises:
    ValueError: it is in a bucket.
  """
  path = path_of(name)
  if in_bucket(path):
    raise ValueError(
      f"{flag}={name} is in a bucket, where this is not written: give a "
      f"{what} of this machine."
    )
  return path


def check_file(name: str, *, flag: str) -> Path:
  """The path of a file to be written, before anything is computed.

  Args:
    name: as it was given.
    flag: by which.

  Raises:
    ValueError: it is a folder, or there can be no folder for it.
  """
  out = check_here(name, flag=flag, what="file")
  if out.is_dir():
    raise ValueError(f"{flag}={name} is a folder: give the name of a file.")
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
      f"{flag}={name}: its folder cannot be made ({error.strerror}): give "
      "another place."
    ) from error
  return out
