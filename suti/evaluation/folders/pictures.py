# SPDX-License-Identifier: Apache-2.0
"""The records that readers of folders make, and how prompts are recognised."""

import collections
import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from suti.config.names import suggest
from suti.evaluation.benchmark.subjects import Benchmark


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Picture:
  """One generated picture.

  Attributes:
    subject, prompt: of the benchmark.
    number: among the pictures of this prompt.
    path: of its file.
  """

  subject: str
  prompt: str
  number: int
  path: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extra:
  """A file that is not scored, and why."""

  path: Path
  why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
  """What a folder holds.

  Attributes:
    pictures: in order of subject, prompt, number.
    benchmark: what they are scored against.
    expected: {subject: its prompts}; where a project has its own, these.
    extra: files that are not scored.
    notes: lines that a reader of scores should know.
  """

  pictures: tuple[Picture, ...]
  benchmark: Benchmark
  expected: Mapping[str, tuple[str, ...]]
  extra: tuple[Extra, ...] = ()
  notes: tuple[str, ...] = ()


def slug(text: str) -> str:
  """A text as file names have it: "a_dog_in_the_snow", of any script.

  File systems write one letter in two ways, as "é" and as "e" with an accent.
  """
  text = unicodedata.normalize("NFKC", text).casefold()
  return re.sub(r"[\W_]+", "_", text).strip("_")


def plain_prompt(text: str, identifiers: Sequence[str]) -> str:
  """A prompt without "<token>" and other identifiers."""
  for identifier in ("<token>", *identifiers):
    text = re.sub(
      rf"(?<!\w){re.escape(identifier)}(?!\w)", " ", text, flags=re.I
    )
  return " ".join(text.split())


def find_prompt(
  name: str, prompts: Sequence[str], identifiers: Sequence[str]
) -> str | None:
  """The prompt that a folder's name stands for; None if it is none of them.

  Args:
    name: the text, its slug, either with an identifier, or a number from 0, as
      in "07" and "prompt_7".
    prompts: those that there are.
    identifiers: words to leave out.
  """
  if name in prompts:
    return name
  by_slug = _by_slug(tuple(prompts))
  words = re.sub(r"[_-]+", " ", name)
  for text in (name, plain_prompt(words, identifiers)):
    # Of two that a file's name cannot tell apart, it is none.
    if len(found := by_slug.get(slug(text), [])) == 1:
      return found[0]
  number = number_in(name)
  if number is not None and number < len(prompts):
    return prompts[number]
  return None


@functools.cache
def _by_slug(prompts: tuple[str, ...]) -> dict[str, list[str]]:
  """Asked once a picture; a benchmark's subjects have a list each."""
  found = collections.defaultdict(list)
  for prompt in dict.fromkeys(prompts):
    found[slug(prompt)].append(prompt)
  return found


def number_in(name: str) -> int | None:
  """The number that a prompt is called by: 7 of "07" and "prompt_7"."""
  found = re.fullmatch(r"(?:prompt[_-]?)?(\d{1,4})", name, re.I)
  return int(found[1]) if found else None


def check_numbering(
  where: str, subject: str, names: Iterable[str], prompts: Sequence[str]
) -> None:
  """Refuses numbers from 1: each would be taken for the prompt before.

  Args:
    where: they were found.
    subject: whose.
    names: that stand for prompts.
    prompts: of the subject.

  Raises:
    ValueError: the count itself is among them, and 0 is not.
  """
  numbers = {n for n in map(number_in, names) if n is not None}
  if prompts and len(prompts) in numbers and 0 not in numbers:
    raise ValueError(
      f"{where}: prompts of {subject} are numbered up to {len(prompts)}, so "
      f"from 1: expected 0 to {len(prompts) - 1}, or the texts themselves."
    )


def no_subject(name: str, subjects: Iterable[str]) -> str:
  """Why a name is no subject, with the nearest one that is."""
  known = list(subjects)
  hint = suggest(name, known) or suggest(name.lower(), known)
  return f"no subject '{' '.join(name.split())}'.{hint}"


def no_prompt(name: str, subject: str, prompts: Sequence[str]) -> str:
  """Why a name is no prompt; with one word less it may be one.

  Args:
    name: as it was found.
    subject: whose prompts were looked at.
    prompts: of the subject.
  """
  why = f"no prompt '{' '.join(name.split())}' of {subject}"
  if sum(slug(prompt) == slug(name) for prompt in prompts) > 1:
    return f"several prompts of {subject} are written '{name}': give its number"
  words = re.sub(r"[_-]+", " ", name).split()
  known = {slug(prompt) for prompt in prompts}
  for place, word in enumerate(words):
    if slug(" ".join(words[:place] + words[place + 1 :])) in known:
      return f"{why}; --identifier {word} leaves '{word}' out"
  return why


def number_of(stem: str, default: int) -> int:
  """The number at the end of a file's name."""
  match = re.search(r"(\d{1,9})$", stem)
  return int(match[1]) if match else default


def reading(
  pictures: Sequence[Picture],
  *,
  benchmark: Benchmark,
  expected: Mapping[str, Sequence[str]] | None = None,
  extra: Sequence[Extra] = (),
  notes: Sequence[str] = (),
) -> Reading:
  """A `Reading` in order; prompts are the benchmark's, or else those found.

  A file that is listed twice for one prompt counts once, and one whose name
  cannot be written down does not.
  """
  ordered: list[Picture] = []
  others = [
    dataclasses.replace(x, path=Path(as_text(x.path)), why=as_text(x.why))
    for x in extra
  ]
  seen = set()
  for picture in sorted(pictures):
    place = (picture.subject, picture.prompt, picture.path)
    shown = as_text(picture.path)
    if shown != str(picture.path):
      why = "its name is not UTF-8: rename it"
      others.append(Extra(path=Path(shown), why=why))
    elif place in seen:
      others.append(Extra(path=picture.path, why="it is listed twice"))
    else:
      seen.add(place)
      ordered.append(picture)
  if expected is None:
    found: dict[str, dict[str, None]] = {}
    for picture in ordered:
      found.setdefault(picture.subject, {})[picture.prompt] = None
    expected = {
      name: subject.prompts or tuple(found.get(name, ()))
      for name, subject in benchmark.subjects.items()
    }
  return Reading(
    pictures=tuple(ordered),
    benchmark=benchmark,
    expected={
      name: tuple(dict.fromkeys(prompts)) for name, prompts in expected.items()
    },
    extra=tuple(others),
    notes=(*notes, *_twice(ordered)),
  )


def as_text(value: object) -> str:
  """A name of a disk, which may be no text, as one that can be written."""
  return str(value).encode(errors="replace").decode()


def _twice(pictures: Sequence[Picture]) -> list[str]:
  """A line on pictures of one prompt with one number, as of two runs."""
  groups = collections.defaultdict(list)
  for picture in pictures:
    groups[(picture.subject, picture.prompt, picture.number)].append(picture)
  twice = [group for group in groups.values() if len(group) > 1]
  if not twice:
    return []
  first = " and ".join(str(x.path) for x in twice[0][:2])
  return [
    f"{len(twice)} pictures are there more than once, by subject, prompt and "
    f"number, the first as {first}: all of them are scored."
  ]
