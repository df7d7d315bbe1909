# SPDX-License-Identifier: Apache-2.0
"""A picture of SubjectWorld for people to look at.

  python -m suti.world.contact_sheet --out contact_sheet.png
  python -m suti.world.contact_sheet --styles --out styles.png

Rows are subjects, columns are prompts or styles, the first of them none; a
row's subject is the same throughout.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from suti.images import save_png
from suti.world.render import render_shots
from suti.world.templates import (
  LIVE,
  PARTS,
  SPLITS,
  Shot,
  class_of,
  compose,
  subject_seeds,
  template_of,
)

# One subject of each of these, and the columns a group shows.
_CLASSES = ("dog", "teapot", "cat", "sneaker", "stuffed animal", "toy")
_OBJECT_COLUMNS = (-1, 2, 7, 0, 13, 12, 16, 15, 11, 20, 24)
_LIVE_COLUMNS = (-1, 2, 7, 0, 13, 11, 9, 19, 17, 20, 24)


# What the rows of the sheet of styles show, each of another class.
_STYLE_ROWS = (
  ("dog", {}),
  ("teapot", {}),
  ("cat", {"wardrobe": "top hat"}),
  ("toy", {"place": "beach"}),
  ("stuffed animal", {"place": "jungle"}),
  ("vase", {"place": "eiffel tower"}),
)


def style_sheet(
  *, split: str = "test", skip: int = 2, size_px: int = 64
) -> tuple[np.ndarray, list[list[Shot]]]:
  """Renders the sheet of styles; arguments and result as of `sheet`."""
  found = subjects_of(split, [name for name, _ in _STYLE_ROWS], skip=skip)
  rows = [
    [
      Shot(found[name], compose(**scene, style=style), row)
      for style in PARTS["style"]
    ]
    for row, (name, scene) in enumerate(_STYLE_ROWS)
  ]
  return _drawn(rows, size_px=size_px), rows


def sheet(
  *, split: str = "test", skip: int = 2, size_px: int = 64
) -> tuple[np.ndarray, list[list[Shot]]]:
  """Renders the sheet.

  Args:
    split: of the subjects.
    skip: subjects of each class to leave out.
    size_px: side of one picture.

  Returns:
    uint8 (H, W, 3), and the shots row by row.
  """
  found = subjects_of(split, _CLASSES, skip=skip)
  rows = [
    [
      Shot(found[name], template, 2 * row + column)
      for column, template in enumerate(
        _LIVE_COLUMNS if name in LIVE else _OBJECT_COLUMNS
      )
    ]
    for row, name in enumerate(_CLASSES)
  ]
  return _drawn(rows, size_px=size_px), rows


def subjects_of(
  split: str, names: Sequence[str], *, skip: int
) -> dict[str, int]:
  """{name: a subject of the class}, after so many that are left out."""
  found = {name: [] for name in names}
  for seed in subject_seeds(split, 0, 200 * (skip + 1)):
    name = class_of(seed)
    if name in found:
      found[name].append(seed)
  return {name: seeds[skip] for name, seeds in found.items()}


def _drawn(rows, *, size_px):
  """The pictures of a sheet, uint8 (H, W, 3)."""
  images = render_shots([s for row in rows for s in row], size_px=size_px)
  grid = images["image"].reshape(len(rows), len(rows[0]), size_px, size_px, 3)
  height, width = len(rows) * size_px, len(rows[0]) * size_px
  return grid.transpose(0, 2, 1, 3, 4).reshape(height, width, 3)


def main() -> None:
  """Writes a contact sheet."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", required=True, help="PNG file to write")
  parser.add_argument("--split", default="test", choices=SPLITS)
  parser.add_argument("--skip", type=int, default=2, help="other subjects")
  parser.add_argument("--size_px", type=int, default=64)
  parser.add_argument("--styles", action="store_true", help="a sheet of these")
  args = parser.parse_args()
  render = style_sheet if args.styles else sheet
  image_u8, rows = render(
    split=args.split, skip=args.skip, size_px=args.size_px
  )
  save_png(Path(args.out), image_u8)
  for row in rows:
    texts = [template_of(s).text for s in row if s.template >= 0]
    print(class_of(row[0].subject), *texts, sep=" · ")


if __name__ == "__main__":
  main()
