# SPDX-License-Identifier: Apache-2.0
"""SIGTERM ends a command with a code and a line, whatever it is doing."""

import signal
import subprocess
import sys

import pytest

_TERMINATED = """
import sys, time
from suti import preemption, stage
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
    # Asleep in C, again and again: the loop never looks at its event.
    "\n  import ctypes"
    "\n  late = lambda: print('given back', flush=True)"
    "\n  with preemption.deferred(grace_s=0.2, at_last=late):"
    f"\n    {_SAY}"
    "\n    while True: ctypes.CDLL(None).sleep(60)"
  ),
}


@pytest.mark.parametrize(
  ("when", "said"),
  [("at once", ""), ("between two steps", "whole\n"), ("too late", "given")],
)
def test_sigterm_has_a_code_and_a_line(tmp_path, root, when, said):
  code = _TERMINATED.format(body=_BODIES[when])
  with subprocess.Popen(
    [
      sys.executable,
      "-c",
      code,
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
  assert process.returncode == 143
  assert out.startswith(said)
  assert err.splitlines() == [
    "Stopped by SIGTERM. Start the same command again and it goes on from here."
  ]
