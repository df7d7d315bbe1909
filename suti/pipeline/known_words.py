# SPDX-License-Identifier: Apache-2.0
"""The words of a model's training captions: `words.json` beside the model.

A tokenizer spells any word, so nothing fails where a model has never met it;
the word is ignored, or means something else. A model whose captions are known
says them here, so that a user learns of it. Published models have no such file,
and of them nothing is said.

This file needs only the standard library: a mistake is answered before models
are opened.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from suti.io.files import read_json, write_json

FILE = "words.json"
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words_in(text: str) -> list[str]:
  """The words of a text in lower case, each once, in their order."""
  return list(dict.fromkeys(_WORD.findall(text.lower())))


def write_words(folder: Path, captions: Iterable[str]) -> None:
  """Writes the words of all captions that a model was trained with."""
  found = {word for text in set(captions) for word in words_in(text)}
  write_json(folder / FILE, {"words": sorted(found)})


def known_words(folder: Path) -> list[str]:
  """The words of a model's captions; [] where nothing is known of them."""
  path = folder / FILE
  return read_json(path)["words"] if path.is_file() else []


def unknown_words(folder: Path, *texts: str) -> list[str]:
  """The words of texts that no caption of a model's training had.

  Args:
    folder: of the model; without words.json nothing is known of it.
    *texts: a prompt, and what else it is given.
  """
  if not (folder / FILE).is_file():
    return []
  known = set(known_words(folder))
  return [word for word in words_in(" ".join(texts)) if word not in known]


def note(folder: Path, *texts: str) -> str:
  """One line on unknown words; "" if there are none."""
  words = unknown_words(folder, *texts)
  if not words:
    return ""
  listed = ", ".join(f"'{word}'" for word in words)
  what, them = ("a word", "it") if len(words) == 1 else ("words", "they")
  return (
    f"Note: {folder.name} has never met {listed}, {what} that no caption of "
    f"its training has: {them} may be ignored."
  )
