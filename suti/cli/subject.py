# SPDX-License-Identifier: Apache-2.0
"""`suti generate --subject`: pictures of a subject and a text -> new ones."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from suti.cli.parser import check_numbers, check_out

NOTE = (
  "Note: {model} has learned from SubjectWorld's rendered pictures alone. Of "
  "photographs it makes no good picture; for those, train on a base that knows "
  "photographs: README.md, 'Real photographs'."
)

APPRENTICE = "world_apprentice"  # that is shipped
NUM = 4  # pictures
CELL_PX = 192  # side of a picture on the contact sheet


def generate_subject(args: argparse.Namespace) -> None:
  """Writes a contact sheet, and each picture beside it.

  Raises:
    ValueError: an argument is wrong, or does not fit the model.
  """
  out = check_out(args.out)
  check_numbers(args)
  files = find_pictures(args.subject)
  from suti import images
  from suti.runtime import xla_flags

  pictures = [images.load_image(file) for file in files]
  xla_flags.prepare()
  from apprentice.generate import generate
  from apprentice.model import load_apprentice

  model = args.model or APPRENTICE
  if knows_world_alone(model):
    print(NOTE.format(model=model), file=sys.stderr)
  drawn = generate(
    load_apprentice(model),
    pictures,
    args.prompt,
    num=NUM if args.num is None else args.num,
    seed=args.seed,
    steps=args.steps,
    guidance=args.guidance,
  )
  paths = [out.with_name(f"{out.stem}-{i}.png") for i in range(len(drawn))]
  for path, picture in zip(paths, drawn, strict=True):
    images.save_png(path, picture)
  sheet = images.contact_sheet(
    [pictures, drawn], ["given", args.prompt], size_px=CELL_PX
  )
  images.save_png(out, sheet)
  others = f"{paths[0]}" + (f" to {paths[-1].name}" if paths[1:] else "")
  print(f"Wrote {out} and {others}.")


def find_pictures(subject: Sequence[str]) -> list[Path]:
  """The files that `--subject` names.

  Args:
    subject: files, or folders of them, in any mixture.

  Returns: the files; those of a folder by name.

  Raises:
    ValueError: nothing is there, or no picture is.
  """
  from experts.mining.sources import PICTURES

  files: list[Path] = []
  for name in subject:
    path = Path(name).expanduser()
    if not path.exists():
      raise ValueError(
        f"--subject={name}: there is no such file or folder; give pictures of "
        "one subject, or the folder they are in."
      )
    if not path.is_dir():
      files.append(path)
      continue
    found = sorted(
      file
      for file in path.iterdir()
      if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    )
    if not found:
      raise ValueError(
        f"--subject={name}: no pictures in this folder (looked for "
        f"{' '.join(sorted(PICTURES))}); give pictures of one subject."
      )
    files += found
  return files


def knows_world_alone(model: str) -> bool:
  """Whether a model has seen nothing but SubjectWorld's renderings.

  Follows an apprentice to the base it stands on: all shipped models are of
  SubjectWorld, of others nothing is known.
  """
  from suti.hf.find import PRETRAINED, find_model
  from suti.io.files import read_json

  seen: set[Path] = set()
  folder = find_model(model)
  while folder not in seen:
    if folder.parent == PRETRAINED:
      return True
    seen.add(folder)
    record = folder / "apprentice.json"
    base = str(read_json(record)["base"]) if record.is_file() else ""
    for place in (PRETRAINED / base, Path(base)):
      if base and place.is_dir():
        folder = place
        break
  return False
