# SPDX-License-Identifier: Apache-2.0
"""The farm beside one expert at a time, and beside diffusers' recipe in torch.

  python -m tests.benchmarks.time_farm [--model world] [--experts 1,2,4,8]
  python -m tests.benchmarks.time_farm --teacher dreambooth
  python -m tests.benchmarks.time_farm --model sd15 --latent 32 --experts 1,2 \
    --batch 1 --steps 2 --rounds 1 --beside 1
  python -m tests.benchmarks.time_farm --model sd15 --device gpu \
    --dtype bfloat16 --compile default --peak-tflops 989

needs the extra `parity`. The model is SubjectWorld's shipped U-Net (`world`) or
Stable Diffusion 1.5's, at its true size with random weights (`sd15`), read by
all sides from one published file. Compared are

  farm E    the shipped step (`experts.farm.train_step`) on E experts at once; E
  = 1 is
            our own experts one at a time
  recipe    what diffusers' example train_dreambooth_lora.py does with a
            subject, one after the other: peft's LoRA on to_q, to_k, to_v and
            to_out.0, AdamW, clipped gradients; of `--teacher dreambooth` what
            train_dreambooth.py does: all weights
  compiled  (`--compile MODE`) the same through torch.compile

Pictures, texts, rank, rate, batch and steps are the same. Latents and states of
texts are handed to both, which spares the recipe an autoencoder in each step;
its subjects get their fresh weights in place, which spares it loading and
compiling anew. In bfloat16 the recipe has frozen weights of bfloat16, LoRA of
float32 and autocast, as its `--mixed_precision bf16`. TF32 is allowed to both.

First all take the same steps, on the same pictures, noise and weights; losses
that do not agree end in an error. Then they take turns, each a process of its
own (`sides.py`), `--beside` of them at a time. Printed are medians of a step;
losses are fetched as both loops do, the recipe's at each step, ours at each
tenth (`config.finetune.log_every`). Experts an hour count 500 steps, SuTI's
number, and the time to begin an expert; compiling, once a run, is not counted.
Rates and shares of the peak count the operations of the recipe for all sides,
one pass forward and backward, by torch's counter.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.sides import ROOT, Side
from tests.benchmarks.tuning import ours, recipe
from tests.benchmarks.tuning.task import STEPS_OF_AN_EXPERT

# Of the loss of the first step, and of the later ones, relative. Adam's first
# updates are signs: where a gradient is almost 0 rounding decides, so that with
# all weights tuned torch.compile differs from torch by 3e-3 in float32.
TOLERANCE = {
  ("lora", "float32"): (1e-4, 1e-3),
  ("dreambooth", "float32"): (1e-4, 1e-2),
  ("lora", "bfloat16"): (1e-2, 5e-2),
  ("dreambooth", "bfloat16"): (1e-2, 5e-2),
}
SIDES = {
  "weights": recipe.write_weights,
  "draws": ours.write_draws,
  "farm": ours.run,
  "recipe": recipe.run,
  "compiled": recipe.run,
}


def main() -> None:
  """Compares all sides, or is one of them in a process of its own."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add = parser.add_argument
  add("--model", choices=("world", "sd15"), default="world")
  add("--teacher", choices=("lora", "dreambooth"), default="lora")
  add("--experts", type=_numbers, default=(1, 2, 4, 8), metavar="E,E,...")
  add("--batch", type=_numbers, default=(1, 4), metavar="B,B,...")
  add("--device", choices=("cpu", "gpu"), default="cpu")
  add("--dtype", choices=("float32", "bfloat16"), default="float32")
  add("--latent", type=int, help="side of the latents, if not the model's own")
  add("--steps", type=int, default=20, help="timed, each round")
  add("--rounds", type=int, default=3)
  add("--beside", type=int, default=9, help="sides in memory at a time")
  add("--compile", metavar="MODE", help="of torch.compile, such as default")
  add("--peak-tflops", type=float, help="of the device; H100, bfloat16: 989")
  add("--out", type=pathlib.Path, help="rows as JSON")
  add("--side", choices=SIDES, help=argparse.SUPPRESS)
  add("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.side:
    SIDES[args.side](args)
    return
  print(
    f"{args.model}, {args.teacher}, {args.dtype}, {args.device}, "
    f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    flush=True,
  )
  rows = []
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    if args.model != "world":
      subprocess.run(_command("weights", folder), cwd=ROOT, check=True)
    for batch in args.batch:
      rows += compare(args, folder, batch)
  if args.out:
    args.out.write_text(json.dumps(rows, indent=1))
  if others := sorted({r["side"] for r in rows if not r["same_losses"]}):
    sys.exit(f"{', '.join(others)}: other losses, so not the same work.")


def _numbers(text: str) -> tuple[int, ...]:
  return tuple(int(number) for number in text.split(","))


def _command(side: str, folder: pathlib.Path, **others: int) -> list[str]:
  """How a side is started: as this process was, the last of a flag decides."""
  flags = {"side": side, "folder": folder, **others}
  given = [word for k, v in flags.items() for word in (f"--{k}", str(v))]
  return [sys.executable, "-m", __spec__.name, *sys.argv[1:], *given]


def compare(args, folder: pathlib.Path, batch: int) -> list[dict[str, Any]]:
  """Measures all sides with one size of batch, and prints their rows."""
  command = _command("draws", folder, batch=batch)
  subprocess.run(command, cwd=ROOT, check=True)
  sides = ["recipe", *["compiled"] * bool(args.compile)]
  sides += [f"farm {num}" for num in args.experts]
  found: dict[str, dict[str, Any]] = {}
  for first in range(0, len(sides), args.beside):
    found |= measure(sides[first : first + args.beside], args, folder, batch)
  others = check_losses(found, TOLERANCE[args.teacher, args.dtype])
  flops = found["recipe"].get("flops", 0.0) * batch
  rows = [make_row(side, found[side], flops) for side in sides]
  for row in rows:
    row["same_losses"] = row["side"] not in others
  print_rows(rows, args, batch)
  about = ("model", "teacher", "dtype", "device", "latent", "peak_tflops")
  given = {name: getattr(args, name) for name in about} | {"batch": batch}
  return [given | row for row in rows]


def measure(
  names: Sequence[str], args, folder: pathlib.Path, batch: int
) -> dict[str, dict[str, Any]]:
  """Has some sides get ready beside each other, then asks them in turns."""
  started = {}
  for name in names:
    side, _, num = name.partition(" ")
    command = _command(side, folder, batch=batch, experts=int(num or 1))
    started[name] = Side(command[2:])
  found = {name: side.tell() for name, side in started.items()}
  rounds = [
    {name: side.ask("time") for name, side in started.items()}
    for _ in range(args.rounds)
  ]
  for name in names:
    answers = [answer[name] for answer in rounds]
    if all(answers):
      found[name] |= {
        "seconds": statistics.median(a["seconds"] for a in answers),
        "start_s": statistics.median(a["start_s"] for a in answers),
        "bytes": max(a["bytes"] for a in answers),
      }
  if "recipe" in started:
    found["recipe"] |= started["recipe"].ask("flops")
  for side in started.values():
    side.end()
  return found


def check_losses(
  found: Mapping[str, Mapping[str, Any]], tolerance: tuple[float, float]
) -> list[str]:
  """Prints how far losses differ; returns the sides that do other work."""
  losses = {k: np.array(v["losses"]) for k, v in found.items() if "losses" in v}
  theirs = losses.pop("recipe", None)
  if theirs is None:
    return []
  print(f"losses of the recipe: {', '.join(f'{x:.5f}' for x in theirs)}")
  others = []
  for side, these in losses.items():
    first, *later = np.abs(these - theirs) / theirs
    print(f"  {side}: first within {first:.1e}, later {np.max(later):.1e}")
    # max() would pass over a NaN.
    if not (first <= tolerance[0] and np.max(later) <= tolerance[1]):
      others.append(side)
  return others


def make_row(
  side: str, found: Mapping[str, Any], flops: float
) -> dict[str, Any]:
  """The numbers of one side; `flops` are of one step of one expert."""
  if "seconds" not in found:
    return {"side": side}
  num = int(side.partition(" ")[2] or 1)
  each_s = found["seconds"] / num
  begin_s = found["start_s"] / num
  return {
    "side": side,
    "experts": num,
    "ms_a_step_each": each_s * 1e3,
    "experts_an_hour": 3600 / (each_s * STEPS_OF_AN_EXPERT + begin_s),
    "begin_s_each": begin_s,
    "compile_s": found["compile_s"],
    "gib": found["bytes"] / 2**30,
    "tflops": flops / each_s / 1e12,
  }


def print_rows(rows: Sequence[Mapping[str, Any]], args, batch: int) -> None:
  """Prints a table."""
  rates = {row["side"]: row.get("experts_an_hour") for row in rows}
  bases = [s for s in ("farm 1", "recipe", "compiled") if rates.get(s)]
  columns = [f"batch {batch}", "ms a step, an expert", "experts an hour"]
  columns += [*[f"over {side}" for side in bases], "compile, s", "GiB"]
  columns += ["share of peak" if args.peak_tflops else "GFLOP/s"]
  print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
  for row in rows:
    cells = [row["side"], "failed, see above", *[""] * (len(columns) - 2)]
    if rate := rates[row["side"]]:
      cells = [row["side"], f"{row['ms_a_step_each']:.2f}", f"{rate:.1f}"]
      cells += [f"{rate / rates[base]:.2f}" for base in bases]
      cells += [f"{row['compile_s'] or 0:.0f}", f"{row['gib']:.1f}"]
      share = row["tflops"] / (args.peak_tflops or 1)
      cells += [f"{share:.1%}" if args.peak_tflops else f"{share * 1e3:.1f}"]
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
  main()
