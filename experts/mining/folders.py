# SPDX-License-Identifier: Apache-2.0
"""A folder of subject folders: which folders are subjects, and their texts.

  my_photos/rex/0.jpg            a picture of the subject "rex"
  my_photos/rex/0.txt            what it shows, if somebody wrote that down
  my_photos/prompts_and_classes.txt   DreamBench's: classes of subjects

Pictures that lie in `my_photos` itself are a subject too. What is not read is
named: folders that systems make, pictures that lie deeper, empty folders.
"""

import collections
import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from suti.io.folders import walk
from suti.runtime.progress import say

_MAX_TEXT = 10_000  # bytes; a caption is a sentence or two


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
  """A folder of pictures of one subject.

  Attributes:
    folder: where they lie.
    files: the pictures, by name.
    texts: what stands beside each, "" where nothing does.
  """

  folder: Path
  files: tuple[Path, ...]
  texts: tuple[str, ...]


def find_subjects(path: Path, *, endings: Collection[str]) -> list[Subject]:
  """The subjects in a folder, by name; says what it leaves out.

  Args:
    path: the folder of subject folders, or one folder of pictures.
    endings: of the names of pictures, lower-case: ".jpg".

  Raises:
    ValueError: no pictures where they are read, or a text that is none.
  """
  subjects, deeper, empty = [], {}, []
  hidden: collections.Counter[str] = collections.Counter()
  for folder, names, passed_over in walk(path):
    hidden.update(passed_over)
    pictures = [
      name
      for name in names
      if Path(name).suffix.lower() in endings and not name.startswith(".")
    ]
    inside = folder.relative_to(path)
    if len(inside.parts) > 1:
      if pictures:
        deeper[str(inside)] = len(pictures)
    elif pictures:
      subjects.append(_subject(folder, pictures, names))
    elif inside.parts:
      empty.append(inside.name)
  empty = [n for n in empty if not any(Path(d).parts[0] == n for d in deeper)]
  if not subjects:
    raise ValueError(_none(path, deeper, endings))
  _say_what_is_left_out(path, hidden, deeper, empty)
  return subjects


def _none(path: Path, deeper: dict[str, int], endings: Collection[str]) -> str:
  """The one line for a folder without subjects."""
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
    f"each hold pictures ({' '.join(sorted(endings))}) of one subject."
  )


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
  """A list for a line: its beginning, and how many more there are."""
  # Disks hold names that are no text; terminals do not.
  shown = [n.encode(errors="replace").decode() for n in names[:most]]
  more = len(names) - most
  return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _subject(
  folder: Path, pictures: Sequence[str], names: Sequence[str]
) -> Subject:
  """A folder's pictures with the texts beside them."""
  texts = {
    Path(name).stem: folder / name
    for name in names
    if Path(name).suffix.lower() == ".txt"
  }
  stems = [Path(name).stem for name in pictures]
  return Subject(
    folder=folder,
    files=tuple(folder / name for name in pictures),
    texts=tuple(_text(texts[s]) if s in texts else "" for s in stems),
  )


def _text(file: Path) -> str:
  """What is written beside a picture, on one line."""
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
  """Reads DreamBench's table `subject_name,class`; {} if there is none."""
  if not file.is_file():
    return {}
  lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
  rows: dict[str, str] = {}
  inside = False
  for line in (line.strip() for line in lines):
    if line == "subject_name,class":
      inside = True
    elif inside and line.count(",") == 1:
      name, noun = line.split(",")
      rows[name.strip()] = noun.strip()
    elif inside:
      break
  return rows
