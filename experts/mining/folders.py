# SPDX-License-Identifier: Apache-2.0
"""Reads a folder of subject folders: the subjects, their pictures and texts.

  my_photos/rex/0.jpg            a picture of the subject "rex"
  my_photos/rex/0.txt            its caption, optional
  my_photos/rex/0.mask.png       its mask, optional: `experts.label` reads it
  my_photos/prompts_and_classes.txt   DreamBench's: classes of subjects

Pictures in `my_photos` itself are a subject too. Whatever is not read is
reported: system folders, pictures in deeper folders, empty folders.
"""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from suti.io.folders import walk
from suti.io.image_files import describe_skipped, list_pictures, suffixes
from suti.io.mask_files import without_masks
from suti.runtime.progress import say

CLASSES_FILE = "prompts_and_classes.txt"
_MAX_TEXT = 10_000  # bytes; a caption is a sentence or two


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
  """A folder of pictures of one subject.

  Attributes:
    folder: of the pictures.
    files: the pictures, sorted by name.
    texts: the text beside each, "" if there is none.
  """

  folder: Path
  files: tuple[Path, ...]
  texts: tuple[str, ...]

  @property
  def name(self) -> str:
    """Of the folder, also of "."; names on disk may not be valid text."""
    name = self.folder.name or self.folder.resolve().name
    return os.fsencode(name).decode(errors="replace")


def find_subjects(path: Path) -> list[Subject]:
  """The subjects in a folder, sorted by name; prints what it leaves out.

  Args:
    path: the folder of subject folders, or one folder of pictures.

  Raises:
    ValueError: no pictures where they are read, or a file that is not text.
  """
  subjects, deeper, empty = [], {}, []
  hidden: collections.Counter[str] = collections.Counter()
  skipped: dict[str, list[Path]] = {}
  for folder, _, passed_over in walk(path):
    hidden.update(passed_over)
    listed, others = list_pictures(folder)
    pictures = without_masks(listed)
    inside = folder.relative_to(path)
    if len(inside.parts) > 1:
      if pictures:
        deeper[str(inside)] = len(pictures)
      continue
    texts = _texts_beside(pictures, others)
    for kind, files in others.items():
      unread = [f for f in files if f not in texts and f.name != CLASSES_FILE]
      if unread:
        skipped.setdefault(kind, []).extend(unread)
    if pictures:
      subjects.append(_subject(folder, pictures, texts))
    elif inside.parts:
      empty.append(inside.name)
  empty = [n for n in empty if not any(Path(d).parts[0] == n for d in deeper)]
  unread = describe_skipped(skipped, root=path)
  if not subjects:
    raise ValueError(_none(path, deeper, unread))
  _say_what_is_left_out(path, hidden, deeper, empty)
  if unread:
    say(f"config.mine.path='{path}': {unread}")
  return subjects


def _none(path: Path, deeper: dict[str, int], unread: str) -> str:
  """The error message of a folder without subjects."""
  if deeper:
    first = min(deeper)
    return (
      f"config.mine.path='{path}' has its pictures deeper than they are read,"
      f" such as the {deeper[first]} in {first}: give"
      f" {(path / first).parent} if each folder there is one subject, or move"
      " them up."
    )
  return (
    f"config.mine.path='{path}' has no pictures: give a folder whose folders "
    f"each hold pictures ({' '.join(suffixes())}) of one subject. {unread}"
  ).rstrip()


def _say_what_is_left_out(
  path: Path,
  hidden: collections.Counter[str],
  deeper: dict[str, int],
  empty: Sequence[str],
) -> None:
  if hidden:
    names = _list([f"{n} ({c})" if c > 1 else n for n, c in hidden.items()])
    say(f"Hidden and system folders in {path} are no subjects: {names}.")
  if deeper:
    names = _list([f"{name} ({count})" for name, count in deeper.items()])
    say(
      f"{sum(deeper.values())} pictures in {path} lie deeper than in a"
      f" subject's folder and are not read: {names}; move them up if they"
      " belong to it."
    )
  if empty:
    say(f"Folders in {path} without pictures are no subjects: {_list(empty)}.")


def _list(names: Sequence[str], most: int = 8) -> str:
  """A list on one line: its beginning, and how many more there are."""
  # Names on disk may not be valid text; terminals need it to be.
  shown = [n.encode(errors="replace").decode() for n in names[:most]]
  more = len(names) - most
  return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _texts_beside(
  pictures: Sequence[Path], others: Mapping[str, Sequence[Path]]
) -> list[Path]:
  """The text files that may have a picture's caption, by its name."""
  stems = {picture.stem for picture in pictures}
  return [file for file in others.get(".txt", ()) if file.stem in stems]


def _subject(
  folder: Path, pictures: Sequence[Path], texts: Sequence[Path]
) -> Subject:
  """A folder's pictures with the texts beside them."""
  by_stem = {file.stem: file for file in texts}
  return Subject(
    folder=folder,
    files=tuple(pictures),
    texts=tuple(
      _text(by_stem[p.stem]) if p.stem in by_stem else "" for p in pictures
    ),
  )


def _text(file: Path) -> str:
  """The text beside a picture, as one line."""
  with file.open("rb") as opened:
    content = opened.read(_MAX_TEXT + 1)
  if len(content) > _MAX_TEXT:
    raise ValueError(
      f"{file} is larger than {_MAX_TEXT} bytes: the text beside a picture of"
      " the same name says what it shows; shorten or rename it."
    )
  utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
  try:
    return " ".join(content.decode("utf-16" if utf16 else "utf-8-sig").split())
  except UnicodeDecodeError as error:
    raise ValueError(
      f"{file} is no text in UTF-8 ({error.reason}): the text beside a picture"
      " of the same name says what it shows; save it as UTF-8."
    ) from error


def read_classes(file: Path) -> dict[str, str]:
  """Reads DreamBench's table of classes; {} if there is none.

  The rows after the line `subject_name,class`, up to the first that is not a
  row: prompts follow in the published file, and are optional.
  """
  if not file.is_file():
    return {}
  text = file.read_text(encoding="utf-8-sig", errors="replace")
  lines = [line.strip() for line in text.splitlines()]
  header = [line.replace(" ", "").lower() for line in lines]
  if "subject_name,class" not in header:
    raise ValueError(
      f"{file} has no line 'subject_name,class': expected one, and a row "
      "'FOLDER,NOUN' for each subject below it."
    )
  rows: dict[str, str] = {}
  start = header.index("subject_name,class") + 1
  for number, line in enumerate(lines[start:], start=start + 1):
    if not line:
      break
    name, comma, noun = (part.strip() for part in line.rpartition(","))
    if not comma:
      break
    if not name or not noun:
      raise ValueError(
        f"{file}, line {number} is '{line}': expected 'FOLDER,NOUN'."
      )
    rows[name] = noun
  return rows
