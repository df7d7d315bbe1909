# SPDX-License-Identifier: Apache-2.0
"""`suti generate` without a subject: a text -> pictures, on published weights.

Parts of a model come one after the other and go again: text encoders, then each
net of the cascade. The largest of them is what must fit into memory.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from suti.cli.parser import check_out

MAX_NUM = 64  # pictures at once; more are more calls
CELL_PX = 256  # side of a picture on the contact sheet


def draw_text(args: argparse.Namespace) -> None:
  """Writes the picture, or several and a contact sheet of them.

  Raises:
    ValueError: an argument is wrong, or does not fit the model.
  """
  out = check_out(args.out)
  num = 1 if args.num is None else args.num
  if not 1 <= num <= MAX_NUM:
    raise ValueError(f"--num={num} must be between 1 and {MAX_NUM}.")
  size = None if args.size is None else read_size(args.size)
  loras = [read_lora(text) for text in args.lora or ()]
  from suti import stage
  from suti.hub import find_or_fetch

  folders = [find_or_fetch(x) for x in (args.model, *(args.enlarge or ()))]
  stage.use_compilation_cache()
  pictures = _draw(args, folders, loras, num=num, size=size)
  _write(out, pictures, args.prompt)


def _draw(args, folders: Sequence[Path], loras, *, num: int, size) -> Any:
  """The pictures, uint8."""
  import numpy as np

  from suti import text_to_image
  from suti.images import to_u8
  from suti.progress import progress
  from suti.text_encoders import open_text_encoders

  dtype = choose_dtype(args.dtype)
  change = _change(folders[0], loras)
  text = null = None
  x_BHWC = None
  for number, folder in enumerate(folders):
    first = number == 0
    net = text_to_image.open_stage(
      folder, dtype=dtype, change=change if first else None
    )
    if text is None:
      text, null = text_to_image.encode_prompts(
        open_text_encoders(folder, dtype=dtype, rows=2, change=change),
        [args.prompt],
        negative=args.negative,
        zero_null=net.zero_null,
      )
      text, null = (
        type(x)(*(None if y is None else np.repeat(y, num, axis=0) for y in x))
        for x in (text, null)
      )
    label = f"{folder.name}: {'drawing' if first else 'enlarging'}"
    x_BHWC = text_to_image.draw(
      net,
      text,
      null,
      seeds=range(args.seed, args.seed + num),
      size=size if first else None,
      steps=args.steps,
      guidance=args.guidance if first else None,
      sampler=args.sampler,
      small_pm1=x_BHWC,
      watch=lambda pieces, label=label: progress(pieces, label=label),
    )
    del net  # its weights go before the next net's come
  return np.asarray(to_u8(x_BHWC))


def _change(folder: Path, loras) -> Callable | None:
  """Merges LoRAs into each part of the model as it is opened."""
  if not loras:
    return None
  from suti.io.lora import load_lora
  from suti.nn.surgery import merge
  from suti.published import open_model

  specs = {
    part: open_model(folder / part, weights=False).spec
    for part in ("unet", "text_encoder", "text_encoder_2")
    if (folder / part).is_dir()
  }
  updates = [(load_lora(file, specs), scale) for file, scale in loras]

  def change(part: str, params: dict) -> dict:
    for update, scale in updates:
      if part in update:
        params = merge(params, update[part], scale=scale)
    return params

  return change


def _write(out: Path, pictures, prompt: str) -> None:
  from suti import images

  if len(pictures) == 1:
    images.save_png(out, pictures[0])
    print(f"Wrote {out}.")
    return
  paths = [out.with_name(f"{out.stem}-{i}.png") for i in range(len(pictures))]
  for path, picture in zip(paths, pictures, strict=True):
    images.save_png(path, picture)
  sheet = images.contact_sheet([list(pictures)], [prompt], size_px=CELL_PX)
  images.save_png(out, sheet)
  print(f"Wrote {out} and {paths[0]} to {paths[-1].name}.")


def choose_dtype(name: str | None) -> Any:
  """The dtype of that name; without one, what the machine is good at.

  Raises:
    ValueError: another name.
  """
  import jax
  import jax.numpy as jnp

  known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
  if name is None:
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
  if name not in known:
    raise ValueError(f"--dtype={name}: use float32 or bfloat16.")
  return known[name]


def read_size(text: str) -> tuple[int, int]:
  """Reads "768x512" as height and width, (512, 768).

  Raises:
    ValueError: it is not like that.
  """
  width, _, height = text.lower().partition("x")
  if not (width.isdigit() and height.isdigit()):
    raise ValueError(
      f"--size={text}: give width and height in px, such as 768x512."
    )
  return int(height), int(width)


def read_lora(text: str) -> tuple[Path, float]:
  """Reads "FILE" or "FILE:0.8" as the file and how strongly it counts.

  Raises:
    ValueError: there is no such file, or the strength is no number.
  """
  if Path(text).exists():
    return Path(text), 1.0
  name, _, number = text.rpartition(":")
  try:
    scale = float(number) if name else 1.0
  except ValueError:
    name = ""
  if not name or not Path(name).exists():
    raise ValueError(
      f"--lora={text}: there is no such file; give a .safetensors file, or "
      "FILE:0.8 for a part of its strength."
    )
  return Path(name), scale
