# SPDX-License-Identifier: Apache-2.0
"""Any project's folder of pictures -> which picture shows what.

  plain             FOLDER/SUBJECT/PROMPT/N.png; PROMPT is the text, the text
                    with underscores, or its number
  csv               FILE.csv with the columns subject, prompt, path
  imagenhub         MODEL/sample_N.jpg, and dataset_lookup.json above them
  dreambench-plus   METHOD/{src_image,tgt_image,text}/COLLECTION/I_N.*
  uno               RESULTS/I_N.png, with its JSON list
  omnicontext       RESULTS/fullset/TASK/KEY.png, with its list as JSON lines

Nothing is opened here but lists of texts. What is missing, what belongs to no
prompt, what cannot be decided, is said by name; the rest is scored.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from suti.config.names import suggest
from suti.evaluation.benchmark.subjects import Benchmark
from suti.evaluation.folders import lists, trees
from suti.evaluation.folders.pictures import Reading


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """How one project lays out its pictures.

  Attributes:
    fits: whether a path looks like one.
    read: (path, benchmark or None, list or None, identifier) -> what is there.
    own: whether it brings its references itself, so that no benchmark is given.
    needs_list: the list that it cannot be read without, "" for none.
  """

  fits: Callable[[Path], bool]
  read: Callable[..., Reading]
  own: bool = False
  needs_list: str = ""


# In the order in which they are tried: the last fits any folder.
LAYOUTS = {
  "csv": Layout(fits=lists.is_csv, read=lists.read_csv),
  "imagenhub": Layout(fits=lists.is_imagenhub, read=lists.read_imagenhub),
  "dreambench-plus": Layout(
    fits=trees.is_dreambench_plus, read=trees.read_dreambench_plus, own=True
  ),
  "omnicontext": Layout(
    fits=lists.is_omnicontext,
    read=lists.read_omnicontext,
    own=True,
    needs_list="its data's rows as JSON lines: key, task_type, instruction, "
    "input_images (paths)",
  ),
  "uno": Layout(
    fits=lists.is_uno,
    read=lists.read_uno,
    needs_list="the JSON list that it was made with, dreambench_singleip.json",
  ),
  "plain": Layout(fits=lambda path: path.is_dir(), read=trees.read_plain),
}


def layout_of(path: Path, name: str | None = None) -> str:
  """Which layout a path has.

  Args:
    path: a folder, or a table.
    name: as given by the user; None looks.

  Raises:
    ValueError: nothing is there, or no such layout.
  """
  if not path.exists():
    raise ValueError(
      f"{path}: no such folder; give the folder of generated pictures."
    )
  if name is None:
    return next(
      (n for n, layout in LAYOUTS.items() if layout.fits(path)), "csv"
    )
  if name not in LAYOUTS:
    raise ValueError(
      f"--layout={name}: expected {', '.join(LAYOUTS)}.{suggest(name, LAYOUTS)}"
    )
  if not LAYOUTS[name].fits(path):
    raise ValueError(
      f"{path} is not laid out as {name}: leave --layout out to have it found, "
      f"or see docs/evaluation.md for what {name} looks like."
    )
  return name


def read_pictures(
  path: Path,
  *,
  layout: str,
  benchmark: Benchmark | None,
  table: Path | None = None,
  identifiers: Sequence[str] = (),
) -> Reading:
  """Which picture shows which subject for which prompt.

  Args:
    path: a folder, or a table.
    layout: a name of `LAYOUTS`.
    benchmark: its subjects and prompts; None where the layout has its own.
    table: the project's list, where it needs one.
    identifiers: words that prompts have and the benchmark's have not, "sks".

  Raises:
    ValueError: no picture is found, a list is missing or malformed, or a
      benchmark is given or missing where it must be the other way.
  """
  chosen = LAYOUTS[layout]
  if chosen.needs_list and table is None:
    raise ValueError(
      f"{path} is of {layout}, whose files do not say what they show: give "
      f"--list FILE, {chosen.needs_list}."
    )
  if table is not None and not chosen.needs_list and layout != "imagenhub":
    raise ValueError(
      f"--list={table}: {layout} says itself what its files show: leave --list "
      "out."
    )
  if table is not None and not table.is_file():
    raise ValueError(f"--list={table}: no such file.")
  if chosen.own and benchmark is not None:
    raise ValueError(
      f"{path} is of {layout}, which brings its own references: leave out "
      "--benchmark and --data."
    )
  if not chosen.own and benchmark is None:
    raise ValueError(
      "--benchmark is missing: give dreambench (with --data), subjectworld, or "
      "a folder with a folder of photographs for each subject."
    )
  if chosen.own and identifiers:
    raise ValueError(
      f"--identifier={identifiers[0]}: prompts of {layout} are scored as they "
      "are written: leave it out."
    )
  reading = chosen.read(
    path, benchmark=benchmark, table=table, identifiers=tuple(identifiers)
  )
  if not reading.pictures:
    why = ""
    if reading.extra:
      why = f" {len(reading.extra)} others: {reading.extra[0].why}."
    raise ValueError(
      f"{path} has no picture of the benchmark, read as {layout}.{why} Another "
      f"layout is chosen by --layout: {', '.join(LAYOUTS)}."
    )
  return reading
