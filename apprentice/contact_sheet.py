# SPDX-License-Identifier: Apache-2.0
"""What an apprentice makes of subjects it has never seen, to look at.

  python -m apprentice.contact_sheet --out apprentice.png

Rows are test subjects of SubjectWorld. The first two columns are two of the
four pictures that the apprentice is shown, the others its images of the prompts
that the command prints: the first ones sampled, none chosen.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apprentice.generate import generate
from apprentice.model import Apprentice, load_apprentice
from suti.evaluation.dreambench import templates_of
from suti.hf.find import find_model
from suti.images import contact_sheet, save_png
from suti.world.contact_sheet import subjects_of
from suti.world.dataset import LIVE, Shot, render_shots

_CLASSES = ("dog", "teapot", "cat", "sneaker", "stuffed animal", "toy")
# Numbers of the templates of the pictures that are shown.
_SHOWN = (1, 3, 5, 8)
# Of the 25 prompts of objects and of live subjects.
_OBJECT_PROMPTS = (0, 1, 2, 8, 12, 13, 21, 24)
_LIVE_PROMPTS = (0, 1, 2, 8, 11, 13, 19, 21)


def sheet(
  apprentice: Apprentice, *, skip: int = 0, seed: int = 0
) -> tuple[np.ndarray, list[Sequence[str]]]:
  """Samples and lays out the sheet.

  Args:
    apprentice: of SubjectWorld, 64 px.
    skip: test subjects of each class to leave out.
    seed: of the sampled images.

  Returns: uint8 (H, W, 3), and the prompts row by row.
  """
  rows, asked = [], []
  for name, subject in subjects_of("test", _CLASSES, skip=skip).items():
    texts = [t.text.format(name) for t in templates_of(live=name in LIVE)]
    prompts = [
      texts[i] for i in (_LIVE_PROMPTS if name in LIVE else _OBJECT_PROMPTS)
    ]
    shots = [Shot(subject, template, seed=50 + template) for template in _SHOWN]
    shown = list(render_shots(shots, size_px=64)["image"])
    captions = [f"a {name}"] * len(shown)
    images = [
      generate(apprentice, shown, text, captions=captions, num=1, seed=seed)[0]
      for text in prompts
    ]
    rows.append(shown[:2] + images)
    asked.append(prompts)
  return contact_sheet(rows, gap_px=2), asked


def main() -> None:
  """Writes the sheet and prints its prompts."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", required=True, help="PNG file to write")
  parser.add_argument(
    "--model", default="world_apprentice", help="a shipped name or a folder"
  )
  parser.add_argument("--skip", type=int, default=0, help="other subjects")
  parser.add_argument("--seed", type=int, default=0, help="other images")
  args = parser.parse_args()
  model = load_apprentice(find_model(args.model))
  image_u8, asked = sheet(model, skip=args.skip, seed=args.seed)
  save_png(Path(args.out), image_u8)
  for name, prompts in zip(_CLASSES, asked, strict=True):
    print(name, *prompts, sep=" · ")


if __name__ == "__main__":
  main()
