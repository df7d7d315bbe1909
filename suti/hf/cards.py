# SPDX-License-Identifier: Apache-2.0
"""A run's files -> the card of its model, or of its training data.

  model    apprentice/train/{done.json, model/}, apprentice/evaluate
  dataset  experts/pack/{done.json, shards}, experts/filter, experts/prompts

What a run did not measure is not on its card. Places on this machine's disk are
left out of both: a card is for others.
"""

import collections
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suti.io.files import read_json

_METRICS = {"identity": "identity", "clip_i": "CLIP-I", "clip_t": "CLIP-T"}
# Of the judge that knows what the world's pictures show.
_JUDGED = {
  "retrieval": "who: one of 25 look-alikes",
  "questions": "asked and answered",
  "distance": "distance to real (KID)",
  "sharpness": "sharpness",
}
_PLACES = ("/", "~", "gs://")  # how a place begins
_INTENDED = (
  "Research on subject-driven generation: pictures of a subject, given as a "
  "few pictures, in a scene given as text. It is not for pictures of people "
  "who did not agree to it, nor for deceiving anyone."
)


def model_card(run: Path, *, repo: str) -> str:
  """The README.md of an apprentice.

  Args:
    run: the workdir of `suti run` or `apprentice.train`.
    repo: where it goes, ORG/NAME.

  Raises:
    ValueError: no apprentice was trained there.
  """
  done = _done(run, "apprentice/train", "python -m apprentice.train")
  config, summary = done["config"], done["summary"]
  train = config["train"]
  data = train.get("examples") or ["the run's own experts (experts/pack)"]
  rows = {
    "command": "`python -m apprentice.train --config CONFIG --workdir RUN`, "
    "with the config below",
    "method": train["method"],
    "base": _public(config["backbone"]),
    "started from": _public(train["init"]),
    "data": ", ".join(map(_public, data)),
    "steps": f"{train['num_steps']} of batch {train['batch_size']}",
    "seed": config["seed"],
    "training time": f"{done['seconds'] / 3600:.2f} h",
  }
  if "loss" in summary:
    rows["loss of the last steps"] = f"{summary['loss']:.4f}"
  lines = [
    *_head("model", tags=("text-to-image", "subject-driven", "suti", "jax")),
    f"# {repo}",
    "",
    "An apprentice of SuTI (arXiv 2304.00186): it shows a subject, given as 1 "
    f"to {train['max_demonstrations']} pictures, in new scenes, without "
    "fine-tuning.",
    "",
    *_table(rows),
    *_scores(run),
    "## Use",
    "",
    "```sh",
    f"suti generate --model {repo.partition('/')[2]}/ --subject my_dog/ "
    '--prompt "a dog in the snow" --out dog.png',
    "```",
    "",
    "The folder is that of the repository on this machine.",
    "",
    "## Intended use and limits",
    "",
    _INTENDED,
    "",
    _world_note(config),
    "",
    *_config(config),
  ]
  return "\n".join(lines)


def dataset_card(run: Path, *, repo: str) -> str:
  """The README.md of the examples that a run's experts made.

  Raises:
    ValueError: stage 5 was not run there.
  """
  packed = _done(run, "experts/pack", "python -m experts.pack")
  filtered = _done(run, "experts/filter", "python -m experts.filter")
  kept = filtered["summary"]
  source = _source(run)
  rows = {
    "examples": packed["summary"]["examples"],
    "subjects": packed["summary"]["clusters"],
    "candidates of the experts": kept["candidates"],
    "kept by the filter": f"{kept['kept']} ({kept['keep_rate']:.1%})",
    "filter": kept.get("filter"),
    "its rule": f"`{kept['rule']}`" if "rule" in kept else None,
    "candidates asked of a group": kept.get("min_group"),
    "subjects' pictures from": source,
  }
  for name, title in (
    ("finetune", "experts"),
    ("sample", "their images"),
  ):
    path = run / "experts" / name / "done.json"
    if path.is_file():
      rows[f"seconds to make {title}"] = round(read_json(path)["seconds"])
  lines = [
    *_head(
      "dataset",
      tags=("text-to-image", "subject-driven", "suti"),
      # Renders are ours to give, mined pictures are not.
      licence="apache-2.0" if source == "world" else "other",
    ),
    f"# {repo}",
    "",
    "Training examples of SuTI (arXiv 2304.00186): each is an image that an "
    "expert, tuned on one subject, sampled for a prompt, its prompt, and the "
    "subject's pictures with their captions. A filter kept a part of what was "
    "sampled.",
    "",
    *_table(rows),
    *_rates(keep_rates(run)),
    "## Use",
    "",
    "ArrayRecord shards in the layout of TensorFlow Datasets:",
    "",
    "```python",
    "from suti.io.records import open_examples",
    "",
    f'examples = open_examples("{repo.partition("/")[2]}")',
    "```",
    "",
    "## Intended use and limits",
    "",
    _INTENDED
    + " The images are generated; the subjects' pictures are "
    + (
      "renders of SubjectWorld."
      if source == "world"
      else "those that were mined, whose rights are their owners'."
    ),
    "",
    *_config(packed["config"] | {"filtered_by": filtered["config"]}),
  ]
  return "\n".join(lines)


def _rates(rates: Mapping[str, tuple[int, int]]) -> list[str]:
  """Keep rates as a table; nothing where they are not known."""
  if not rates:
    return []
  return [
    "## Kept, by kind of prompt",
    "",
    "| kind | candidates | kept | rate |",
    "|---|---|---|---|",
    *(
      f"| {skill} | {total} | {good} | {good / total:.1%} |"
      for skill, (good, total) in sorted(rates.items())
    ),
    "",
  ]


def keep_rates(run: Path) -> dict[str, tuple[int, int]]:
  """{kind of prompt: (kept, candidates)}; {} if a run has no scores."""
  scores = run / "experts" / "filter" / "scores.jsonl"
  prompts = run / "experts" / "prompts" / "prompts.jsonl"
  if not (scores.is_file() and prompts.is_file()):
    return {}
  skills = {
    (row["cluster"], row["prompt"]): row["skill"] for row in _lines(prompts)
  }
  counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
  for row in _lines(scores):
    skill = skills.get((row["cluster"], row["prompt"]), "other")
    counts[skill][0] += bool(row["kept"])
    counts[skill][1] += 1
  return {skill: (kept, total) for skill, (kept, total) in counts.items()}


def _lines(path: Path) -> list[dict[str, Any]]:
  text = path.read_text(encoding="utf-8")
  return [json.loads(line) for line in text.split("\n") if line]


def _done(run: Path, stage: str, command: str) -> dict[str, Any]:
  path = run / stage / "done.json"
  if not path.is_file():
    raise ValueError(
      f"{run} has no finished {stage}: give the workdir of a run, or run "
      f"{command} there first."
    )
  return read_json(path)


def _source(run: Path) -> str | None:
  """Where stage 1 found the subjects' pictures: "world", "folder", ..."""
  path = run / "experts" / "mine" / "done.json"
  if not path.is_file():
    return None
  return read_json(path).get("config", {}).get("mine", {}).get("source")


def _head(
  kind: str, *, tags: tuple[str, ...], licence: str = "apache-2.0"
) -> list[str]:
  """What the hub reads of a card."""
  more = ["pipeline_tag: text-to-image"] if kind == "model" else []
  return [
    "---",
    f"license: {licence}",
    *more,
    "tags:",
    *(f"- {tag}" for tag in tags),
    "---",
    "",
  ]


def _table(rows: Mapping[str, Any]) -> list[str]:
  """A table; a bar or a line break in a value stays in its cell."""
  cells = [
    (name, re.sub(r"\s+", " ", str(value)).replace("|", "\\|"))
    for name, value in rows.items()
    if value is not None
  ]
  return [
    "| | |",
    "|---|---|",
    *(f"| {name} | {value} |" for name, value in cells),
    "",
  ]


def _scores(run: Path) -> list[str]:
  """The scores of stage 8, if it was run."""
  path = run / "apprentice" / "evaluate" / "metrics.json"
  if not path.is_file():
    return ["It was not evaluated.", ""]
  metrics = read_json(path)
  systems = metrics["systems"]
  rows = []
  for name, system in systems.items():
    cells = [
      f"{found['mean']:.3f}" if (found := system.get(metric)) else ""
      for metric in _METRICS
    ]
    rows.append(
      f"| {name} | {' | '.join(cells)} | {system.get('images', '')} |"
    )
  return [
    "## Scores",
    "",
    f"| | {' | '.join(_METRICS.values())} | images |",
    "|---|---|---|---|---|",
    *rows,
    "",
    "Means over subjects of raw cosines, by the run's own encoders; "
    "`apprentice.evaluate` says how.",
    "",
    *_judged(metrics.get("judged", {})),
  ]


def _judged(judged: Mapping[str, Any]) -> list[str]:
  """What a judge saw that took no part, with intervals over subjects."""
  if "systems" not in judged:
    why = judged.get("absent")
    return [f"Not judged by the world's truth: {why}.", ""] if why else []
  rows = [
    f"| {name} | {' | '.join(_cell(row.get(m)) for m in _JUDGED)} | "
    f"{row.get('images', '')} |"
    for name, row in judged["systems"].items()
  ]
  return [
    "## Judged by the world's truth",
    "",
    f"| | {' | '.join(_JUDGED.values())} | images |",
    f"|{'---|' * (len(_JUDGED) + 2)}",
    *rows,
    "",
    "By an encoder that neither chose the data nor conditions the model; in "
    "brackets 95% intervals over subjects. The row `scenes` is true renders of "
    "the prompts, and so says how often the judge is wrong.",
    "",
  ]


def _cell(found: Mapping[str, Any] | None) -> str:
  if not found:
    return ""
  mean, low, high = (found.get(name) for name in ("mean", "low", "high"))
  return f"{mean:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _world_note(config: Mapping[str, Any]) -> str:
  base = str(config["backbone"])
  if not base.startswith("world_"):
    return "How well it shows a subject depends on what its base has seen."
  return (
    "It has seen SubjectWorld alone, a small rendered world. On photographs it "
    "is out of its depth."
  )


def _config(config: Mapping[str, Any]) -> list[str]:
  """The config, without places on a disk."""
  text = json.dumps(_without_places(config), indent=2, sort_keys=True)
  return ["## Config", "", "```json", text, "```", ""]


def _public(name: Any) -> str:
  """A model's name; of a place on a disk or in a bucket the last two parts."""
  text = str(name)
  if not text.startswith(_PLACES):
    return text
  path = Path(text.removeprefix("gs://").lstrip("~/"))
  return "/".join(path.parts[-2:])


def _without_places(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _without_places(x) for key, x in value.items()}
  if isinstance(value, list | tuple):
    return [_without_places(x) for x in value]
  return _public(value) if isinstance(value, str) else value
