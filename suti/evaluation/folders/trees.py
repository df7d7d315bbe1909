# SPDX-License-Identifier: Apache-2.0
"""Pictures whose folders say what they show: plain trees, DreamBench++'s.

DreamBench++ (github.com/yuangpeng/dreambench_plus) mirrors one tree three
times: `src_image` has the subject's only picture, `tgt_image` what was
generated, `text` the prompt, each as COLLECTION/I_N, I the prompt's number.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from suti.evaluation.benchmark.subjects import Benchmark, Subject, without_masks
from suti.evaluation.folders.pictures import (
  Extra,
  Picture,
  Reading,
  check_numbering,
  find_prompt,
  no_prompt,
  no_subject,
  number_of,
  reading,
)
from suti.io.folders import walk
from suti.io.image_files import list_pictures, remedy_of, suffixes

_MIRRORED = ("src_image", "tgt_image", "text")


def read_plain(
  folder: Path,
  *,
  benchmark: Benchmark,
  table: Path | None = None,
  identifiers: Sequence[str] = (),
) -> Reading:
  """SUBJECT/PROMPT/N.png."""
  del table
  pictures = []
  files, extra = _pictures_below(folder)
  said_of: dict[str, dict[str, None]] = {}
  for path in files:
    parts = path.relative_to(folder).parts
    if len(parts) != 3:
      extra.append(Extra(path=path, why="expected SUBJECT/PROMPT/N.png"))
      continue
    name, said, _ = parts
    subject = benchmark.subjects.get(name)
    if subject is None:
      why = no_subject(name, benchmark.subjects)
      extra.append(Extra(path=path, why=why))
      continue
    said_of.setdefault(name, {})[said] = None
    prompt = (
      find_prompt(said, subject.prompts, identifiers)
      if subject.prompts
      else re.sub(r"_+", " ", said).strip()
    )
    if not prompt:
      extra.append(Extra(path=path, why=no_prompt(said, name, subject.prompts)))
      continue
    pictures.append(
      Picture(
        subject=name,
        prompt=prompt,
        number=number_of(path.stem, len(pictures)),
        path=path,
      )
    )
  for name, names in said_of.items():
    check_numbering(
      str(folder / name), name, names, benchmark.subjects[name].prompts
    )
  return reading(pictures, benchmark=benchmark, extra=extra)


def is_dreambench_plus(folder: Path) -> bool:
  """Whether the mirrored trees are there."""
  return all((folder / name).is_dir() for name in _MIRRORED)


def read_dreambench_plus(
  folder: Path,
  *,
  benchmark: None = None,
  table: Path | None = None,
  identifiers: Sequence[str] = (),
) -> Reading:
  """The mirrored trees; the references are those of `src_image`."""
  del benchmark, table, identifiers
  sources = {
    _place(path, folder / "src_image"): path
    for path in _pictures_below(folder / "src_image")[0]
  }
  pictures = []
  files, extra = _pictures_below(folder / "tgt_image")
  references: dict[str, Path] = {}
  prompts: dict[str, dict[str, None]] = {}
  for path in files:
    place = _place(path, folder / "tgt_image")
    text = folder / "text" / f"{place}.txt"
    collection = place.rpartition("/")[0] or "."
    if place not in sources:
      extra.append(Extra(path=path, why="no picture of src_image beside it"))
    elif not text.is_file():
      extra.append(Extra(path=path, why="no text beside it"))
    else:
      prompt = _prompt_in(text)
      if not prompt:
        extra.append(Extra(path=path, why=f"{text.name} is empty"))
        continue
      references.setdefault(collection, sources[place])
      prompts.setdefault(collection, {})[prompt] = None
      pictures.append(
        Picture(
          subject=collection,
          prompt=prompt,
          number=number_of(path.stem, 0),
          path=path,
        )
      )
  expected: dict[str, tuple[str, ...]] = {
    name: tuple(found) for name, found in prompts.items()
  }
  # A source without any generated picture is missing, not absent.
  for place, path in sources.items():
    collection = place.rpartition("/")[0] or "."
    references.setdefault(collection, path)
    text = folder / "text" / f"{place}.txt"
    if text.is_file() and (prompt := _prompt_in(text)):
      found = expected.get(collection, ())
      expected[collection] = tuple(dict.fromkeys((*found, prompt)))
  subjects = {
    name: Subject(
      noun=re.sub(r"[\d_-]+", " ", name.rpartition("/")[2]).strip() or name,
      references=(path,),
      prompts=expected.get(name, ()),
      category=name.partition("/")[0],
    )
    for name, path in sorted(references.items())
  }
  return reading(
    pictures,
    benchmark=Benchmark(
      name="dreambench-plus", subjects=subjects, images_per_prompt=1
    ),
    expected=expected,
    extra=extra,
    notes=(
      "layout dreambench-plus: one reference a subject, the picture that the "
      "model was given. Not comparable with DreamBench.",
    ),
  )


def _prompt_in(text: Path) -> str:
  """The first line of a file, "" of an empty one."""
  content = text.read_bytes().decode("utf-8-sig", errors="replace")
  return " ".join(content.strip().partition("\n")[0].split())


def _place(path: Path, root: Path) -> str:
  return path.relative_to(root).with_suffix("").as_posix()


def _pictures_below(folder: Path) -> tuple[list[Path], list[Extra]]:
  """All pictures of a tree, without masks; and those of unread formats."""
  known = set(suffixes())
  found, extra = [], []
  for place, names, _ in walk(folder):
    for name in names:
      if name.startswith("."):
        continue
      if Path(name).suffix.lower() in known:
        found.append(place / name)
      elif remedy := remedy_of(name):
        extra.append(Extra(path=place / name, why=remedy))
  return without_masks(found), extra


def pictures_in(folder: Path) -> list[Path]:
  """The pictures of one folder, without masks."""
  return without_masks(list_pictures(folder)[0])
