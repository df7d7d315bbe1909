# SPDX-License-Identifier: Apache-2.0
"""Pictures whose folders say what they show: plain trees, DreamBench++'s.

DreamBench++ (github.com/yuangpeng/dreambench_plus) mirrors one tree three
times: `src_image` has the subject's only picture, `tgt_image` what was
generated, `text` the prompt, each as COLLECTION/I_N, I the prompt's number.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from suti.config.names import suggest
from suti.evaluation.benchmark.subjects import Benchmark, Subject, without_masks
from suti.evaluation.folders.pictures import (
  Extra,
  Picture,
  Reading,
  find_prompt,
  no_prompt,
  number_of,
  reading,
)
from suti.io.folders import walk
from suti.io.image_files import list_pictures, suffixes

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
  pictures, extra = [], []
  for path in _pictures_below(folder):
    parts = path.relative_to(folder).parts
    if len(parts) != 3:
      extra.append(Extra(path=path, why="expected SUBJECT/PROMPT/N.png"))
      continue
    name, said, _ = parts
    subject = benchmark.subjects.get(name)
    if subject is None:
      hint = suggest(name, benchmark.subjects)
      extra.append(Extra(path=path, why=f"no subject '{name}'.{hint}"))
      continue
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
    for path in _pictures_below(folder / "src_image")
  }
  pictures, extra = [], []
  references: dict[str, Path] = {}
  prompts: dict[str, dict[str, None]] = {}
  for path in _pictures_below(folder / "tgt_image"):
    place = _place(path, folder / "tgt_image")
    text = folder / "text" / f"{place}.txt"
    collection = place.rpartition("/")[0] or "."
    if place not in sources:
      extra.append(Extra(path=path, why="no picture of src_image beside it"))
    elif not text.is_file():
      extra.append(Extra(path=path, why="no text beside it"))
    else:
      lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
      prompt = " ".join(lines[0].split()) if lines else ""
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
    if text.is_file():
      words = text.read_text(encoding="utf-8", errors="replace").split()
      found = expected.get(collection, ())
      if words and " ".join(words) not in found:
        expected[collection] = (*found, " ".join(words))
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


def _place(path: Path, root: Path) -> str:
  return path.relative_to(root).with_suffix("").as_posix()


def _pictures_below(folder: Path) -> list[Path]:
  """All pictures of a tree, without masks."""
  known = set(suffixes())
  found = [
    place / name
    for place, names, _ in walk(folder)
    for name in names
    if Path(name).suffix.lower() in known and not name.startswith(".")
  ]
  return without_masks(found)


def pictures_in(folder: Path) -> list[Path]:
  """The pictures of one folder, without masks."""
  return without_masks(list_pictures(folder)[0])
