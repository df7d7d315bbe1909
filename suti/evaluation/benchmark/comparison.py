# SPDX-License-Identifier: Apache-2.0
"""Several evaluations side by side on one static page.

  reads   folders that `evaluate` wrote, and people's ratings
  writes  PAGE/{index.html, comparison.json, images/}

The first folder is the one that others are compared with, subject by subject,
by a paired bootstrap. Scores by other encoders, another protocol or another
benchmark stand beside each other but are not compared, and the page says so.
No number is computed from pictures here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from suti.evaluation import page
from suti.evaluation.benchmark import opinions, tables
from suti.evaluation.benchmark.evaluate import read_scores
from suti.evaluation.intervals import Interval
from suti.evaluation.protocol import METRICS, Protocol
from suti.evaluation.report_pictures import Album
from suti.io.files import read_json, replacing_folder, write_atomic, write_json
from suti.io.image_files import load_image
from suti.runtime.progress import say

_COLUMNS = (*METRICS, "diversity")
_THUMBNAIL_PX = 192
_SUBJECTS, _PROMPTS = 6, 4  # shown as pictures
_TABLES = {
  "per_skill": "By kind of prompt",
  "per_category": "By category",
  "per_class": "By class",
  "per_subject": "By subject",
  "per_prompt": "By prompt",
}


class System:
  """One evaluation: its metrics, rows, references, and a name of its own."""

  def __init__(self, folder: Path, names: Sequence[str]) -> None:
    self.folder = folder
    self.metrics, self.rows = read_scores(folder)
    name = str(self.metrics["system"])
    number = 1 + sum(n == name or n.startswith(f"{name} (") for n in names)
    self.name = name if number == 1 else f"{name} ({number})"
    self.references: dict[str, list[str]] = read_json(
      folder / "references.json"
    )
    known = {field: None for field in Protocol.__dataclass_fields__}
    fields = self.metrics["protocol"]
    self.protocol = Protocol(**{k: fields[k] for k in known if k in fields})

  @property
  def titles(self) -> list[str]:
    """Of the metrics' columns."""
    return [self.metrics["titles"][metric] for metric in METRICS]

  def difference_of_rules(self, other: "System") -> str:
    """What differs from another's, so that scores do not compare; or ""."""
    for field in ("protocol", "encoders"):
      if self.metrics[field] != other.metrics[field]:
        return field
    # Its photographs and prompts, whatever it is called.
    same = self.metrics["benchmark"]["key"] == other.metrics["benchmark"]["key"]
    return "" if same else "benchmark"


def write_page(
  folders: Sequence[Path],
  out: Path,
  *,
  ratings: Mapping[str, Any] | None = None,
  title: str = "Side by side",
) -> dict[str, Any]:
  """Writes the page, anew each time.

  Args:
    folders: of `evaluate`; the first is compared with.
    out: a folder of the page's own.
    ratings: of `rating.agreement.summarise`, if people rated.
    title: of the page.

  Returns: what comparison.json holds.

  Raises:
    ValueError: a folder that holds no scores, or `out` holds other files.
  """
  systems: list[System] = []
  for folder in folders:
    systems.append(System(folder, [s.name for s in systems]))
  ours = (out / "comparison.json").is_file()
  if out.is_dir() and any(out.iterdir()) and not ours:
    raise ValueError(
      f"--out={out} holds other files: give a new folder for the page."
    )
  compared = compare(systems)
  compared["ratings"] = dict(ratings or {})
  with replacing_folder(out, last="index.html") as part:
    album = Album(part)
    body = [
      f"<h1>{page.text(title)}</h1>",
      page.paragraph(_lead(systems), kind="lead"),
      *_scores(systems),
      *_differences(systems, compared),
      *opinions.people(
        compared["ratings"], systems=[str(s.metrics["system"]) for s in systems]
      ),
      *opinions.judges({s.name: s.folder for s in systems}),
      *_tables(systems),
      *_pictures(systems, album),
      *_notes(systems, compared),
    ]
    write_json(part / "comparison.json", compared)
    source = page.document(title, body)
    write_atomic(part / "index.html", source.encode())
  return compared


def compare(systems: Sequence[System]) -> dict[str, Any]:
  """Differences to the first system, on the subjects that both have.

  Returns: {"first", "systems": {name: {metric: {"mean", "low", "high",
    "subjects", "holds"}} or {"not_compared": why}}}.
  """
  first = systems[0]
  table: dict[str, Any] = {}
  for system in systems[1:]:
    if why := system.difference_of_rules(first):
      table[system.name] = {"not_compared": f"another {why}"}
      continue
    row = {}
    for metric in METRICS:
      found = tables.difference(
        tables.sums_of(system.rows, metric, system.protocol),
        tables.sums_of(first.rows, metric, first.protocol),
      )
      row[metric] = None if found is None else _interval(found)
    table[system.name] = row
  return {"first": first.name, "systems": table}


def _interval(found: Interval) -> dict[str, Any]:
  return {
    "mean": found.mean,
    "low": found.low,
    "high": found.high,
    "subjects": found.subjects,
    "holds": found.excludes(0.0),
  }


# --- What is shown -----------------------------------------------------------


def _lead(systems: Sequence[System]) -> str:
  count = sum(len(system.rows) for system in systems)
  protocol = systems[0].metrics["protocol"]
  variants = ", ".join(protocol["variants"])
  return (
    f"{count} pictures of {len(systems)} "
    f"{'system' if len(systems) == 1 else 'systems'}, scored by protocol "
    f"{protocol['name']} v{protocol['version']}"
    f"{f' with {variants}' if variants else ''} on "
    f"{systems[0].metrics['benchmark']['name']}."
  )


def _scores(systems: Sequence[System]) -> list[str]:
  rows = []
  for system in systems:
    scores = system.metrics["scores"]
    rows.append(
      [
        system.name,
        *(opinions.cell(scores.get(name)) for name in _COLUMNS),
        _share(system.metrics.get("copied", {}).get("share")),
        str(len(system.rows)),
        "yes" if system.metrics["comparable"] else "no",
      ]
    )
  real = systems[0].metrics["real"]
  rows.append(
    [
      "real photographs",
      *(opinions.cell(real.get(name)) for name in _COLUMNS),
      *("–" for _ in range(3)),
    ]
  )
  columns = [
    "",
    *systems[0].titles,
    "diversity",
    "copies",
    "pictures",
    "comparable",
  ]
  return [
    page.section(
      "Scores",
      page.paragraph(
        "Means with 95% intervals over subjects. Copying is the cosine to the "
        "nearest demonstration, copies the share of pictures nearer to one "
        "than 95% of real photographs are to theirs; the interval of real "
        "copying is that band. Real photographs are compared with each other. "
        "Comparable: complete, by the protocol, by its encoders."
      ),
      page.card(page.table(columns, rows, mark=systems[0].name)),
    )
  ]


def _share(value: float | None) -> str:
  return "–" if value is None else f"{value:.1%}"


def _differences(
  systems: Sequence[System], compared: Mapping[str, Any]
) -> list[str]:
  if len(systems) < 2:
    return []
  rows = []
  for name, row in compared["systems"].items():
    if why := row.get("not_compared"):
      rows.append([name, why, *("–" for _ in list(METRICS)[1:])])
      continue
    rows.append(
      [
        name,
        *(
          "–"
          if found is None
          else opinions.cell(found)
          + ("" if found["holds"] else " (within noise)")
          for found in (row[metric] for metric in METRICS)
        ),
      ]
    )
  return [
    page.section(
      f"Differences to {compared['first']}",
      page.paragraph(
        "Paired by subject, on those that both have: where the interval "
        "includes 0, the difference is within noise."
      ),
      page.card(page.table(["", *systems[0].titles], rows)),
    )
  ]


def _tables(systems: Sequence[System]) -> list[str]:
  pieces = []
  for key, title in _TABLES.items():
    names = sorted({n for s in systems for n in s.metrics.get(key, {})})
    if len(names) < 2:
      continue
    rows = []
    for name in names:
      for system in systems:
        row = system.metrics.get(key, {}).get(name)
        if row:
          label = name if len(systems) == 1 else f"{name} · {system.name}"
          rows.append(
            [
              label,
              *(f"{row[metric]:.3f}" for metric in METRICS),
              str(row["pictures"]),
            ]
          )
    table = page.table(["", *systems[0].titles, "pictures"], rows)
    pieces.append(
      f"<details><summary>{page.text(title)} ({len(names)})</summary>"
      f"{page.card(table)}</details>"
    )
  return [page.section("Tables", *pieces)] if pieces else []


def _pictures(systems: Sequence[System], album: Album) -> list[str]:
  """References, and the first picture of each system for some prompts."""
  subjects = list(dict.fromkeys(r.subject for s in systems for r in s.rows))
  places = np.linspace(0, len(subjects) - 1, min(_SUBJECTS, len(subjects)))
  cards = []
  for number, place in enumerate(places.round().astype(int)):
    name = subjects[place]
    prompts = list(
      dict.fromkeys(
        r.prompt for s in systems for r in s.rows if r.subject == name
      )
    )[:_PROMPTS]
    known = [s.references[name] for s in systems if name in s.references]
    figures = [
      page.figure(shown, caption="reference")
      for i, path in enumerate(known[0][:6] if known else [])
      if (shown := _thumbnail(album, path, f"{number:02d}-reference-{i}"))
    ]
    rows = []
    for order, system in enumerate(systems):
      first = {
        row.prompt: row.path
        for row in reversed(system.rows)
        if row.subject == name
      }
      rows.append(
        (
          system.name,
          [
            _thumbnail(album, first[p], f"{number:02d}-{order:02d}-{i}")
            if p in first
            else None
            for i, p in enumerate(prompts)
          ],
        )
      )
    cards.append(
      page.card(
        f"<h3>{page.text(name)}</h3>",
        page.picture_row(figures),
        page.picture_grid(prompts, rows),
      )
    )
  return [
    page.section(
      "Pictures",
      page.paragraph(
        "The first picture of each prompt, none chosen. Pictures that are no "
        "longer where they were scored are left out."
      ),
      *cards,
    )
  ]


def _thumbnail(album: Album, path: str, name: str) -> str | None:
  """A small copy of a picture; None if it cannot be read any more."""
  try:
    image_u8 = load_image(path)
  except ValueError as error:
    say(f"Note: {error}")
    return None
  image = Image.fromarray(image_u8)
  image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
  return album.add(np.asarray(image), name)


def _notes(systems: Sequence[System], compared: Mapping[str, Any]) -> list[str]:
  """Warnings of each evaluation, and what it was measured by."""
  notes = [
    f"{system.name}: {line}"
    for system in systems
    for line in system.metrics["warnings"]
  ]
  notes += [
    f"{name} is not compared with {compared['first']}: {row['not_compared']}."
    for name, row in compared["systems"].items()
    if "not_compared" in row
  ]
  for system in systems:
    encoders = ", ".join(
      f"{name} {facts['folder']} ({facts['class']}, {facts['fingerprint']})"
      for name, facts in system.metrics["encoders"].items()
    )
    notes.append(f"{system.name} was scored by {encoders}.")
  return [page.section("What to know", page.listing(notes))]
