# SPDX-License-Identifier: Apache-2.0
"""The model card beside a trained model: how to make it again, what it scores.

A trainer writes `training.json` into its model folder; `write_card` turns it,
with the scores measured since, into the folder's README.md.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from suti.io.files import read_json, write_atomic, write_json

_LIMITS = (
  "It has seen SubjectWorld alone, a small rendered world. On photographs it "
  "is out of its depth: train on them, or start from published weights."
)


def write_training(
  model: Path,
  *,
  name: str,
  config: Any,
  seconds: float,
  data: str = "",
  init: Path | None = None,
) -> None:
  """Writes training.json: the facts that only the trainer knows.

  Args:
    model: the model's folder.
    name: of the trainer's module and of its config.
    config: the locked config, seed, steps and pool included.
    seconds: of training, all restarts together.
    data: what it learned from, in words; else by the config's pool.
    init: the model it started from; its own facts, where it has any, are kept
      with those of this training.
  """
  pool = config.pool
  data = data or (
    f"{pool.num_subjects * pool.shots_each} renders of {pool.num_subjects} "
    f"subjects of SubjectWorld's {pool.split} split, from {pool.start} on"
  )
  facts = {
    "command": (
      f"python -m suti.pretrain.{name} --config configs/pretrain/{name}.py "
      "--workdir runs/pretrain"
    ),
    "config": config.to_dict(),
    # Which prompts an evaluation may call unseen: apprentice/prompt_kinds.py.
    "prompts": {"base": pool.get("templates", "unknown")},
    "seconds": round(seconds),
    "machine": machine(),
    "data": data,
  }
  if init is not None and (init / "training.json").is_file():
    facts["init"] = read_json(init / "training.json")
  write_json(model / "training.json", facts)


def _length(facts: Mapping[str, Any]) -> str:
  """Steps and time of a training in words."""
  config = facts["config"]
  steps = "closed form"
  if "num_steps" in config:
    steps = f"{config['num_steps']} steps of batch {config['batch_size']}"
  return f"{steps}, {facts['seconds'] / 3600:.1f} h, {facts['machine']}"


def machine() -> str:
  """What a model was trained on, in words: "2 CPU cores"."""
  devices = jax.devices()
  if devices[0].platform == "cpu":
    return f"{os.cpu_count()} CPU cores"
  return f"{len(devices)} x {devices[0].device_kind}"


def write_card(
  model: Path, *, title: str, scores: Mapping[str, str], notes: str = ""
) -> None:
  """Writes README.md from training.json and scores.

  Args:
    model: the model's folder, with training.json.
    title: one line on what the model is.
    scores: what was measured -> the figure with the command that gave it.
    notes: what a reader must know besides.
  """
  facts = read_json(model / "training.json")
  config = facts["config"]
  rows = [
    ("command", f"`{facts['command']}`"),
    ("seed", config["seed"]),
    *([("trained before", _length(facts["init"]))] if "init" in facts else []),
    ("training", _length(facts)),
    ("data", facts["data"]),
    *scores.items(),
  ]
  lines = [
    f"# {title}",
    "",
    "| | |",
    "|---|---|",
    *[f"| {name} | {value} |" for name, value in rows],
    "",
    *([notes, ""] if notes else []),
    _LIMITS,
    "",
    "The whole config is in training.json. Licence: Apache-2.0.",
    "",
  ]
  write_atomic(model / "README.md", "\n".join(lines).encode())
