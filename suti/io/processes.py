# SPDX-License-Identifier: Apache-2.0
"""Process names that are unique among all machines that share files."""

import os
import re


def this_process() -> str:
  """The name of this process, unique among machines that share a disk."""
  host = re.sub(r"[^A-Za-z0-9_-]", "_", os.uname().nodename)
  return f"{host}-{os.getpid()}"


def is_dead(process: str) -> bool:
  """Whether a process of `this_process` is known to have ended.

  For one of another machine this is never known.
  """
  host, _, number = process.rpartition("-")
  here = this_process().rpartition("-")[0]
  if host != here or not number.isdigit():
    return False
  try:
    os.kill(int(number), 0)
  except ProcessLookupError:
    return True
  except OSError:  # another user's
    return False
  return False
