# SPDX-License-Identifier: Apache-2.0
"""Which of a benchmark's prompts the models were trained with, on record.

A model says in `training.json` ("prompts") which templates its pictures showed:
"all", or "seen", that is all but those of `suti.world.held_out`. A record that
is missing is "unknown": nothing is assumed. An apprentice has learned twice,
its base from captions and itself from lessons, so a prompt is

  seen                   the lessons had it, or there were none and the base had
  held_out_of_lessons    the base had it, the lessons did not
  held_out               neither had
  unknown                a record that would say so is missing, or it is none of
                         DreamBench's templates

and a prompt of a list (`suti.evaluation.prompt_list`) is of the kind that the
list gives it. Nothing is measured here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apprentice.sample import BENCHMARK
from suti.hf.find import find_model
from suti.io.files import read_json
from suti.io.paths import path_of
from suti.schema import Cluster, Prompt
from suti.world.held_out import find_template, is_held_out
from suti.world.templates import LIVE_TEMPLATES, OBJECT_TEMPLATES

_LISTED = f"{BENCHMARK}/experts/prompts/listed.json"


def describe_benchmark(
  workdir: Path,
  clusters: Mapping[str, Cluster],
  prompts: Sequence[Prompt],
  *,
  base: str,
) -> dict[str, Any]:
  """On what a workdir's models are evaluated, and what of it they had seen.

  Args:
    workdir: of the run.
    clusters, prompts: of its benchmark.
    base: `config.backbone`.

  Returns: `split`, of SubjectWorld's subjects ("" of others), `base` and
    `lessons`, see `kinds_of`, and `kinds`, {prompt: its kind}.
  """
  saw = {"base": base_prompts(base), "lessons": lesson_prompts(workdir)}
  source = next(iter(clusters.values())).source
  of = {p.prompt: clusters[p.cluster] for p in prompts}
  texts = {text: (c.subject, c.live) for text, c in of.items()}
  return {
    "split": source.removeprefix("world:") if "world:" in source else "",
    **saw,
    "kinds": kinds_of(texts, listed=read_listed(workdir), **saw),
  }


def read_listed(workdir: Path) -> dict[str, dict[str, str]]:
  """{prompt: what the benchmark's list says of it}; {} without a list."""
  path = workdir / _LISTED
  return read_json(path) if path.is_file() else {}


def kinds_of(
  texts: Mapping[str, tuple[str, bool]],
  *,
  base: str,
  lessons: str,
  listed: Mapping[str, Mapping[str, str]],
) -> dict[str, str]:
  """{prompt: its kind}.

  Args:
    texts: {prompt: (the noun in it, whether that is live)}.
    base, lessons: "all", "seen", "unknown" or "none", which templates the base
      was trained with, and the apprentice's examples had.
    listed: of prompts from a list, what it says of them.
  """
  return {
    text: listed[text]["kind"]
    if text in listed
    else _kind(text, noun, live=live, base=base, lessons=lessons)
    for text, (noun, live) in texts.items()
  }


def _kind(text: str, noun: str, *, live: bool, base: str, lessons: str) -> str:
  template = find_template(text, noun, live=live)
  records = [x for x in (lessons, base) if x != "none"]
  group = LIVE_TEMPLATES if live else OBJECT_TEMPLATES
  if template not in group or "unknown" in records[:1]:
    return "unknown"
  if not is_held_out(template) or records[0] == "all":
    return "seen"
  if len(records) == 1 or records[1] == "seen":
    return "held_out"
  return "held_out_of_lessons" if records[1] == "all" else "unknown"


def base_prompts(name_or_dir: str) -> str:
  """Which templates a base was trained with: "all", "seen" or "unknown"."""
  return _record(find_model(name_or_dir) / "training.json", "base")


def lesson_prompts(workdir: Path) -> str:
  """Which templates the apprentice of a workdir has learned from.

  Of this run's examples, those of `config.train.examples`, and those that
  `config.train.init` had learned from before.

  Returns: "all" if any had all, "unknown" if any has no record, "seen" if all
    left the held-out ones out, "none" if there were no lessons.
  """
  done = workdir / "apprentice/train/done.json"
  if not done.is_file():
    return "unknown"
  train = read_json(done)["config"]["train"]
  found = []
  start = find_model(train["init"])
  if (start / "apprentice.json").is_file():
    found.append(_record(start / "training.json", "lessons"))
  if train["num_steps"]:
    own = workdir / "experts"
    if (own / "pack/done.json").is_file():
      found.append(_of_experts(own))
    found += [_of_examples(path_of(x)) for x in train["examples"]]
  return combine(found)


def combine(found: Sequence[str]) -> str:
  """What several trainings together have seen."""
  for answer in ("all", "unknown", "seen"):
    if answer in found:
      return answer
  return "none"


def _record(path: Path, which: str) -> str:
  prompts = read_json(path).get("prompts", {}) if path.is_file() else {}
  return prompts.get(which, "unknown")


def _of_examples(folder: Path) -> str:
  """Of a folder of examples: a pretraining's pool, or another run's experts."""
  done = folder.parent / "done.json"
  if done.is_file():
    pool = read_json(done)["config"].get("pool", {})
    return pool.get("templates", "unknown")
  return _of_experts(folder.parent)


def _of_experts(folder: Path) -> str:
  """Of a run's experts, by what its prompts were chosen from."""
  done = folder / "prompts/done.json"
  if not done.is_file():
    return "unknown"
  prompts = read_json(done)["config"]["prompts"]
  return prompts.get("templates", "unknown")
