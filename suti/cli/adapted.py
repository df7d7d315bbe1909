# SPDX-License-Identifier: Apache-2.0
"""`suti generate --adapter`: a published model and IP-Adapter, and pictures.

IP-Adapter (arXiv 2308.06721). Nothing is trained here: that is the method
`apprentice/methods/ip_adapter.py`. The model is sampled as of a text alone,
with the same flags: `text_only.py`.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from suti.cli.parser import check_numbers, check_out
from suti.cli.subject import find_pictures, load_pictures
from suti.cli.text_only import (
  choose_dtype,
  read_lora,
  read_size,
  sample_all,
  write,
)

SCALE = 1.0  # as its publisher's
ENCODER = "image_encoder"  # beside the adapter's file


def generate_adapted(args: argparse.Namespace) -> None:
  """Writes a contact sheet, and each picture beside it.

  Raises:
    ValueError: an argument is wrong, or does not fit the model.
  """
  out = check_out(args.out)
  check_numbers(args)
  size = None if args.size is None else read_size(args.size)
  loras = [read_lora(text) for text in args.lora or ()]
  scale = SCALE if args.subject_scale is None else args.subject_scale
  if not 0 <= scale < math.inf:
    raise ValueError(
      f"--subject-scale={scale}: expected 0, without the pictures, or more; 1 "
      "is usual."
    )
  file, encoder = _find_adapter(args.adapter, args.image_encoder)
  files, notes = find_pictures(args.subject)
  pictures, more_notes = load_pictures(files)
  from suti.hf.hub import find_or_fetch
  from suti.pipeline import known_words
  from suti.runtime import xla_flags
  from suti.runtime.progress import say

  folder = find_or_fetch(args.model)
  if (folder / "apprentice.json").is_file():
    raise ValueError(
      f"--model={folder} is an apprentice, which has no use for an IP-Adapter: "
      "give a text-to-image model, or leave out --adapter."
    )
  notes += more_notes
  if unknown := known_words.note(folder, args.prompt, args.negative or ""):
    notes.append(unknown)
  if pictures[1:]:
    notes.append(
      f"The {len(pictures)} pictures are shown side by side, the tokens of all "
      "in one row, as its publisher's code does; an IP-Adapter was trained on "
      "one at a time."
    )
  for note in notes:  # Before the work, which may take minutes.
    say(note)
  xla_flags.prepare()

  def adapt(stage: Any) -> tuple[Any, Any]:
    from suti.pipeline.ip_adapter import open_ip_adapter
    from suti.pipeline.text_to_image import with_adapter

    unet, encode_pictures = open_ip_adapter(
      file,
      image_encoder=encoder,
      unet=stage.unet.module,
      dtype=choose_dtype(args.dtype),
    )
    contexts = encode_pictures([pictures], scale=scale)
    return with_adapter(stage, unet), contexts

  made = sample_all(args, [folder], loras, size=size, adapt=adapt)
  write(out, made, args.prompt, given=pictures)


def _find_adapter(name: str, encoder: str | None) -> tuple[Path, Path]:
  """The adapter's file and its image encoder's folder.

  Raises:
    ValueError: one is not there.
  """
  file = Path(name).expanduser()
  if not file.is_file():
    raise ValueError(
      f"--adapter={name}: there is no such file; give the .safetensors file of "
      "an IP-Adapter, such as models/ip-adapter_sd15.safetensors of "
      "h94/IP-Adapter on the Hugging Face hub."
    )
  folder = Path(encoder).expanduser() if encoder else file.parent / ENCODER
  if not folder.is_dir():
    flag = f"--image-encoder={encoder}" if encoder else "--image-encoder"
    raise ValueError(
      f"{flag}: there is no folder {folder}; give the CLIP image encoder that "
      f"{file.name} was trained with, which is published beside it."
    )
  return file, folder
