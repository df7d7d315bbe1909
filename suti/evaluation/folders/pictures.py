# SPDX-License-Identifier: Apache-2.0
"""The records that readers of folders make, and how prompts are recognised."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

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
  """A text as file names have it: "a_dog_in_the_snow"."""
  return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


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
  by_slug = {slug(prompt): prompt for prompt in prompts}
  words = re.sub(r"[_-]+", " ", name)
  for text in (name, plain_prompt(words, identifiers)):
    if found := by_slug.get(slug(text)):
      return found
  number = re.fullmatch(r"(?:prompt[_-]?)?(\d{1,4})", name, re.I)
  if number and int(number[1]) < len(prompts):
    return prompts[int(number[1])]
  return None


def no_prompt(name: str, subject: str, prompts: Sequence[str]) -> str:
  """Why a name is no prompt; with one word less it may be one.

  Args:
    name: as it was found.
    subject: whose prompts were looked at.
    prompts: of the subject.
  """
  why = f"no prompt '{name}' of {subject}"
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
  """A `Reading` in order; prompts are the benchmark's, or else those found."""
  ordered = sorted(pictures)
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
    expected={name: tuple(prompts) for name, prompts in expected.items()},
    extra=tuple(extra),
    notes=tuple(notes),
  )
