# SPDX-License-Identifier: Apache-2.0
"""The report of a run on one static page: pictures, numbers, times, caveats.

  reads   the files of all stages in a workdir, benchmark/ included
  writes  report/{index.html, metrics.json, images/}, anew each time

What a stage did not leave (no experts on the benchmark, say) is left out of the
page. Nothing is sampled or scored here, and no number is computed that
`apprentice.evaluate` or `experts.filter` did not write.
"""

import collections
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suti.evaluation import charts, page, rows
from suti.evaluation.encoders import learned_rule
from suti.evaluation.report_filter import kept_and_dropped, read_filter
from suti.evaluation.report_judged import judged
from suti.evaluation.report_learning import learning
from suti.evaluation.report_pictures import Album, subjects
from suti.io.files import read_json, replacing_folder, write_atomic, write_json
from suti.io.paths import path_of
from suti.runtime.progress import span
from suti.runtime.stage import main

SYSTEMS = {
  "real": "real pictures",
  "scenes": "real, in the prompts' scenes",
  "experts": "an expert each",
  "apprentice": "apprentice",
  "apprentice_expert_subjects": "apprentice, where experts are",
  "before": "apprentice, before this run's training",
  "base": "base, no demonstrations",
  "text_only": "base, given a description of the subject",
  "copy": "a demonstration, copied",
  "wrong_subject": "apprentice, shown another subject",
  "shuffled": "apprentice, shown several others",
}
_PAPER_STEPS = 500  # of an expert (SuTI, arXiv 2304.00186, section 4)
METRICS = {"identity": "identity", "clip_i": "CLIP-I", "clip_t": "CLIP-T"}
# Folder of a stage -> what the page calls it, in the order they run.
STAGES = {
  "experts/mine": "1 mine",
  "experts/label": "1 label",
  "experts/prompts": "1 prompts",
  "experts/finetune": "2 finetune",
  "experts/sample": "3 sample",
  "experts/label_candidates": "4 label",
  "experts/filter": "4 filter",
  "experts/pack": "5 pack",
  "apprentice/train": "6 train",
  "benchmark/experts/mine": "benchmark: subjects",
  "benchmark/experts/label": "benchmark: labels",
  "benchmark/experts/prompts": "benchmark: prompts",
  "benchmark/experts/finetune": "benchmark: experts",
  "benchmark/experts/sample": "benchmark: their pictures",
  "apprentice/sample": "7 sample",
  "apprentice/evaluate": "8 evaluate",
}


def run(config: Any, workdir: Path) -> dict:
  """Writes the report of a workdir.

  Args:
    config: the whole config; `config.report` says how much is shown.
    workdir: all stages have run in it.

  Returns: how many subjects and pictures are on the page.

  Raises:
    ValueError: `apprentice.evaluate` is not finished.
  """
  workdir = path_of(workdir)
  scores = workdir / "apprentice" / "evaluate" / "metrics.json"
  if not scores.is_file():
    raise ValueError(
      f"{scores} is not there: run python -m apprentice.evaluate first, with "
      "the same --config and --workdir."
    )
  metrics = read_json(scores) | {
    "stages": _stages(workdir),
    "filter": read_filter(workdir),
    "config": config.to_dict(),
  }
  with replacing_folder(workdir / "report", last="index.html") as folder:
    album = Album(folder)
    body = [
      *_head(config, metrics),
      *_metrics(metrics),
      *judged(metrics, labels=SYSTEMS),
      *subjects(config, workdir, album),
      *kept_and_dropped(config, workdir, album, metrics["filter"]),
      *learning(workdir, metrics["stages"]),
      *_times(metrics["stages"]),
      *_notes(config, metrics),
      *_settings(metrics["config"]),
    ]
    source = page.document(config.report.title, body)
    write_atomic(folder / "index.html", source.encode())
    write_json(folder / "metrics.json", metrics)
    num_pictures = len(list((folder / "images").iterdir()))
  print(f"report: {workdir / 'report' / 'index.html'}, {num_pictures} pictures")
  return {"pictures": num_pictures}


# --- What is read ------------------------------------------------------------


def _stages(workdir: Path) -> dict[str, dict[str, Any]]:
  """Seconds and summary of every stage that is finished, in order."""
  found = {}
  for folder in STAGES:
    path = workdir / folder / "done.json"
    if path.is_file():
      done = read_json(path)
      found[folder] = {"seconds": done["seconds"], "summary": done["summary"]}
  return found


# --- What is shown -----------------------------------------------------------


def _head(config: Any, metrics: Mapping[str, Any]) -> list[str]:
  """Title, one sentence, and the numbers to remember."""
  benchmark = config.benchmark
  where = (
    f"SubjectWorld subjects of the {benchmark.split} split"
    if benchmark.source == "world"
    else f"subjects of {benchmark.path}"
  )
  num_subjects = len(metrics["per_subject"])
  seconds = sum(stage["seconds"] for stage in metrics["stages"].values())
  numbers = []
  if metrics.get("gap_closed") is not None:
    closed = f"{metrics['gap_closed']:.0%}"
    numbers.append((closed, "of the gap in identity closed, base to real"))
  if metrics.get("gap_closed_scenes") is not None:
    closed = f"{metrics['gap_closed_scenes']:.0%}"
    numbers.append((closed, "of that to real pictures of the prompts' scenes"))
  if metrics.get("clip_t_drop") is not None:
    change = f"{-metrics['clip_t_drop']:+.3f}"
    numbers.append((change, "CLIP-T, apprentice against base"))
  if metrics.get("speedup") is not None:
    faster = f"{metrics['speedup']:.0f}×"
    numbers.append((faster, "faster than a new expert, an image"))
  if metrics["filter"]["keep_rate"] is not None:
    kept = f"{metrics['filter']['keep_rate']:.0%}"
    numbers.append((kept, "of the teacher's images kept by the filter"))
  numbers.append((span(seconds), "for all stages"))
  tuned = metrics["stages"].get("experts/finetune", {}).get("summary", {})
  if tuned.get("experts") == 0:
    made = "A base made the data and nothing was tuned, a filter chose from it,"
    made += " and one apprentice learned from what was kept."
  else:
    made = "Experts made the data, a filter chose from it, and one apprentice "
    made += "learned to do without experts."
  trained = (
    f"{made} Here it"
    if config.train.num_steps
    else f"The apprentice {config.train.init}, as it is,"
  )
  return [
    f"<h1>{page.text(config.report.title)}</h1>",
    page.paragraph(
      f"{trained} shows {num_subjects} {where}, "
      f"each from {config.apprentice_sample.num_demonstrations} pictures, "
      f"without fine-tuning.",
      kind="lead",
    ),
    page.tiles(numbers),
  ]


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
  """Systems x metrics, with standard errors."""
  systems = metrics["systems"]
  lines = []
  for name, label in SYSTEMS.items():
    if name not in systems:
      continue
    system = systems[name]
    lines.append(
      [
        label,
        *(_score(system.get(metric)) for metric in (*METRICS, *rows.COLUMNS)),
        str(system.get("images", "")),
        _seconds(metrics.get("times", {}), name),
      ]
    )
  columns = [
    "",
    *METRICS.values(),
    *rows.COLUMNS.values(),
    "pictures",
    "seconds an image",
  ]
  return [
    page.section(
      "Scores",
      page.paragraph(
        "Mean over subjects ± its standard error. Identity: cosine to the real "
        "pictures by an encoder of who a subject is; CLIP-I: the same by CLIP; "
        "CLIP-T: cosine of picture and prompt. Nearest demonstration: cosine "
        "to it by the same encoder as identity; diversity: 1 - cosine between "
        "the images of one prompt by CLIP."
      ),
      page.paragraph(describe(metrics.get("benchmark", {})), kind="soft"),
      page.paragraph(
        "Small encoders of this world: CLIP-I follows the scene and not the "
        "subject, and CLIP-T hardly separates the rows, so read the judge "
        "below. The ceiling of identity is the row of true renders in the "
        "prompts' scenes."
      ),
      page.paragraph(_pictures(metrics)),
      page.card(page.table(columns, lines, mark=SYSTEMS["apprentice"])),
      *_differences(metrics),
      *_copies(metrics),
      *_split(metrics.get("by_skill", {}), "identity", "Identity by skill"),
      *_kinds(metrics),
    )
  ]


def describe(benchmark: Mapping[str, Any]) -> str:
  """On which prompts it was evaluated, in one sentence; "" if unknown."""
  if not benchmark:
    return ""
  counts = collections.Counter(benchmark["kinds"].values())
  listed = ", ".join(
    f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items()
  )
  return (
    f"Its prompts, by what the models' records say they were trained with: "
    f"{listed}."
  )


def _pictures(metrics: Mapping[str, Any]) -> str:
  """How many real pictures the scores are of."""
  if (pictures := metrics.get("pictures")) is None:
    return ""
  shown, each = (
    f"{low} to {high}" if low < high else f"{low}"
    for low, high in (
      pictures["demonstrations_each"],
      pictures["references_each"],
    )
  )
  return (
    f"{pictures['references']} real pictures are references, {each} of a "
    f"subject; the first of them, {shown} of a subject, are demonstrations."
  )


def _differences(metrics: Mapping[str, Any]) -> list[str]:
  """The apprentice against each other system, on the subjects of both."""
  table = metrics.get("differences", {})
  lines = [
    [
      label,
      *(_interval(table[name].get(metric)) for metric in METRICS),
      str(max(x["subjects"] for x in table[name].values())),
    ]
    for name, label in SYSTEMS.items()
    if name in table
  ]
  if not lines:
    return []
  return [
    "<h3>The apprentice, less each of them</h3>",
    page.paragraph(
      "On the subjects of both, with 95% of paired bootstrap resamples of "
      "subjects. What includes 0 is no difference."
    ),
    page.card(page.table(["", *METRICS.values(), "subjects"], lines)),
  ]


def _interval(value: Mapping[str, Any] | None) -> str:
  if value is None:
    return "–"
  if value["low"] is None:
    return f"{value['mean']:+.3f}"
  return f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def _copies(metrics: Mapping[str, Any]) -> list[str]:
  """Which images are nearer to a demonstration than real pictures are."""
  found = metrics.get("copying", {})
  if not found.get("above_band"):
    return []
  low, high = found["band"]
  shares = ", ".join(
    f"{SYSTEMS.get(name, name)} {share:.0%}"
    for name, share in found["above_band"].items()
  )
  return [
    page.paragraph(
      f"Of real pictures, nine in ten are at {low:.3f} to {high:.3f} from the "
      f"nearest demonstration. Above that band, as copies are: {shares}."
    )
  ]


def _kinds(metrics: Mapping[str, Any]) -> list[str]:
  """Scores by what prompts were in training, where they were not all seen."""
  table = metrics.get("by_kind", {})
  if set(table) <= {"seen"}:
    return []
  return [
    *_split(table, "identity", "Identity by what a prompt was in training"),
    *_split(table, "clip_t", "CLIP-T by what a prompt was in training"),
  ]


def _split(table: Mapping[str, Any], metric: str, title: str) -> list[str]:
  """One metric by groups of prompts: the row of renders is its ceiling."""
  if not table:
    return []
  lines = [
    [
      label,
      *(
        f"{table[group][name][metric]:.3f}" if name in table[group] else "–"
        for group in table
      ),
    ]
    for name, label in SYSTEMS.items()
    if any(name in systems for systems in table.values())
  ]
  columns = ["", *(group.replace("_", " ") for group in table)]
  return [
    f"<h3>{page.text(title)}</h3>",
    page.card(page.table(columns, lines, mark=SYSTEMS["apprentice"])),
  ]


def _score(value: Mapping[str, float] | None) -> str:
  if value is None:
    return "–"
  if value.get("stderr") is None:
    return f"{value['mean']:.3f}"
  return f"{value['mean']:.3f} ± {value['stderr']:.3f}"


def _seconds(times: Mapping[str, float], name: str) -> str:
  if name == "experts" and "expert_seconds_to_finetune" in times:
    tune = times["expert_seconds_to_finetune"]
    return f"{tune:.0f} to tune, then {times['expert_seconds_per_image']:.2f}"
  seconds = times.get(f"{name}_seconds_per_image")
  return "–" if seconds is None else f"{seconds:.2f}"


def _times(stages: Mapping[str, Any]) -> list[str]:
  """How long each stage took."""
  rows = {STAGES[name]: stage["seconds"] for name, stage in stages.items()}
  return [
    page.section(
      "Time",
      page.paragraph(
        "Of the process that finished the stage; what a killed one had done "
        "before is not in it.",
        kind="soft",
      ),
      page.card(charts.bars(rows)),
    )
  ]


def _notes(config: Any, metrics: Mapping[str, Any]) -> list[str]:
  """Caveats: what the numbers do not show."""
  num = len(metrics["per_subject"])
  notes = [
    f"Standard errors are over {num} subjects: the mean of so few may be off "
    "by twice its error."
    if num < 20
    else f"Standard errors are over {num} subjects.",
    f"The apprentice started from {config.train.init!r} and learned for "
    f"{config.train.num_steps} steps in this run: what {config.train.init!r} "
    "had learned before is part of its score.",
  ]
  if metrics["filter"]["candidates"]:
    notes.append(
      f"{config.clip!r} judges here and chose the training data too: its "
      "scores flatter what it chose. The identity encoder chose nothing"
      + (
        "."
        if "identity" not in metrics["filter"]["rule"]
        and "identity" not in learned_rule(config)
        else ", but for the identity filter that was on."
      )
    )
  if "experts" in metrics["systems"]:
    tune = config.finetune
    notes.append(
      f"An expert was tuned on the apprentice's demonstrations for "
      f"{tune.num_steps} steps at {tune.learning_rate:g}"
      + (
        f", {_PAPER_STEPS} of them in the paper: set its row and its time "
        "beside no expert of the paper."
        if tune.num_steps < _PAPER_STEPS
        else "."
      )
    )
  if 0 < metrics["filter"]["kept"] == metrics["filter"]["candidates"]:
    notes.append(
      f"The filter, “{metrics['filter']['rule']}”, dropped nothing: the "
      "apprentice learned from failures too."
    )
  if config.benchmark.source == "world":
    notes.append(
      "All subjects are rendered. Nothing here says how well photographs would "
      "go; docs/photographs.md says what to train for those."
    )
  else:
    notes.append(
      "Demonstrations are photographs. Models that have seen rendered subjects "
      "alone do not generate photographs, and their encoders do not judge them "
      "well: read these scores as a test of the machinery."
    )
  return [page.section("What the numbers do not say", page.listing(notes))]


def _settings(config: Mapping[str, Any]) -> list[str]:
  """The whole config."""
  source = json.dumps(config, indent=2, sort_keys=True)
  return [page.section("Config", page.folded("all fields", source))]


if __name__ == "__main__":
  main("suti.evaluation.report", run)
