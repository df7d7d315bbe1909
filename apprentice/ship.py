# SPDX-License-Identifier: Apache-2.0
"""Puts a trained apprentice with its card into suti/pretrained.

  python -m apprentice.ship --config configs/apprentice/world.py \
      --workdir runs/apprentice

It is stored beside its base, in float16 and without the parts they share. The
card has the scores of `apprentice.evaluate` where the workdir has them.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from apprentice.model import load_apprentice, save_apprentice
from suti.backbone import PRETRAINED
from suti.io.files import read_json, write_json
from suti.pretrain.card import machine, write_card
from suti.stage import main

_NOTES = (
  "It learned from true renders, a perfect teacher's examples "
  "(`suti.pretrain.examples`), not yet from experts' drawings."
)


def run(config: Any, workdir: Path) -> dict:
  """Writes suti/pretrained/world_apprentice.

  Args:
    config: as it was trained with.
    workdir: of `apprentice.train`.

  Returns: the card's scores.
  """
  trained = workdir / "apprentice" / "train"
  target = PRETRAINED / "world_apprentice"
  save_apprentice(
    load_apprentice(trained / "model"),
    target,
    dtype=jnp.float16,
    with_base=False,
  )
  write_json(
    target / "training.json",
    {
      "command": (
        "python -m apprentice.train --config configs/apprentice/world.py "
        "--workdir runs/apprentice"
      ),
      "config": config.train.to_dict() | {"seed": config.seed},
      "seconds": round(read_json(trained / "done.json")["seconds"]),
      "machine": machine(),
      "data": ", ".join(config.train.examples),
    },
  )
  metrics = workdir / "apprentice" / "evaluate" / "metrics.json"
  scores = {}
  if metrics.is_file():
    systems = read_json(metrics)["systems"]
    scores = {
      f"{metric} of {system} (`apprentice.evaluate`)": f"{mean['mean']:.3f}"
      for system, row in systems.items()
      for metric in ("identity", "clip_i", "clip_t")
      if (mean := row.get(metric))
    }
  write_card(
    target,
    title="SuTI's apprentice for SubjectWorld, 64 px",
    scores=scores,
    notes=_NOTES,
  )
  print(f"shipped: {target.name}")
  return scores


if __name__ == "__main__":
  main("apprentice.ship", run)
