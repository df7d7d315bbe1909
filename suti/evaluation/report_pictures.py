# SPDX-License-Identifier: Apache-2.0
"""The pictures of a report: the album, and a card for each subject.

`suti.evaluation.report` has the numbers, `report_filter` the filter's choice.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suti.evaluation import page
from suti.images import save_png
from suti.io.records import read_lines, read_records
from suti.schema import Candidate, Cluster, Prompt


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


def find_candidates(
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
  sampled = workdir / "apprentice" / "sample"
  # A copied demonstration is to be seen above already.
  systems = [s for s in config.apprentice_sample.systems if s != "copy"]
  sources = {
    "apprentice": (sampled, "apprentice-"),
    "experts": (benchmark / "experts" / "sample", ""),
    **{name: (sampled, f"{name}-") for name in systems},
    "scenes": (workdir / "apprentice" / "evaluate", "scenes"),
  }
  generated = {
    name: find_candidates(folder, keys, by="cluster", prefix=prefix)
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
    for name in sources:
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
        "system generated for a prompt, none chosen."
        + (
          " An expert was fine-tuned on that subject; the apprentice was not."
          if any(generated["experts"].values())
          else ""
        )
      ),
      *cards,
    )
  ]


def _row_title(name: str) -> str:
  return {
    "experts": "its expert",
    "scenes": "real",
    "text_only": "base, described",
    "before": "before training",
    "wrong_subject": "shown another",
    "shuffled": "shown several others",
  }.get(name, name)


def _pick_prompts(prompts: Sequence[Prompt], num: int) -> list[Prompt]:
  """Prompts spread over the benchmark's order, not the first ones."""
  if len(prompts) <= num:
    return list(prompts)
  places = np.linspace(0, len(prompts) - 1, num).round().astype(int)
  return [prompts[i] for i in places]
