# SPDX-License-Identifier: Apache-2.0
"""One page of many studies: a question, a curve or a table, what a paper says.

  reads   findings.json of studies (`suti.evaluation.findings`), their images
  writes  OUT/{index.html, images/}

A difference whose interval contains 0 is called unresolved, and not a finding.
No number is computed here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suti.evaluation import charts, page
from suti.evaluation.findings import MEASURES
from suti.evaluation.report_pictures import Album, find_candidates
from suti.io.files import read_json, replacing_folder, write_atomic
from suti.io.records import read_lines
from suti.schema import Prompt

FILE = "findings.json"
_WRITTEN = {"index.html", "images"}
_SUBJECTS, _PROMPTS = 3, 3  # whose images are shown


def write_page(studies: Sequence[Path], out: Path) -> None:
  """Writes the page, anew each time.

  Args:
    studies: folders of studies, each with its findings.json.
    out: where the page goes.

  Raises:
    ValueError: a folder without findings, or `out` holds other files.
  """
  for folder in studies:
    if not (folder / FILE).is_file():
      raise ValueError(
        f"{folder} has no {FILE}: give the workdir of a `suti study`."
      )
  check_out(out)
  with replacing_folder(out, last="index.html") as part:
    album, body = Album(part), ["<h1>Findings</h1>"]
    body.append(
      page.paragraph(
        "Means over subjects with 95% intervals by a bootstrap over subjects, "
        "and paired differences to the marked row. A difference whose interval "
        "contains 0 has a ~: it is unresolved, and more subjects or seeds may "
        "tell. With fewer than about 20 subjects intervals are too narrow.",
        kind="lead",
      )
    )
    for number, folder in enumerate(studies):
      found = read_json(folder / FILE)
      body += _study(found, _pictures(found, folder, album, number=number))
    write_atomic(part / "index.html", page.document("Findings", body).encode())


def check_out(out: Path) -> None:
  """Refuses a folder that holds more than a page, as all of it is replaced.

  Raises:
    ValueError: it does.
  """
  if out.is_dir() and (more := {p.name for p in out.iterdir()} - _WRITTEN):
    raise ValueError(
      f"{out} holds other files than those of a page, such as {min(more)}: "
      "move them, or give another folder."
    )


def _study(found: Mapping[str, Any], pictures: str) -> list[str]:
  """The section of a study."""
  rows, reference = found["rows"], found["reference"]
  measures = [
    name for name in MEASURES if any(name in row["measures"] for row in rows)
  ]
  table = [
    [
      row["label"],
      *(_cell(row["measures"].get(name)) for name in measures),
      str(row["images"]),
    ]
    for row in rows
  ]
  apart = [
    [
      row["label"],
      *(_apart(row["measures"].get(name)) for name in measures),
    ]
    for row in rows
    if row["label"] != reference
  ]
  titles = [MEASURES[name] for name in measures]
  pieces = [
    page.paragraph(found["question"]),
    page.paragraph(f"The paper: {found['paper']}", kind="soft"),
    *(_unfinished(found) if found.get("runs_left") else []),
    *(_curves(found, measures) if found["x"] else []),
    page.card(page.table(["", *titles, "images"], table, mark=reference)),
  ]
  if apart:
    pieces += [
      page.paragraph(f"Differences to “{reference}”:"),
      page.card(page.table(["", *titles], apart)),
    ]
  pieces.append(page.paragraph(_seeds(found), kind="soft"))
  if pictures:
    pieces.append(page.card(pictures))
  pieces.append(page.folded("the command", found["command"]))
  return [page.section(found["title"], *pieces)]


def _unfinished(found: Mapping[str, Any]) -> list[str]:
  """What is said of a study some of whose runs are still to come."""
  left = found["runs_left"]
  said = (
    f"Not finished: {left} more {'run' if left == 1 else 'runs'} to come. A "
    "row appears with its first run; a further seed counts once all rows have "
    "it."
  )
  if found["awaited"]:
    said += f" Until “{found['awaited']}” is there, the first row is marked."
  return [page.paragraph(said)]


def _curves(found: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
  """A chart of each measure over x, with its intervals."""
  cards = []
  for name in measures:
    points = [
      (row["x"], m["mean"], m["low"], m["high"])
      for row in found["rows"]
      if row["x"] is not None and (m := row["measures"].get(name))
    ]
    if len(points) > 1:
      cards.append(
        page.card(
          f"<h3>{page.text(MEASURES[name])}</h3>",
          charts.intervals(
            sorted(points, key=lambda point: point[0]),
            x_label=found["x"],
            title=f"{MEASURES[name]} by {found['x']}",
          ),
        )
      )
  return [f'<div class="split">{"".join(cards)}</div>'] if cards else []


def _cell(value: Mapping[str, Any] | None) -> str:
  if value is None:
    return "–"
  if value["low"] is None:
    return f"{value['mean']:.3f}"
  return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _apart(value: Mapping[str, Any] | None) -> str:
  """A difference with its sign; a tilde where it is unresolved."""
  if value is None or "difference" not in value:
    return "–"
  apart = value["difference"]
  sign = "" if apart["resolved"] else "~ "
  if apart["low"] is None:
    return f"~ {apart['mean']:+.3f}"
  return (
    f"{sign}{apart['mean']:+.3f} [{apart['low']:+.3f}, {apart['high']:+.3f}]"
  )


def _seeds(found: Mapping[str, Any]) -> str:
  """How far seeds are from each other, of the measure where it is most."""
  num = len(found["seeds"])
  if num < 2:
    return "One seed: how much a training's own luck matters is not known."
  apart = {
    name: max(
      max(row["measures"][name]["by_seed"])
      - min(row["measures"][name]["by_seed"])
      for row in found["rows"]
      if name in row["measures"]
    )
    for name in MEASURES
    if any(name in row["measures"] for row in found["rows"])
  }
  spread = ", ".join(f"{MEASURES[n]} {value:.3f}" for n, value in apart.items())
  return f"{num} seeds; the widest gap between them in one row: {spread}."


def _pictures(
  found: Mapping[str, Any], folder: Path, album: Album, *, number: int
) -> str:
  """The first images of some subjects, by row, none chosen; "" without any."""
  if not found["rows"]:
    return ""
  columns: list[str] = []
  rows = []
  for place, row in enumerate(found["rows"]):
    workdir = folder / row["runs"][0]
    images_at, prefix = _where(workdir, row["system"])
    listed = workdir / "benchmark/experts/prompts/prompts.jsonl"
    if not listed.is_file() or not images_at.is_dir():
      continue
    wanted = _choose(read_lines(listed, Prompt))
    columns = columns or [prompt.prompt for prompt in wanted]
    images = find_candidates(
      images_at, {p.cluster for p in wanted}, by="cluster", prefix=prefix
    )
    paths = []
    for i, prompt in enumerate(wanted[: len(columns)]):
      shown = next(
        (c for c in images[prompt.cluster] if c.prompt == prompt.prompt), None
      )
      paths.append(
        shown and album.add(shown.image, f"study-{number}-{place:02d}-{i}")
      )
    rows.append((row["label"], paths))
  return page.picture_grid(columns, rows) if rows else ""


def _where(workdir: Path, system: str) -> tuple[Path, str]:
  """The folder of a system's images, and how their files' names begin."""
  if system == "experts":
    return workdir / "benchmark/experts/sample", "wave-"
  if system == "scenes":
    return workdir / "apprentice/evaluate", "scenes"
  return workdir / "apprentice/sample", f"{system}-"


def _choose(prompts: Sequence[Prompt]) -> list[Prompt]:
  """A few prompts, spread, of each of the first subjects."""
  of_subject: dict[str, list[Prompt]] = {}
  for prompt in prompts:
    of_subject.setdefault(prompt.cluster, []).append(prompt)
  chosen = []
  for each in list(of_subject.values())[:_SUBJECTS]:
    step = max(1, len(each) // _PROMPTS)
    chosen += each[::step][:_PROMPTS]
  return chosen
