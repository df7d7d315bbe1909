# SPDX-License-Identifier: Apache-2.0
"""SIGTERM ends a command with a code and a line, whatever it is doing."""

import signal
import subprocess
import sys

import pytest

from suti.runtime import preemption

_TERMINATED = """
import sys, time
from suti.runtime import preemption, stage
def run(config, workdir):
  {body}
stage.main("experts.mine", run)
"""
_SAY = "print('running', flush=True)"
_BODIES = {
  "at once": f"{_SAY}; time.sleep(60)",
  "between two steps": (
    "\n  with preemption.deferred(grace_s=60, at_last=None) as stop:"
    f"\n    {_SAY}; stop.wait(60); print('whole', flush=True)"
  ),
  "too late": (
    # Asleep in C, again and again: the loop never checks its event.
    "\n  import ctypes"
    "\n  late = lambda: print('given back', flush=True)"
    "\n  with preemption.deferred(grace_s=0.2, at_last=late):"
    f"\n    {_SAY}"
    "\n    while True: ctypes.CDLL(None).sleep(60)"
  ),
}


def terminate(body, tmp_path, root):
  """Sends SIGTERM to a stage that does something: (code, stdout, stderr)."""
  with subprocess.Popen(
    [
      sys.executable,
      "-c",
      _TERMINATED.format(body=body),
      "--config=configs/quickstart.py",
      f"--workdir={tmp_path}",
    ],
    cwd=root,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
  return process.returncode, out, err.splitlines()


@pytest.mark.parametrize(
  ("when", "said"),
  [("at once", ""), ("between two steps", "whole\n"), ("too late", "given")],
)
def test_sigterm_has_a_code_and_a_line(tmp_path, root, when, said):
  code, out, err = terminate(_BODIES[when], tmp_path, root)
  assert code == 143
  assert out.startswith(said)
  assert err == [preemption.LINE]


def test_one_that_python_ignores_is_not_lost(tmp_path, root):
  body = (
    "\n  class Slow:"
    f"\n    def __del__(self): {_SAY}; time.sleep(60)"
    "\n  Slow(); time.sleep(60)"
  )
  code, _, err = terminate(body, tmp_path, root)
  assert code == 143
  assert err[0].startswith("Exception ignored in")
  assert err[-1] == preemption.LINE
