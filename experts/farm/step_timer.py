# SPDX-License-Identifier: Apache-2.0
"""Step times per expert, without compilation."""

import time


class StepTimer:
  """Times the steps of a process, wave after wave.

  Attributes:
    compiled: whether the program has run, so that later steps can be timed.
    seconds: of a step, divided by its experts, one for each lap of the wave.
  """

  def __init__(self) -> None:
    self.compiled = False
    self.seconds: list[float] = []

  def start(self, step: int) -> None:
    """Starts the clock: a wave starts or resumes at a step."""
    self.seconds = []
    self._step, self._began = step, time.monotonic()

  def lap(self, step: int, *, num: int) -> float | None:
    """Takes a lap time: the devices have finished all steps before `step`.

    Args:
      step: of the wave.
      num: experts that share the time.

    Returns: seconds of a step and expert since the last lap; None if the
      program was compiled in them.
    """
    now = time.monotonic()
    each = None
    if self.compiled:
      each = (now - self._began) / ((step - self._step) * num)
      self.seconds.append(each)
    self._step, self._began, self.compiled = step, now, True
    return each
