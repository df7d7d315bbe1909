# SPDX-License-Identifier: Apache-2.0
"""Times experts that stop early: waves of places, and turns in the same places.

  python -m tests.benchmarks.time_refill [--config.finetune.FIELD=VALUE ...]

Not a test: a machine at work on something else decides the seconds; the steps
follow from the losses alone. The same subjects of SubjectWorld are tuned by
`experts.finetune` as low-rank experts, in as many waves as there are turns,
then in one wave that takes these turns. Printed are the steps that the devices
took, those that they would have taken were no place ever empty, and the seconds
after the first step, which compiles.
"""

import pathlib
import sys
import tempfile
import time

import jax

from experts import finetune, mine, prompts
from experts.farm import train_step
from suti.config import flags
from suti.io.files import read_json

ROOT = pathlib.Path(__file__).parent.parent.parent
PLACES, TURNS = 8, 4
FIELDS = {
  "mine.num_pages": 56,  # some are no subjects
  "finetune.num_clusters": PLACES * TURNS,
  "finetune.num_steps": 120,
  "finetune.batch_size": 1,
  "finetune.stop_window": 15,
  "finetune.log_every": 5,
  "finetune.sample_after_tuning": False,
}


def main() -> None:
  """Prints one line for each way."""
  given = [f"--config.{name}={value}" for name, value in FIELDS.items()]
  config = flags.parse_config(
    [
      f"--config={ROOT / 'configs/experts/lora_world.py'}",
      *given,
      *sys.argv[1:],
    ],
    command="time_refill",
  )
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for stage in (mine, prompts):
      stage.run(config, folder / "data")
    for title, turns in (("waves", 1), (f"{TURNS} turns", TURNS)):
      workdir = folder / str(turns)
      workdir.mkdir()
      (workdir / "experts").mkdir()
      for stage in ("mine", "prompts"):
        (workdir / "experts" / stage).symlink_to(
          folder / "data/experts" / stage
        )
      changed = config.copy_and_resolve_references().unlock()
      changed.finetune.update(
        experts_per_slot=turns, experts_per_wave=PLACES * turns
      )
      print(f"{title}: {measure(changed.lock(), workdir)}", flush=True)


def measure(config, workdir: pathlib.Path) -> str:
  """Runs the stage; returns a line."""
  times: list[float] = []
  make_step = train_step.make_step

  def watched(*args):
    step = make_step(*args)

    def step_and_look(*inputs):
      state = step(*inputs)
      if not times:
        jax.block_until_ready(state)
      times.append(time.monotonic())
      return state

    return step_and_look

  train_step.make_step = watched
  try:
    finetune.run(config, workdir)
  finally:
    train_step.make_step = make_step
  seconds = time.monotonic() - times[0]
  records = [
    read_json(path)
    for path in sorted((workdir / "experts/finetune").glob("wave-*.json"))
  ]
  steps = [e["steps"] for record in records for e in record["experts"]]
  return (
    f"{len(steps)} experts of {min(steps)} to {max(steps)} steps in "
    f"{len(times)} steps of {PLACES} places ({sum(steps) / PLACES:.0f} needed),"
    f" {seconds:.1f} s"
  )


if __name__ == "__main__":
  main()
