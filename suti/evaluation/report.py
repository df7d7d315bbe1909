# SPDX-License-Identifier: Apache-2.0
"""The report of a run on one static page: pictures, numbers, times, caveats.

  reads   the files of all stages in a workdir, benchmark/ included
  writes  report/{index.html, metrics.json, images/}, anew each time

What a stage did not leave (no experts on the benchmark, say) is left out of the
page. Nothing is sampled or scored here, and no number is computed that
`apprentice.evaluate` or `experts.filter` did not write.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suti.evaluation import page
from suti.images import save_png
from suti.io.files import read_json, replacing_folder, write_atomic, write_json
from suti.io.paths import path_of
from suti.io.records import read_lines, read_records
from suti.runtime.progress import span
from suti.runtime.stage import main
from suti.schema import Candidate, Cluster, Prompt, Score

SYSTEMS = {
  "real": "real pictures",
  "experts": "an expert each",
  "apprentice": "apprentice",
  "base": "base, no demonstrations",
  "scenes": "real, in the prompts' scenes",
  "apprentice_expert_subjects": "apprentice, where experts are",
}
METRICS = {"identity": "identity", "clip_i": "CLIP-I", "clip_t": "CLIP-T"}
# Folder of a stage -> what the page calls it, in the order they run.
STAGES = {
  "experts/mine": "1 mine",
  "experts/prompts": "1 prompts",
  "experts/finetune": "2 finetune",
  "experts/sample": "3 sample",
  "experts/filter": "4 filter",
  "experts/pack": "5 pack",
  "apprentice/train": "6 train",
  "benchmark/experts/mine": "benchmark: subjects",
  "benchmark/experts/prompts": "benchmark: prompts",
  "benchmark/experts/finetune": "benchmark: experts",
  "benchmark/experts/sample": "benchmark: their pictures",
  "apprentice/sample": "7 sample",
  "apprentice/evaluate": "8 evaluate",
}


class Album:
  """Writes pictures under a report's images/ and knows them by path."""

  def __init__(self, folder: Path) -> None:
    self._folder = folder
    (folder / "images").mkdir(parents=True, exist_ok=True)

  def add(self, image_u8: np.ndarray, name: str) -> str:
    """Writes one picture; returns its path relative to the page."""
    path = f"images/{name}.png"
    save_png(self._folder / path, image_u8)
    return path


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
    "filter": _filter(workdir, config),
    "config": config.to_dict(),
  }
  with replacing_folder(workdir / "report", last="index.html") as folder:
    album = Album(folder)
    body = [
      *_head(config, metrics),
      *_metrics(metrics),
      *_subjects(config, workdir, album),
      *_kept_and_dropped(config, workdir, album, metrics["filter"]),
      *_learning(workdir, metrics["stages"]),
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


def _filter(workdir: Path, config: Any) -> dict[str, Any]:
  """How many candidates were kept, and how delta-CLIP is spread."""
  scores = _scores(workdir)
  kept = [score for score in scores if score.kept]
  return {
    "candidates": len(scores),
    "kept": len(kept),
    "keep_rate": len(kept) / len(scores) if scores else None,
    "threshold": config.filter.threshold,
    "delta_clip": [round(score.delta_clip, 5) for score in scores],
  }


def _scores(workdir: Path) -> list[Score]:
  path = workdir / "experts" / "filter" / "scores.jsonl"
  return list(read_lines(path, Score)) if path.is_file() else []


def _candidates(
  folder: Path, wanted: Iterable[str], *, by: str, prefix: str = ""
) -> dict[str, list[Candidate]]:
  """Candidates of a stage's folder by one of their fields."""
  found: dict[str, list[Candidate]] = {key: [] for key in wanted}
  for path in sorted(folder.glob(f"{prefix}*.array_record")):
    for candidate in read_records(path, Candidate):
      key = getattr(candidate, by)
      if key in found:
        found[key].append(candidate)
  return found


def _clusters(workdir: Path, wanted: Iterable[str]) -> dict[str, Cluster]:
  """Clusters by key, in the order of `wanted`."""
  path = workdir / "experts" / "mine" / "clusters.array_record"
  wanted = list(dict.fromkeys(wanted))
  known = {c.key: c for c in read_records(path, Cluster) if c.key in wanted}
  return {key: known[key] for key in wanted if key in known}


def _losses(workdir: Path) -> list[tuple[float, float]]:
  """(step, loss) of the apprentice; of a step logged twice, the later."""
  path = workdir / "apprentice" / "train" / "log.jsonl"
  rows: dict[float, float] = {}
  lines = path.read_text().splitlines() if path.is_file() else []
  for line in lines:
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue  # The last line of a run that was killed may be half a line.
    if "loss" in row and "step" in row:
      rows[row["step"]] = row["loss"]
  return sorted(rows.items())


# --- What is shown -----------------------------------------------------------


def _head(config: Any, metrics: Mapping[str, Any]) -> list[str]:
  """Title, one sentence, and the numbers to remember."""
  benchmark = config.benchmark
  where = (
    "held-out SubjectWorld subjects"
    if benchmark.source == "world"
    else f"subjects of {benchmark.path}"
  )
  num_subjects = len(metrics["per_subject"])
  seconds = sum(stage["seconds"] for stage in metrics["stages"].values())
  rows = []
  if metrics.get("gap_closed") is not None:
    closed = f"{metrics['gap_closed']:.0%}"
    rows.append((closed, "of the gap in identity closed, base to real"))
  if metrics.get("clip_t_drop") is not None:
    change = f"{-metrics['clip_t_drop']:+.3f}"
    rows.append((change, "CLIP-T, apprentice against base"))
  if metrics.get("speedup") is not None:
    faster = f"{metrics['speedup']:.0f}×"
    rows.append((faster, "faster than a new expert, an image"))
  if metrics["filter"]["keep_rate"] is not None:
    kept = f"{metrics['filter']['keep_rate']:.0%}"
    rows.append((kept, "of the experts' pictures kept by the filter"))
  rows.append((span(seconds), "for all stages"))
  trained = (
    "Experts made the data, a filter chose from it, and one apprentice learned "
    "to do without experts. Here it"
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
    page.tiles(rows),
  ]


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
  """Systems x metrics, with standard errors."""
  systems = metrics["systems"]
  rows = []
  for name, label in SYSTEMS.items():
    if name not in systems:
      continue
    system = systems[name]
    rows.append(
      [
        label,
        *(_score(system.get(metric)) for metric in METRICS),
        str(system.get("images", "")),
        _seconds(metrics.get("times", {}), name),
      ]
    )
  columns = ["", *METRICS.values(), "pictures", "seconds an image"]
  return [
    page.section(
      "Scores",
      page.paragraph(
        "Mean over subjects ± its standard error. Identity: cosine to the real "
        "pictures by an encoder of who a subject is; CLIP-I: the same by CLIP; "
        "CLIP-T: cosine of picture and prompt."
      ),
      page.card(page.table(columns, rows, mark=SYSTEMS["apprentice"])),
    )
  ]


def _score(value: Mapping[str, float] | None) -> str:
  if value is None:
    return "–"
  if value.get("stderr") is None:
    return f"{value['mean']:.3f}"
  return f"{value['mean']:.3f} ± {value['stderr']:.3f}"


def _seconds(times: Mapping[str, float], name: str) -> str:
  if name in ("apprentice", "base"):
    seconds = times.get(f"{name}_seconds_per_image")
    return "–" if seconds is None else f"{seconds:.2f}"
  if name == "experts" and "expert_seconds_to_finetune" in times:
    tune = times["expert_seconds_to_finetune"]
    return f"{tune:.0f} to tune, then {times['expert_seconds_per_image']:.2f}"
  return "–"


def _subjects(config: Any, workdir: Path, album: Album) -> list[str]:
  """A card for each held-out subject: demonstrations and generated images."""
  benchmark = workdir / "benchmark"
  prompts: dict[str, list[Prompt]] = {}
  path = benchmark / "experts" / "prompts" / "prompts.jsonl"
  for prompt in read_lines(path, Prompt):
    prompts.setdefault(prompt.cluster, []).append(prompt)
  keys = list(prompts)[: config.report.num_subjects]
  sources = {
    "apprentice": (workdir / "apprentice" / "sample", "apprentice-"),
    "base": (workdir / "apprentice" / "sample", "base-"),
    "experts": (benchmark / "experts" / "sample", ""),
    "scenes": (workdir / "apprentice" / "evaluate", "scenes"),
  }
  generated = {
    name: _candidates(folder, keys, by="cluster", prefix=prefix)
    for name, (folder, prefix) in sources.items()
  }
  given = config.apprentice_sample.num_demonstrations
  cards = []
  for number, cluster in enumerate(_clusters(benchmark, keys).values()):
    shown = _pick_prompts(prompts[cluster.key], config.report.num_prompts)
    figures = [
      page.figure(
        album.add(image_u8, f"subject-{number:02d}-given-{i}"),
        caption=caption,
        note="" if i < given else "not given",
      )
      for i, (image_u8, caption) in enumerate(
        zip(cluster.images, cluster.captions, strict=True)
      )
    ]
    rows = []
    for name in ("apprentice", "experts", "base", "scenes"):
      images = {
        c.prompt: c.image for c in reversed(generated[name][cluster.key])
      }
      paths = [
        album.add(images[p.prompt], f"subject-{number:02d}-{name}-{i}")
        if p.prompt in images
        else None
        for i, p in enumerate(shown)
      ]
      if any(paths):
        rows.append((_row_title(name), paths))
    cards.append(
      page.card(
        f"<h3>{page.text(cluster.caption)}</h3>",
        page.picture_row(figures),
        page.picture_grid([p.prompt for p in shown], rows),
      )
    )
  return [
    page.section(
      "Subjects it had never seen",
      page.paragraph(
        "Above, the pictures of the subject; below, the first image that each "
        "system generated for a prompt, none chosen. An expert was fine-tuned "
        "on that subject; the apprentice was not."
      ),
      *cards,
    )
  ]


def _row_title(name: str) -> str:
  return {"experts": "its expert", "scenes": "real", "base": "base"}.get(
    name, name
  )


def _pick_prompts(prompts: Sequence[Prompt], num: int) -> list[Prompt]:
  """Prompts spread over the benchmark's order, not the first ones."""
  if len(prompts) <= num:
    return list(prompts)
  places = np.linspace(0, len(prompts) - 1, num).round().astype(int)
  return [prompts[i] for i in places]


def _kept_and_dropped(
  config: Any, workdir: Path, album: Album, numbers: Mapping[str, Any]
) -> list[str]:
  """The filter: its rate, how scores are spread, and where it draws a line."""
  scores = sorted(_scores(workdir), key=lambda s: s.delta_clip, reverse=True)
  if not scores:
    return []
  num = config.report.num_examples
  kept = [score for score in scores if score.kept]
  dropped = [score for score in scores if not score.kept]
  groups = {
    "best kept": kept[:num],
    "worst kept": kept[num:][-num:],
    "best dropped": dropped[:num],
    "worst dropped": dropped[num:][-num:],
  }
  wanted = [s.candidate for group in groups.values() for s in group]
  pictures = _candidates(
    workdir / "experts" / "sample", wanted, by="key", prefix="wave-"
  )
  blocks = []
  for title, group in groups.items():
    figures = [
      page.figure(
        album.add(
          pictures[score.candidate][0].image, f"filter-{score.candidate}"
        ),
        caption=score.prompt,
        note=f"Δ {score.delta_clip:+.3f}",
      )
      for score in group
      if pictures[score.candidate]
    ]
    if figures:
      kind = "good" if "kept" in title else "bad"
      blocks.append(
        f'<h3><span class="tag {kind}">{page.text(title)}</span></h3>'
        + page.picture_row(figures)
      )
  threshold = numbers["threshold"]
  return [
    page.section(
      "What the filter kept",
      page.paragraph(
        f"Kept {numbers['kept']} of the {numbers['candidates']} images of the "
        f"experts, {numbers['keep_rate']:.0%}: those whose Δ, how much "
        "better the image meets its prompt than the best demonstration does, "
        f"is above {threshold:g}."
      ),
      page.card(
        page.histogram(
          numbers["delta_clip"],
          threshold=threshold,
          x_label="Δ = CLIP(picture, prompt) − max CLIP(demonstration, prompt)",
          title="Delta-CLIP of all candidates",
        ),
      ),
      page.card(*blocks),
    )
  ]


def _learning(workdir: Path, stages: Mapping[str, Any]) -> list[str]:
  """The apprentice's loss, and how the experts fared."""
  tuned = stages.get("experts/finetune", {}).get("summary", {})
  counts = [
    f"{key.replace('_', ' ')} {value:.4g}"
    if isinstance(value, float)
    else f"{key.replace('_', ' ')} {value}"
    for key, value in tuned.items()
    if not isinstance(value, (dict, list))
  ]
  return [
    page.section(
      "Learning",
      page.card(
        "<h3>The apprentice's loss</h3>",
        page.curve(
          _losses(workdir), x_label="step", title="The apprentice's loss"
        ),
      ),
      page.paragraph(f"Fine-tuning: {', '.join(counts)}." if counts else ""),
    )
  ]


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
      page.card(page.bars(rows)),
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
    f"{config.train.num_steps} steps more in this run: what it had learned "
    "before is part of its score.",
    f"{config.clip!r} judges here and chose the training data too: its scores "
    "flatter what it chose. The identity encoder chose nothing"
    + (
      "."
      if config.filter.identity_threshold is None
      else ", but for the identity filter that was on."
    ),
  ]
  if config.filter.threshold <= -1:
    notes.append(
      f"The filter's threshold is {config.filter.threshold:g}: it dropped "
      "nothing, and the apprentice learned from failures too."
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
