# SPDX-License-Identifier: Apache-2.0
"""Prompts from a file, for a benchmark beside DreamBench's own.

CSV with a header, or JSON: a list of objects, or an object of such lists. Each
row has

  prompt      the text; "{}" stands for the subject's noun
  subject     of whose subject it is: a folder's name (JSON also `subject_id`)
  class       or of which: a noun, "live", "object"; without either, of all
  kind        what it tests, by which scores are split; "listed" if it says none
  place, look, wardrobe   what it should show, in SubjectWorld's names, or ""

DreamBench-v2 has 220 texts for DreamBench's subjects, of which we have found no
whole list; a JSON of those that other papers and the project's page show, with
`subject_id` and `prompt`, is read as it is. SubjectWorld's own list is
suti/world/prompts_beforehand.csv.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suti.evaluation.dreambench import SUBJECTS, fill

_GROUPS = ("", "live", "object")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
  """One row.

  Attributes:
    text, kind, subject, noun, place, look, wardrobe: see above; `noun` is the
      column `class`.
  """

  text: str
  kind: str = "listed"
  subject: str = ""
  noun: str = ""
  place: str = ""
  look: str = ""
  wardrobe: str = ""

  @property
  def skill(self) -> str:
    """The nearest of SuTI's skills, by what it should show."""
    if sum(map(bool, (self.place, self.look, self.wardrobe))) > 1:
      return "composition"
    if self.look:
      return "attribute"
    return "accessory" if self.wardrobe else "recontextualization"


def read_prompt_list(path: Path) -> list[Listed]:
  """Reads all rows.

  Raises:
    ValueError: no such file, not of this form, or a row without a prompt.
  """
  try:
    text = path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f"{path}: expected a list of prompts, CSV or JSON, in UTF-8; {error}."
    ) from error
  rows = _rows(path, text)
  found = []
  for number, row in enumerate(rows, start=1):
    named = {k: str(v).strip() for k, v in row.items() if v is not None}
    prompt = named.get("prompt", "")
    if not prompt:
      raise ValueError(
        f"{path}: row {number} has no prompt: expected a column `prompt`, and"
        f" it has {', '.join(named) or 'none'}."
      )
    found.append(
      Listed(
        text=prompt,
        kind=named.get("kind") or "listed",
        subject=named.get("subject") or named.get("subject_id", ""),
        noun=named.get("class", ""),
        **{k: named.get(k, "") for k in ("place", "look", "wardrobe")},
      )
    )
  if not found:
    raise ValueError(f"{path} has no rows: expected prompts, CSV or JSON.")
  return found


def _rows(path: Path, text: str) -> Sequence[Mapping[str, Any]]:
  if path.suffix != ".json":
    return _csv_rows(path, text)
  try:
    content = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is not JSON: {error}.") from error
  lists = content.values() if isinstance(content, dict) else [content]
  rows = [row for part in lists if isinstance(part, list) for row in part]
  if not all(isinstance(row, dict) for row in rows):
    raise ValueError(
      f"{path}: expected objects with a `prompt` each, in lists."
    )
  return rows


def _csv_rows(path: Path, text: str) -> list[dict[str, Any]]:
  reader = csv.DictReader(io.StringIO(text, newline=""))
  try:
    rows = list(reader)
  except csv.Error as error:
    raise ValueError(f"{path} cannot be read as CSV: {error}.") from error
  for number, row in enumerate(rows, start=1):
    # As of a prompt with a comma, whose rest would pass for another column.
    if None in row:
      raise ValueError(
        f"{path}: row {number} has more fields than the header: write a prompt "
        'that has commas in quotes, "a dog, asleep".'
      )
  return rows


def prompts_of(
  rows: Sequence[Listed], *, source: str, noun: str, live: bool
) -> list[Listed]:
  """The rows of one subject, with its noun in them.

  Args:
    rows: of the file.
    source: the subject's folder. A row of one of DreamBench's subjects is also
      of every subject of its class that is in none of DreamBench's folders.
    noun: of the subject.
    live: its group.
  """

  def fits(row: Listed) -> bool:
    if row.subject:
      theirs = SUBJECTS.get(row.subject)
      return row.subject == source or (
        source not in SUBJECTS and theirs == noun
      )
    if row.noun in _GROUPS:
      return row.noun == "" or (row.noun == "live") == live
    return row.noun == noun

  texts = {}
  for row in filter(fits, rows):
    text = fill(row.text, noun)
    texts.setdefault(text, dataclasses.replace(row, text=text))
  return list(texts.values())
