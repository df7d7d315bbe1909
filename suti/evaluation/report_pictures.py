# SPDX-License-Identifier: Apache-2.0
"""The pictures of a report: a card for each subject, and the filter's choice.

Their sections of the page; `suti.evaluation.report` has the numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suti.evaluation import page
from suti.images import save_png
from suti.io.records import read_lines, read_records
from suti.schema import Candidate, Cluster, Prompt, Score


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


def read_scores(workdir: Path) -> list[Score]:
  """The filter's scores of all candidates; none if it was not run."""
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


def subjects(config: Any, workdir: Path, album: Album) -> list[str]:
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


def kept_and_dropped(
  config: Any, workdir: Path, album: Album, numbers: Mapping[str, Any]
) -> list[str]:
  """The filter: its rate, how scores are spread, and where it draws a line."""
  scores = sorted(
    read_scores(workdir), key=lambda s: s.delta_clip, reverse=True
  )
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
