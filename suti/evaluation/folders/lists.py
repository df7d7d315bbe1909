# SPDX-License-Identifier: Apache-2.0
"""Pictures that a list describes: CSV, ImagenHub, UNO, OmniContext.

  imagenhub    dataset_lookup.json: {"sample_7.jpg": {"subject", "prompt"}}
  uno          [{"prompt" or "text", "image_paths" or "image_path"}]; row I is
               shown by I_N.png, its subject is the folder of its first path
  omnicontext  JSON lines of key, task_type, instruction, input_images; the
               references of a picture are its input images

Paths of a list begin in its folder. A picture outside of it is read, as people
keep pictures elsewhere; the list is theirs.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suti.evaluation.benchmark.subjects import Benchmark, Subject
from suti.evaluation.folders.pictures import (
  Extra,
  Picture,
  Reading,
  check_numbering,
  find_prompt,
  no_prompt,
  no_subject,
  number_of,
  plain_prompt,
  reading,
)
from suti.evaluation.folders.trees import pictures_in
from suti.io.files import read_json, read_object

_LOOKUP = "dataset_lookup.json"
_COLUMNS = ("subject", "prompt", "path")


# --- CSV ---------------------------------------------------------------------


def is_csv(path: Path) -> bool:
  """Whether it is a file: any other layout is a folder."""
  return path.is_file()


def read_csv(
  path: Path,
  *,
  benchmark: Benchmark,
  table: Path | None = None,
  identifiers: Sequence[str] = (),
) -> Reading:
  """A table with the columns subject, prompt, path, and perhaps number."""
  del table
  found = _rows(path)
  pictures, extra = [], []
  said_of: dict[str, dict[str, None]] = {}
  for line, row in enumerate(found, start=2):
    file = (row["path"] or "").strip()
    name, said = (row[c] or "" for c in ("subject", "prompt"))
    said_of.setdefault(name.strip(), {})[said.strip()] = None
    match = _match(name.strip(), said, benchmark, identifiers)
    if not file or "\0" in file:
      match = "no path"
    where = path.parent / file.replace("\0", "")
    if isinstance(match, str):
      extra.append(Extra(path=where, why=f"line {line}: {match}"))
      continue
    subject, prompt = match
    number = (row.get("number") or "").strip()
    pictures.append(
      Picture(
        subject=subject,
        prompt=prompt,
        number=int(number) if number.isdecimal() else line,
        path=where,
      )
    )
  for name, subject in benchmark.subjects.items():
    check_numbering(str(path), name, said_of.get(name, ()), subject.prompts)
  return reading(pictures, benchmark=benchmark, extra=extra)


def _rows(path: Path) -> list[dict[str, str | None]]:
  """The rows of a table by its columns in lower case."""
  text = path.read_bytes().decode("utf-8-sig", errors="replace")
  rows = csv.DictReader(io.StringIO(text, newline=""))
  try:
    columns = [name.strip().lower() for name in rows.fieldnames or ()]
    if missing := [name for name in _COLUMNS if name not in columns]:
      raise ValueError(
        f"{path} has no column {', '.join(missing)}: expected "
        f"{', '.join(_COLUMNS)} with commas between, found "
        f"{', '.join(columns)[:100] or 'none'}."
      )
    rows.fieldnames = columns
    return list(rows)
  except csv.Error as error:
    raise ValueError(
      f"{path}, line {rows.line_num + 1}, cannot be read as CSV ({error}): "
      "write the table again, in UTF-8."
    ) from error


def _match(
  name: str, said: str, benchmark: Benchmark, identifiers: Sequence[str]
) -> tuple[str, str] | str:
  """(subject, prompt) of a benchmark, or why there is none."""
  subject = benchmark.subjects.get(name)
  if subject is None:
    return no_subject(name, benchmark.subjects)
  text = plain_prompt(said, identifiers)
  if not text:
    return "no prompt"
  if not subject.prompts:
    return name, text
  prompt = find_prompt(text, subject.prompts, identifiers)
  if prompt is None:
    return no_prompt(said, name, subject.prompts)
  return name, prompt


# --- ImagenHub ---------------------------------------------------------------


def is_imagenhub(folder: Path) -> bool:
  """Whether a lookup table is in the folder or beside it."""
  return folder.is_dir() and _lookup(folder) is not None


def _lookup(folder: Path) -> Path | None:
  places = (folder / _LOOKUP, folder.resolve().parent / _LOOKUP)
  return next((path for path in places if path.is_file()), None)


def read_imagenhub(
  folder: Path,
  *,
  benchmark: Benchmark,
  table: Path | None = None,
  identifiers: Sequence[str] = (),
) -> Reading:
  """The pictures of a model; the prompts are those of the lookup table."""
  path = table or _lookup(folder)
  assert path is not None, folder
  rows = read_object(path)
  expected: dict[str, list[str]] = {}
  of_file: dict[str, tuple[str, str]] = {}
  extra = []
  for name, row in rows.items():
    if not isinstance(row, dict) or not {"subject", "prompt"} <= row.keys():
      raise ValueError(
        f"{path}: '{name}' has no subject and prompt; expected ImagenHub's "
        "table of the subject-driven task."
      )
    subject = str(row["subject"])
    if subject not in benchmark.subjects:
      why = no_subject(subject, benchmark.subjects)
      extra.append(Extra(path=folder / name, why=why))
      continue
    prompt = plain_prompt(str(row["prompt"]), identifiers)
    expected.setdefault(subject, []).append(prompt)
    of_file[Path(name).stem] = (subject, prompt)
  pictures = []
  for file in pictures_in(folder):
    if file.stem not in of_file:
      extra.append(Extra(path=file, why=f"not in {path.name}"))
      continue
    subject, prompt = of_file[file.stem]
    pictures.append(
      Picture(subject=subject, prompt=prompt, number=0, path=file)
    )
  return reading(
    pictures,
    benchmark=_with_prompts(benchmark, expected, name="imagenhub"),
    expected=expected,
    extra=extra,
    notes=(
      "layout imagenhub: its own prompts, one picture each. Not comparable "
      "with DreamBench's prompts.",
    ),
  )


def _with_prompts(
  benchmark: Benchmark, expected: dict[str, list[str]], *, name: str
) -> Benchmark:
  """A benchmark's references with another list's prompts."""
  subjects = {
    key: Subject(
      noun=benchmark.subjects[key].noun,
      references=benchmark.subjects[key].references,
      prompts=tuple(prompts),
      category=benchmark.subjects[key].category,
    )
    for key, prompts in expected.items()
  }
  return Benchmark(
    name=name, subjects=subjects, images_per_prompt=1, notes=benchmark.notes
  )


# --- UNO ---------------------------------------------------------------------

_UNO = re.compile(r"(\d+)_(\d+)")


def is_uno(folder: Path) -> bool:
  """Whether pictures are called I_N, with none in folders below."""
  if not folder.is_dir():
    return False
  files = pictures_in(folder)
  return bool(files) and any(_UNO.fullmatch(file.stem) for file in files)


def read_uno(
  folder: Path,
  *,
  benchmark: Benchmark,
  table: Path | None = None,
  identifiers: Sequence[str] = (),
) -> Reading:
  """I_N.png is picture N of row I of the list."""
  assert table is not None
  rows = read_json(table)
  if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
    raise ValueError(f"--list={table}: expected UNO's JSON list of rows.")
  matched: list[tuple[str, str] | str] = []
  expected: dict[str, list[str]] = {}
  for number, row in enumerate(rows):
    prompt = row.get("prompt") or row.get("text")
    paths = row.get("image_paths") or [row.get("image_path")]
    if not (isinstance(prompt, str) and _is_texts(paths)):
      raise ValueError(
        f"--list={table}: row {number} has no prompt and image_paths."
      )
    name = Path(paths[0]).parent.name
    match = _match(name, prompt, benchmark, identifiers)
    if len(paths) > 1:
      match = "several subjects"
    matched.append(match)
    if not isinstance(match, str):
      expected.setdefault(name, []).append(match[1])
  pictures, extra = [], []
  for file in pictures_in(folder):
    parsed = _UNO.fullmatch(file.stem)
    if not parsed or int(parsed[1]) >= len(matched):
      extra.append(Extra(path=file, why=f"no row of {table.name}"))
      continue
    match = matched[int(parsed[1])]
    if isinstance(match, str):
      extra.append(Extra(path=file, why=match))
      continue
    pictures.append(
      Picture(
        subject=match[0], prompt=match[1], number=int(parsed[2]), path=file
      )
    )
  return reading(
    pictures,
    benchmark=benchmark,
    expected={
      name: expected.get(name, ()) or subject.prompts
      for name, subject in benchmark.subjects.items()
    },
    extra=extra,
  )


def _is_texts(value: Any) -> bool:
  """Whether it is a list of one text or more."""
  return (
    isinstance(value, list)
    and bool(value)
    and all(isinstance(x, str) for x in value)
  )


# --- OmniContext -------------------------------------------------------------


def is_omnicontext(folder: Path) -> bool:
  """Whether a folder called fullset is there."""
  return (folder / "fullset").is_dir()


def read_omnicontext(
  folder: Path,
  *,
  benchmark: None = None,
  table: Path | None = None,
  identifiers: Sequence[str] = (),
) -> Reading:
  """fullset/TASK/KEY.png, and KEY_N.png where there are several."""
  del benchmark, identifiers
  assert table is not None
  rows = _json_lines(table)
  subjects, by_place, pictures, extra = {}, {}, [], []
  for row in rows:
    key, task = str(row["key"]), str(row["task_type"])
    name = f"{task}/{key}"
    if name in subjects:
      raise ValueError(f"--list={table}: {name} is in two rows: remove one.")
    subjects[name] = Subject(
      noun="subject",
      references=tuple(table.parent / p for p in row["input_images"]),
      prompts=(str(row["instruction"]),),
      category=task,
    )
    by_place[(task, key)] = name
  for place in sorted(p for p in (folder / "fullset").iterdir() if p.is_dir()):
    files = pictures_in(place)
    stems = {file.stem for file in files}
    for file in files:
      whole = by_place.get((place.name, file.stem))
      single = by_place.get((place.name, file.stem.rpartition("_")[0]))
      if whole and f"{file.stem}_0" in stems:
        continue  # a collage of those beside it
      if not (name := whole or single):
        extra.append(Extra(path=file, why=f"not in {table.name}"))
        continue
      pictures.append(
        Picture(
          subject=name,
          prompt=subjects[name].prompts[0],
          number=0 if whole else number_of(file.stem, 0),
          path=file,
        )
      )
  return reading(
    pictures,
    benchmark=Benchmark(
      name="omnicontext", subjects=subjects, images_per_prompt=1
    ),
    extra=extra,
    notes=(
      "layout omnicontext: the input pictures are the references, of several "
      "subjects in some tasks. Not comparable with DreamBench.",
    ),
  )


def _json_lines(table: Path) -> list[dict[str, Any]]:
  rows = []
  needed = {"key", "task_type", "instruction", "input_images"}
  text = table.read_bytes().decode("utf-8-sig", errors="replace")
  for number, line in enumerate(text.split("\n"), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      raise ValueError(
        f"--list={table}, line {number}, is no JSON: expected one row a line."
      ) from error
    if not isinstance(row, dict) or not needed <= row.keys():
      raise ValueError(
        f"--list={table}, line {number}: expected {', '.join(sorted(needed))}."
      )
    if not _is_texts(row["input_images"]):
      raise ValueError(
        f"--list={table}, line {number}: input_images must be a list of paths."
      )
    rows.append(row)
  return rows
