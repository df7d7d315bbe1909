# SPDX-License-Identifier: Apache-2.0
"""A benchmark as folders: subjects, their photographs, their prompts.

  DATA/SUBJECT/*.jpg                 all of them are references
  DATA/prompts_and_classes.txt       optional: "SUBJECT,CLASS", a line each
  DATA/prompts.txt                   optional: prompts, "{}" for the class
  DATA/benchmark.json                optional: name, images_per_prompt, and
                                     "prompts": "dreambench" for its 2 x 25

DreamBench's own folder is one of these, whose subjects and prompts are known
(`dreambench`). Pictures are not opened here.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suti.config.names import suggest
from suti.evaluation import dreambench
from suti.io.files import read_object
from suti.io.folders import is_hidden
from suti.io.image_files import describe_skipped, list_pictures, remedy_of
from suti.schema import content_key

_CLASSES, _PROMPTS = "prompts_and_classes.txt", "prompts.txt"
MASK = ".mask"  # NAME.mask.png beside NAME.jpg is no photograph


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
  """One subject.

  Attributes:
    noun: its class, "dog".
    references: its photographs.
    prompts: the texts it is shown in; empty where any will do.
    category: what tables group it by, "" for nothing beside its class.
  """

  noun: str
  references: tuple[Path, ...]
  prompts: tuple[str, ...]
  category: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
  """What pictures are scored against.

  Attributes:
    name: "dreambench", or the folder's.
    subjects: by name.
    images_per_prompt: how many are expected; 0 for any number.
    notes: lines on what is not as expected.
  """

  name: str
  subjects: Mapping[str, Subject]
  images_per_prompt: int
  notes: tuple[str, ...] = ()

  def key(self) -> str:
    """A hash of its subjects, prompts and photographs, wherever they lie.

    Photographs by name and size: two copies of a benchmark are one.
    """
    parts: list[str | int] = [self.images_per_prompt]
    for name, subject in sorted(self.subjects.items()):
      parts += [name, subject.noun, *sorted(subject.prompts)]
      for path in subject.references:
        size = path.stat().st_size if path.is_file() else -1
        parts += [path.name, size]
    return content_key(*parts)


def read_dreambench(folder: Path) -> Benchmark:
  """DreamBench's photographs, with the published prompts.

  Args:
    folder: holds the 30 folders of photographs; those of `dataset/` in the
      published repository.

  Raises:
    ValueError: no such folder, or none of the subjects is in it.
  """
  _check(folder, "--data")
  subjects, missing, notes = {}, [], []
  for name, noun in dreambench.SUBJECTS.items():
    photographs, why = _photographs(folder / name)
    if not photographs:
      missing.append(name)
      continue
    notes += why
    live = noun in dreambench.LIVE
    templates = dreambench.templates_of(live=live)
    subjects[name] = Subject(
      noun=noun,
      references=photographs,
      prompts=tuple(t.text.format(noun) for t in templates),
      category="live" if live else "object",
    )
  if not subjects:
    raise ValueError(
      f"--data={folder}: none of DreamBench's 30 subjects ({missing[0]}, "
      f"{missing[1]}, ...) is a folder of photographs there; give the folder "
      "'dataset' of github.com/google/dreambooth."
    )
  if missing:
    notes.append(
      f"--data={folder} lacks {len(missing)} of DreamBench's 30 subjects: "
      f"{', '.join(missing)}. Not comparable with scores on all of them."
    )
  count = sum(len(subject.references) for subject in subjects.values())
  if not missing and count != dreambench.NUM_PHOTOGRAPHS:
    notes.append(
      f"--data={folder} has {count} photographs, DreamBench has "
      f"{dreambench.NUM_PHOTOGRAPHS}. Not comparable."
    )
  return Benchmark(
    name="dreambench",
    subjects=subjects,
    images_per_prompt=dreambench.IMAGES_PER_PROMPT,
    notes=tuple(notes),
  )


def read_folder(folder: Path, *, flag: str = "--benchmark") -> Benchmark:
  """A folder of subject folders as a benchmark.

  Args:
    folder: where. With prompts_and_classes.txt subjects have classes, with
      prompts.txt prompts; without the latter any prompt will do.
    flag: by which it was given.

  Raises:
    ValueError: no such folder, no subject in it, or a malformed text.
  """
  _check(folder, flag)
  names = sorted(p.name for p in folder.iterdir() if p.is_dir())
  classes = _read_classes(folder / _CLASSES)
  templates = _read_prompts(folder / _PROMPTS)
  settings = folder / "benchmark.json"
  facts = _check_facts(settings) if settings.is_file() else {}
  subjects, notes = {}, []
  for name in names:
    if is_hidden(name):
      continue
    photographs, why = _photographs(folder / name)
    notes += why
    if photographs:
      noun = classes.get(name) or re.sub(r"[\d_-]+", " ", name).strip()
      live = noun in dreambench.LIVE
      known, category = templates, ""
      if facts.get("prompts") == "dreambench":
        known = [t.text for t in dreambench.templates_of(live=live)]
        category = "live" if live else "object"
      subjects[name] = Subject(
        noun=noun,
        references=photographs,
        prompts=tuple(t.replace("{}", noun) for t in known),
        category=category,
      )
  if not subjects:
    raise ValueError(
      f"{flag}={folder}: no folder of photographs is in it; expected one a "
      "subject."
    )
  # "my_dog" is asked for as "a my dog in the snow", which is seldom meant.
  guessed = [
    f"{name} ('{subject.noun}')"
    for name, subject in subjects.items()
    if subject.prompts and " " in subject.noun and name not in classes
  ]
  if guessed:
    first = guessed[0].partition(" ")[0]
    notes.append(
      f"prompts name these subjects after their folders: {', '.join(guessed)}. "
      f"{_CLASSES} beside them gives other classes: a line "
      f"'subject_name,class', and below it rows such as '{first},dog'."
    )
  if unknown := sorted(set(classes) - set(names)):
    raise ValueError(
      f"{folder / _CLASSES} names {', '.join(unknown)}, which "
      f"{'is no folder' if len(unknown) == 1 else 'are no folders'} there: "
      "correct it."
    )
  return Benchmark(
    name=str(facts.get("name", folder.resolve().name)),
    subjects=subjects,
    images_per_prompt=facts.get("images_per_prompt", 0),
    notes=tuple(notes),
  )


def _check_facts(path: Path) -> dict[str, Any]:
  """What benchmark.json says."""
  facts = read_object(path)
  num = facts.get("images_per_prompt", 0)
  if not (isinstance(num, int) and 0 <= num <= 1000):
    raise ValueError(
      f"{path}: images_per_prompt={num!r} must be a whole number up to 1000; 0 "
      "is any number."
    )
  if facts.get("prompts", "dreambench") != "dreambench":
    raise ValueError(
      f"{path}: prompts={facts['prompts']!r} must be 'dreambench'; write "
      f"prompts of your own into {_PROMPTS}, one a line."
    )
  return facts


def _check(folder: Path, flag: str) -> None:
  if not folder.is_dir():
    names = ("dreambench", "subjectworld") if flag == "--benchmark" else ()
    raise ValueError(
      f"{flag}={folder}: no such folder; give the folder with a folder of "
      f"photographs for each subject.{suggest(folder.name.lower(), names)}"
    )


def _photographs(folder: Path) -> tuple[tuple[Path, ...], list[str]]:
  """A subject's photographs, and a line on pictures that are not read."""
  if not folder.is_dir():
    return (), []
  found, others = list_pictures(folder)
  pictures = {kind: x for kind, x in others.items() if remedy_of(f"x{kind}")}
  line = describe_skipped(pictures, root=folder)
  return tuple(without_masks(found)), [f"{folder}: {line}"] * bool(line)


def without_masks(paths: Sequence[Path]) -> list[Path]:
  """Pictures that are no masks of others."""
  return [path for path in paths if not path.stem.endswith(MASK)]


def mask_of(path: Path) -> Path:
  """Where the mask of a picture lies."""
  return path.with_name(f"{path.stem}{MASK}.png")


def _read_classes(path: Path) -> dict[str, str]:
  """The rows behind the line "subject_name,class"."""
  if not path.is_file():
    return {}
  lines = _lines(path)
  rows = [line.strip() for line in lines]
  if "subject_name,class" not in rows:
    raise ValueError(
      f"{path} has no line 'subject_name,class': expected that line, and a row "
      "such as 'rex,dog' for each folder behind it."
    )
  classes = {}
  for row in rows[rows.index("subject_name,class") + 1 :]:
    if not row:
      break
    name, comma, noun = (part.strip() for part in row.partition(","))
    if not (comma and name and noun):
      raise ValueError(f"{path}: '{row}' is no row such as 'rex,dog'.")
    classes[name] = noun
  return classes


def _lines(path: Path) -> list[str]:
  """Of a text, which editors may begin with a byte order mark."""
  return path.read_bytes().decode("utf-8-sig", errors="replace").splitlines()


def _read_prompts(path: Path) -> list[str]:
  if not path.is_file():
    return []
  lines = _lines(path)
  prompts = [" ".join(line.split()) for line in lines if line.strip()]
  if not prompts:
    raise ValueError(f"{path} is empty: give a prompt a line, or delete it.")
  return prompts
