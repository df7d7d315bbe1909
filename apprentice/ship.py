# SPDX-License-Identifier: Apache-2.0
"""Exports a trained apprentice with its model card into suti/pretrained.

  python -m apprentice.ship --config configs/apprentice/world.py \
      --workdir runs/apprentice

It is stored beside its base, in float16 and without the parts they share. The
card has the scores of the benchmark, where it was run before:

  suti run --config configs/evaluation/dreambench.py \
      --workdir runs/apprentice/dreambench \
      --config.train.init=runs/apprentice/apprentice/train/model
"""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from apprentice.model import check_base, load_apprentice, save_apprentice
from apprentice.prompt_kinds import lesson_prompts
from apprentice.start import sampling_defaults
from suti.evaluation.report import METRICS
from suti.hf.find import PRETRAINED
from suti.io.files import read_json, write_json
from suti.pipeline.backbone import load_backbone
from suti.pretrain.card import machine, write_card
from suti.runtime.stage import main

_SYSTEMS = ("apprentice", "base", "real")
_NOTES = (
  "It learned from true renders, a perfect teacher's examples "
  "(`suti.pretrain.examples`), not yet from experts' samples."
)
_UNTRAINED = (
  "It has not been trained yet: it samples as its base does, whatever it is "
  "shown. `apprentice.train` goes on from here."
)


def run(config: Any, workdir: Path) -> dict:
  """Writes suti/pretrained/world_apprentice.

  Args:
    config: `backbone`, the base that it is stored beside; `apprentice_sample`
      gives its sampling defaults; how it was trained is read from the workdir,
      and where that differs from `train`, the card's command says so.
    workdir: of `apprentice.train`.

  Returns: the card's scores.

  Raises:
    ValueError: it is not trained yet, or was on another base.
  """
  trained = workdir / "apprentice" / "train"
  if not (trained / "done.json").is_file():
    raise ValueError(
      f"{trained} is not finished: run apprentice.train first, with the same "
      "--workdir."
    )
  done = read_json(trained / "done.json")
  train = done["config"]["train"]
  places = {
    "init": _place(train["init"]),
    "init_base": _place(train.get("init_base", "")),
    "examples": [_place(name) for name in train["examples"]],
  }
  target = PRETRAINED / "world_apprentice"
  apprentice = load_apprentice(trained / "model")
  # It may have been trained on the same base at another place.
  base = load_backbone(config.backbone, weights=False)
  check_base(trained / "model", base)
  most = {"max_demonstrations": train["max_demonstrations"]}
  sampling = sampling_defaults(config.apprentice_sample) | most
  save_apprentice(
    dataclasses.replace(apprentice, sampling=sampling, backbone=base),
    target,
    dtype=jnp.float16,
    with_base=False,
  )
  write_json(
    target / "training.json",
    {
      "command": _command(train, config.train, places),
      "config": train | places | {"seed": done["config"]["seed"]},
      "prompts": {"lessons": lesson_prompts(workdir)},
      "seconds": done["summary"].get("seconds", 0),
      "machine": machine(),
      "data": ", ".join(places["examples"]) if train["num_steps"] else "none",
    },
  )
  metrics = workdir / "dreambench/apprentice/evaluate/metrics.json"
  scores = read_scores(read_json(metrics)) if metrics.is_file() else {}
  write_card(
    target,
    title="SuTI's apprentice for SubjectWorld, 64 px",
    scores=scores,
    notes=_NOTES if train["num_steps"] else _UNTRAINED,
  )
  print(f"shipped: {target.name}")
  return scores


def _command(
  train: Mapping[str, Any], given: Mapping[str, Any], places: Mapping[str, Any]
) -> str:
  """The command that trained it: the config's file, and what differs from it.

  Args:
    train: `config.train` as it was.
    given: the file's own.
    places: of train's paths what the card names.
  """
  differs = []
  for name, value in sorted(train.items()):
    if name not in given or value != _plain(given[name]):
      shown = places.get(name, value)
      shown = tuple(shown) if isinstance(shown, list) else shown
      differs.append(f"--config.train.{name}={shown}")
  words = ["python", "-m", "apprentice.train"]
  words += ["--config", "configs/apprentice/world.py"]
  words += ["--workdir", "runs/apprentice", *differs]
  return shlex.join(words)


def _plain(value: Any) -> Any:
  """A field as JSON has it."""
  return list(value) if isinstance(value, tuple) else value


def _place(name: str) -> str:
  """A path as others may read it: of a machine's own, its end alone."""
  path = Path(name)
  return "/".join(path.parts[-2:]) if path.is_absolute() else name


def read_scores(metrics: Mapping[str, Any]) -> dict[str, str]:
  """Rows of a card.

  Args:
    metrics: as `apprentice.evaluate` wrote them.

  Returns: {name of the metric: its value as text}.
  """
  systems = metrics["systems"]
  rows = {
    f"{title} of {', '.join(shown)}": ", ".join(
      f"{systems[system][name]['mean']:.3f}" for system in shown
    )
    for name, title in METRICS.items()
    if (shown := [s for s in _SYSTEMS if name in systems.get(s, {})])
  }
  images = systems["apprentice"]["images"]
  rows["measured on"] = (
    f"{images} pictures of {len(metrics['per_subject'])} test subjects, "
    "`configs/evaluation/dreambench.py`"
  )
  if (closed := metrics.get("gap_closed")) is not None:
    rows["gap in identity closed, base to real pictures"] = f"{closed:.2f}"
  if (drop := metrics.get("clip_t_drop")) is not None:
    rows["CLIP-T below the base"] = f"{drop:.3f}"
  if (speedup := metrics.get("speedup")) is not None:
    rows["faster than tuning an expert and sampling from it"] = (
      f"{speedup:.0f}x"
    )
  return rows


if __name__ == "__main__":
  main("apprentice.ship", run)
