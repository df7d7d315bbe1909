# SPDX-License-Identifier: Apache-2.0
"""Which layers the patterns of a stranger's LoraConfig are for.

PEFT matches the end of a layer's name, and the first pattern that fits decides.
Most patterns are layers' names and are matched as they are. Any other is a
regular expression that somebody else wrote, for which Python's matcher may need
years, holding every thread: those run in a process of their own, for a few
seconds.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from suti.config.values import shorten

WAIT_S = 10.0
# No model has as many layers, nor names of that length.
_MOST, _LONGEST = 2000, 500
# Without choices and repetitions there is one way to match: no time is lost.
_ONE_WAY = re.compile(r"\^?(\w|-|\.|\\\.)+\$?")

# Reads {"patterns", "names"}; writes a line for each pattern: the numbers of
# the names that fit, or what is wrong with the pattern.
_PROGRAM = """
import json, re, sys
asked = json.load(sys.stdin)
for pattern in asked["patterns"]:
  try:
    match = re.compile(rf"(.*\\.)?({pattern})$").match
    found = [i for i, n in enumerate(asked["names"]) if any(map(match, n))]
  except Exception as error:
    found = " ".join(str(error).split()) or type(error).__name__
  print(json.dumps(found), flush=True)
"""


def first_matches(
  patterns: Sequence[str], names: Sequence[Sequence[str]], *, where: Any
) -> list[int | None]:
  """The first pattern that fits each layer.

  Args:
    patterns: in the order in which they count.
    names: each layer's own.
    where: the file they are from.

  Returns:
    A pattern's number for each layer, or None.

  Raises:
    ValueError: there are too many, one is no pattern, or takes too long.
  """
  again = "correct it, or fetch the file again."
  if len(patterns) > _MOST or any(len(p) > _LONGEST for p in patterns):
    raise ValueError(
      f"alpha_pattern of {where} has {len(patterns)} patterns, of at most "
      f"{max(map(len, patterns))} letters: no model has so many layers ({_MOST}"
      f" at most), nor so long names ({_LONGEST}); {again}"
    )
  plain = [i for i, p in enumerate(patterns) if _ONE_WAY.fullmatch(p)]
  fits = {i: _fitting(patterns[i], names) for i in plain}
  others = [i for i in range(len(patterns)) if i not in fits]
  if others:
    found = _in_a_process([patterns[i] for i in others], names)
    for i, numbers in zip(others, found, strict=False):
      if isinstance(numbers, str):
        raise ValueError(
          f"alpha_pattern of {where} has {shorten(patterns[i])}, which is no "
          f"pattern ({shorten(numbers)}): {again}"
        )
      fits[i] = numbers
    if len(found) < len(others):
      slow = patterns[others[len(found)]]
      raise ValueError(
        f"alpha_pattern of {where} has {shorten(slow)}, which takes more than "
        f"{WAIT_S:g} s to match: write the layers' names instead, or fetch the "
        "file again."
      )
  first: list[int | None] = [None] * len(names)
  for pattern in sorted(fits, reverse=True):
    for name in fits[pattern]:
      first[name] = pattern
  return first


def _fitting(pattern: str, names: Sequence[Sequence[str]]) -> list[int]:
  match = re.compile(rf"(.*\.)?({pattern})$").match
  return [i for i, each in enumerate(names) if any(map(match, each))]


def _in_a_process(
  patterns: Sequence[str], names: Sequence[Sequence[str]]
) -> list[list[int] | str]:
  """Of each pattern the names that fit, or its error; fewer if time is up."""
  asked = json.dumps({"patterns": patterns, "names": names})
  try:
    done = subprocess.run(
      # -I: nothing of the folder we are in is imported.
      [sys.executable, "-I", "-c", _PROGRAM],
      input=asked.encode(),
      capture_output=True,
      timeout=WAIT_S,
      check=False,
    )
    lines = done.stdout
  except subprocess.TimeoutExpired as error:
    lines = error.stdout or b""
  # What is not a whole line was stopped while it was written.
  return [json.loads(line) for line in lines.split(b"\n")[:-1]]
