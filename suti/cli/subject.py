# SPDX-License-Identifier: Apache-2.0
"""`suti generate --subject`: pictures of a subject and a text -> new ones."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suti.cli.parser import check_numbers, check_out

NOTE = (
  "Note: {model} has learned from SubjectWorld's rendered pictures alone. Of "
  "photographs it makes no good picture; for those, train on a base that knows "
  "photographs: docs/photographs.md."
)

APPRENTICE = "world_apprentice"  # that is shipped
NUM = 4  # pictures
_MAX_CAUSES = 10  # of pictures that cannot be read, each a line
CELL_PX = 192  # side of a picture on the contact sheet


def generate_subject(args: argparse.Namespace) -> None:
  """Writes a contact sheet, and each picture beside it.

  Raises:
    ValueError: an argument is wrong, or does not fit the model.
  """
  out = check_out(args.out)
  check_numbers(args)
  files, notes = find_pictures(args.subject)
  from suti import images
  from suti.runtime import xla_flags
  from suti.runtime.progress import say

  pictures, more_notes = load_pictures(files)
  masks = load_masks(files, pictures)
  caption, why = choose_caption(args.prompt, args.caption)
  xla_flags.prepare()
  from apprentice.generate import (
    check,
    check_inputs,
    describe_inputs,
    generate,
    sees,
  )
  from apprentice.model import load_apprentice
  from suti.pipeline import known_words

  model = args.model or APPRENTICE
  apprentice = load_apprentice(model)
  num = NUM if args.num is None else args.num
  check(
    apprentice,
    args.prompt,
    num_images=len(pictures),
    num=num,
    steps=args.steps,
  )
  inputs = {} if args.mask is None else {"mask": _load_mask(args.mask)}
  check_inputs(apprentice, inputs)
  if any(mask is not None for mask in masks):
    line, more_inputs = use_masks(
      masks, pictures, is_seen=sees(apprentice, "demonstration_masks")
    )
    notes.append(f"--subject: {line}")
    inputs |= more_inputs
  notes += describe_inputs(apprentice, inputs)
  notes += [*more_notes, why]
  base = apprentice.backbone.folder
  if unknown := known_words.note(base, args.prompt, caption):
    notes.append(unknown)
  if knows_world_alone(model):
    notes.append(NOTE.format(model=model))
  for note in notes:  # Before the work, which may take minutes.
    say(note)
  generated = generate(
    apprentice,
    pictures,
    args.prompt,
    captions=[caption] * len(pictures),
    num=num,
    seed=args.seed,
    steps=args.steps,
    guidance=args.guidance,
    text_guidance=args.text_guidance,
    guidance_mode=args.guidance_mode,
    subject_scale=args.subject_scale,
    inputs=inputs,
  )
  paths = [out.with_name(f"{out.stem}-{i}.png") for i in range(len(generated))]
  for path, picture in zip(paths, generated, strict=True):
    images.save_png(path, picture)
  sheet = images.contact_sheet(
    [pictures, generated], ["given", args.prompt], size_px=CELL_PX
  )
  images.save_png(out, sheet)
  others = f"{paths[0]}" + (f" to {paths[-1].name}" if paths[1:] else "")
  print(f"Wrote {out} and {others}.")


def find_pictures(subject: Sequence[str]) -> tuple[list[Path], list[str]]:
  """The files that `--subject` names.

  Args:
    subject: files, or folders of them, in any mixture.

  Returns: the files, those of a folder by name; and lines on what else lies in
    the folders and is not read.

  Raises:
    ValueError: nothing is there, or no picture is.
  """
  from suti.io.image_files import describe_skipped, list_pictures, suffixes
  from suti.io.mask_files import is_mask, without_masks

  files: list[Path] = []
  notes: list[str] = []
  for name in subject:
    path = Path(name).expanduser()
    if not path.exists():
      raise ValueError(
        f"--subject={name}: there is no such file or folder; give pictures of "
        "one subject, or the folder they are in."
      )
    if not path.is_dir():
      if not is_mask(path):  # As a shell's *.png has them, too.
        files.append(path)
      continue
    listed, others = list_pictures(path)
    found = without_masks(listed)
    line = describe_skipped(others, root=path)
    if not found:
      raise ValueError(
        f"--subject={name}: no pictures in this folder (looked for "
        f"{' '.join(suffixes())}); give pictures of one subject."
        f"{line and f' {line}'}"
      )
    if line:
      notes.append(f"--subject={name}: {line}")
    files += found
  if not files:
    raise ValueError(
      f"--subject={subject[0]}: masks alone, and no picture beside them; give "
      "pictures of one subject."
    )
  return files, notes


def load_pictures(
  files: Sequence[Path], *, where: str = "--subject: "
) -> tuple[list[Any], list[str]]:
  """Opens pictures; one that cannot be read is left out.

  Args:
    files: of one subject.
    where: they were given, which begins the line.

  Returns: the pictures, and lines on those that are left out.

  Raises:
    ValueError: none can be read.
  """
  pictures, causes = _readable(files)
  if not causes:
    return pictures, []
  if not pictures:
    others = f" (and {len(causes) - 1} more)" if causes[1:] else ""
    raise ValueError(f"{causes[0]}{others}")
  notes = [
    f"{where}{len(causes)} of {len(files)} pictures cannot be read and are "
    "left out:",
    *(f"  {cause}" for cause in causes[:_MAX_CAUSES]),
  ]
  if rest := causes[_MAX_CAUSES:]:
    notes.append(f"  ... and {len(rest)} more.")
  return pictures, notes


def _readable(files: Sequence[Path]) -> tuple[list[Any], list[str]]:
  """The pictures that can be read, and why others cannot."""
  from suti.io.image_files import load_image

  pictures, causes = [], []
  for file in files:
    try:
      pictures.append(load_image(file))
    except ValueError as error:
      causes.append(str(error))
  return pictures, causes


def load_masks(
  files: Sequence[Path], pictures: Sequence[Any]
) -> list[Any | None]:
  """The mask beside each picture, None where there is none.

  Args:
    files: of the pictures, those that could not be read among them.
    pictures: those that could, in their order.

  Raises:
    ValueError: a mask is no picture, or not as large as its own.
  """
  from suti.io.mask_files import MASK, read_mask

  if not any((file.with_name(file.stem + MASK)).is_file() for file in files):
    return [None] * len(pictures)
  masks: list[Any | None] = []
  for file in files:
    read, _ = _readable([file])
    masks += [read_mask(file, image) for image in read]
  return masks


def use_masks(
  masks: Sequence[Any | None], pictures: Sequence[Any], *, is_seen: bool
) -> tuple[str, dict[str, Any]]:
  """What becomes of masks beside pictures: a line, and inputs of a method."""
  import numpy as np

  num = sum(mask is not None for mask in masks)
  found = f"{num} of {len(masks)} pictures have a mask beside them"
  if not is_seen:
    return f"{found}; this model's method sees none.", {}
  whole = "" if num == len(masks) else "; of the others the whole counts"
  return f"{found}{whole}.", {
    "demonstration_masks": [
      np.ones(image.shape[:2], bool) if mask is None else mask
      for mask, image in zip(masks, pictures, strict=True)
    ]
  }


def _load_mask(name: str) -> Any:
  """A mask from a picture: white is inside."""
  from suti.io.image_files import load_image

  return load_image(name).mean(2) > 127


def choose_caption(
  prompt: str, caption: str | None, *, where: str = "--caption"
) -> tuple[str, str]:
  """What the pictures are captioned with.

  An apprentice has learned from captioned demonstrations; "" is its null text.

  Args:
    prompt: what is to be sampled.
    caption: what the user says, None for the prompt's own subject.
    where: the user says it.

  Returns: the caption, and a line on it.
  """
  from experts.mining.captions import noun_phrase

  if caption is not None:
    return caption, f"The pictures are captioned '{caption}' ({where})."
  if phrase := noun_phrase(prompt):
    return phrase, (
      f"The pictures are captioned '{phrase}', after the prompt; {where} "
      "says it otherwise."
    )
  return "", (
    "The pictures have no caption, as the prompt names no subject: "
    f"{where} gives them one, such as 'a kettle'."
  )


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
