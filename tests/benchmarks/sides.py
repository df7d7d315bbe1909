# SPDX-License-Identifier: Apache-2.0
"""Processes that are measured in turns, and how they answer.

Each side of a comparison is a process of its own, so that neither holds the
other's memory or threads. It gets ready (loads, compiles), says so, and then
answers whenever it is asked, while the others wait. What it measures is its own
business.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


class Side:
  """A process that holds one side of a task, ready to be asked."""

  def __init__(self, arguments: Sequence[str]):
    self.process = subprocess.Popen(
      [sys.executable, "-m", *arguments],
      cwd=ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      # Several processes share the device.
      env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )
    assert self.process.stdin is not None
    assert self.process.stdout is not None
    self._questions, self._answers = self.process.stdin, self.process.stdout

  def make_conditioning(self) -> dict[str, Any]:
    """The next line that it writes; nothing if it has ended."""
    return json.loads(self._answers.readline() or "{}")

  def apply_denoiser(self, what: str) -> dict[str, Any]:
    """Has it do something, and waits; nothing if it has ended."""
    if self.process.poll() is not None:
      return {}
    self._questions.write(what + "\n")
    self._questions.flush()
    return self.tell()

  def end(self) -> None:
    """Frees its memory."""
    self._questions.close()
    self.process.wait()


def answers() -> Callable[..., None]:
  """What a side says things with; its libraries' own prints go to stderr."""
  out = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)

  def say(**values: Any) -> None:
    print(json.dumps(values), file=out, flush=True)

  return say
