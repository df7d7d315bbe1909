# SPDX-License-Identifier: Apache-2.0
"""Times of Karras' noise levels, by the publisher's code, for all step counts.

  python -m tests.goldens.karras_cases

with the extra `parity` (torch, diffusers) writes `karras.json.gz`. The two
solvers name whole steps, which one rounding decides; Euler's lie between two.
"""

import gzip
import json
import pathlib
from typing import Any

FILE = pathlib.Path(__file__).parent / "karras.json.gz"
NUM_STEPS = range(2, 101)
_SCHEDULES = {
  "scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012},
  "linear": {"beta_start": 1e-4, "beta_end": 0.02},
  "squaredcos_cap_v2": {},
}
_CLASSES = (
  "DPMSolverMultistepScheduler",
  "UniPCMultistepScheduler",
  "EulerDiscreteScheduler",
)
CASES = tuple(f"{c} {s}" for c in _CLASSES for s in _SCHEDULES)


def config(case: str) -> dict[str, Any]:
  """The scheduler config of a case."""
  name, schedule = case.split()
  return _SCHEDULES[schedule] | {
    "_class_name": name,
    "beta_schedule": schedule,
    "num_train_timesteps": 1000,
    "use_karras_sigmas": True,
  }


def atol(case: str) -> float:
  """Of whole steps none; of Euler's, a few units of float32, and what is cut.

  A float32 of 1000 has steps of 6e-5, which the interpolation between flat
  logarithms of cosine widens: 0.0065 was the most seen, with one processor's
  torch and NumPy. The file has two digits.
  """
  return 0.01 if case.startswith("Euler") else 0


def stored() -> dict[str, list[list[float]]]:
  """What was written, a list of times for each of `NUM_STEPS`."""
  return json.loads(gzip.decompress(FILE.read_bytes()))


def theirs(scheduler_config: dict[str, Any], num_steps: int) -> list[float]:
  """The times that the publisher's scheduler names to the net."""
  import diffusers

  kind = getattr(diffusers, scheduler_config["_class_name"])
  scheduler = kind.from_config(scheduler_config)
  scheduler.set_timesteps(num_steps)
  return scheduler.timesteps.tolist()


def main() -> None:
  """Writes the times of all cases."""
  times = {
    case: [
      [round(t, 2) for t in theirs(config(case), num)] for num in NUM_STEPS
    ]
    for case in CASES
  }
  text = json.dumps(times, separators=(",", ":"))
  FILE.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
  main()
