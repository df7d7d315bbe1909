# SPDX-License-Identifier: Apache-2.0
"""Runs the `suti` command as a shell would, in this process."""

import pytest

from suti import cli


def start(*argv) -> int:
  """Runs `suti ARGV`; returns its exit code."""
  with pytest.raises(SystemExit) as caught:
    cli.main([str(arg) for arg in argv])
  return caught.value.code or 0


def error_of(capsys, *argv) -> str:
  """The one line on stderr of a command that ends with exit code 2.

  What shows progress is not counted.
  """
  capsys.readouterr()
  assert start(*argv) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  lines = [line for line in lines if "ETA" not in line]
  assert len(lines) == 1, lines
  assert len(lines[0]) < 600, "a line that nobody reads"
  return lines[0]
