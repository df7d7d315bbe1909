# SPDX-License-Identifier: Apache-2.0
"""`suti generate` without a subject: a text -> pictures, on published weights.

Parts of a model come one after the other and go again: text encoders, then each
net of the cascade. The largest of them is what must fit into memory.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from suti.cli.parser import check_numbers, check_out

NUM = 1  # pictures
MAX_PX = 8192  # of a side; what is larger is a mistake, and takes all memory
CELL_PX = 256  # side of a picture on the contact sheet
# Of a super-resolution model: it is conditioned on the first one's text states,
# whose encoder in IF has 4.8 billion parameters.
_UNREAD = ("text_encoder", "tokenizer")


def generate_text(args: argparse.Namespace) -> None:
  """Writes the picture, or several and a contact sheet of them.

  Raises:
    ValueError: an argument is wrong, or does not fit the model.
  """
  out = check_out(args.out)
  check_numbers(args)
  size = None if args.size is None else read_size(args.size)
  loras = [read_lora(text) for text in args.lora or ()]
  from suti.hf.hub import find_or_fetch
  from suti.pipeline import known_words
  from suti.runtime import xla_flags
  from suti.runtime.progress import say

  folders = [find_or_fetch(args.model)]
  folders += [find_or_fetch(x, without=_UNREAD) for x in args.enlarge or ()]
  for folder in folders:
    if (folder / "apprentice.json").is_file():
      raise ValueError(
        f"--model={folder} is an apprentice, which shows the subject of some "
        "pictures: give them as --subject, or give a text-to-image model."
      )
  if unknown := known_words.note(folders[0], args.prompt, args.negative or ""):
    say(unknown)
  xla_flags.prepare()
  write(out, sample_all(args, folders, loras, size=size), args.prompt)


def sample_all(
  args: argparse.Namespace,
  folders: Sequence[Path],
  loras: Sequence[tuple[Path, float]],
  *,
  size: tuple[int, int] | None,
  adapt: Callable[[Any], tuple[Any, Any]] | None = None,
) -> Any:
  """Samples the pictures by a model, and enlarges them by others.

  Args:
    args: of the command.
    folders: of the models.
    loras: files and their strengths.
    size: height and width in px.
    adapt: (the first stage) -> it with an adapter, and the adapter's contexts,
      see `suti.pipeline.text_to_image`.

  Returns: uint8.

  Raises:
    ValueError: an argument is wrong, or does not fit the model.
  """
  import numpy as np

  from suti.images import to_u8
  from suti.pipeline import text_to_image
  from suti.pipeline.backbone import check_parts
  from suti.pipeline.text_encoders import open_text_encoders

  dtype = choose_dtype(args.dtype)
  if args.sampler:
    text_to_image.choose_sampler({}, args.sampler)
  depth = {} if args.depth is None else {"near_HW": _read_depth(args.depth)}
  first, *others = folders
  change = _change(first, loras)
  check_parts(first)
  text, null = text_to_image.encode_prompts(
    open_text_encoders(first, dtype=dtype, rows=2, change=change),
    [args.prompt],
    negative=args.negative,
    zero_null=text_to_image.null_is_zeros(first),
  )
  net = text_to_image.open_cascade_stage(first, dtype=dtype, change=change)
  net, contexts = adapt(net) if adapt else (net, None)
  options: dict[str, Any] = {"steps": args.steps, "sampler": args.sampler}
  num = args.num or NUM

  def sample(net, verb: str, small, **more) -> list[Any]:
    # One by one: memory does not grow with their number, and a picture is the
    # same whatever is sampled beside it.
    pictures = []
    for i, small_pm1 in enumerate(small):
      which = f" {i + 1} of {num}" if num > 1 else ""
      picture_pm1 = text_to_image.draw(
        net,
        text,
        null,
        seeds=[args.seed + i],
        small_pm1=small_pm1,
        watch=_watch(f"{net.folder.name}: {verb}{which}"),
        **options,
        **more,
      )
      pictures.append(np.asarray(picture_pm1))
    return pictures

  more: dict[str, Any] = {"guidance": args.guidance, "contexts": contexts}
  pictures = sample(net, "sampling", [None] * num, size=size, **more, **depth)
  for folder in others:
    before_px, net = net.size_px, None  # weights go before the next ones come
    net = text_to_image.open_cascade_stage(folder, dtype=dtype)
    # As many times larger as its own pictures are, in any proportions.
    if size is not None:
      height, width = (side * net.size_px // before_px for side in size)
      size = height, width
    pictures = sample(net, "enlarging", pictures, size=size)
  pictures_BHWC = np.concatenate(pictures)
  _check_finite(pictures_BHWC, folders[-1], dtype)
  return to_u8(pictures_BHWC)


def _check_finite(pictures_BHWC: Any, folder: Path, dtype: Any) -> None:
  import numpy as np

  if not np.isfinite(pictures_BHWC).all():
    raise ValueError(
      f"{folder} returned values that are NaN or infinite in "
      f"{np.dtype(dtype).name}: try --dtype float32, or another sampler."
    )


def _read_depth(name: str) -> Any:
  """How near everything is, from a picture of it."""
  from suti.io.image_files import load_image

  return load_image(name).mean(2)


def _watch(label: str) -> Callable:
  """Shows how many pieces of a picture are done."""
  from suti.runtime.progress import progress

  def watch(pieces):
    with progress(len(pieces), label) as bar:
      bar.update(0)  # seen while the first piece is compiled
      for piece in pieces:
        yield piece
        bar.update()

  return watch


def _change(folder: Path, loras) -> Callable | None:
  """Merges LoRAs into each part of the model as it is opened."""
  if not loras:
    return None
  from suti.hf.lora import load_lora
  from suti.hf.model import open_model
  from suti.nn.surgery import joined, merge

  specs = {
    part: open_model(folder / part, weights=False).spec
    for part in ("unet", "text_encoder", "text_encoder_2")
    if (folder / part).is_dir()
  }
  updates = [(load_lora(file, specs), scale) for file, scale in loras]

  def change(part: str, params: dict) -> dict:
    given = [(found.get(part, {}), scale) for found, scale in updates]
    return merge(params, joined(given))

  return change


def write(
  out: Path, pictures: Any, prompt: str, *, given: Sequence[Any] = ()
) -> None:
  """Writes pictures and, where there are several, a contact sheet.

  Args:
    out: of the sheet or the only picture.
    pictures: uint8.
    prompt: of them.
    given: of the subject, shown on the sheet.
  """
  from suti import images

  if len(pictures) == 1 and not given:
    images.save_png(out, pictures[0])
    print(f"Wrote {out}.")
    return
  paths = [out.with_name(f"{out.stem}-{i}.png") for i in range(len(pictures))]
  for path, picture in zip(paths, pictures, strict=True):
    images.save_png(path, picture)
  rows, labels = [list(pictures)], [prompt]
  if given:
    rows, labels = [list(given), *rows], ["given", *labels]
  images.save_png(out, images.contact_sheet(rows, labels, size_px=CELL_PX))
  others = f"{paths[0]}" + (f" to {paths[-1].name}" if paths[1:] else "")
  print(f"Wrote {out} and {others}.")


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
  if not (width.isdecimal() and height.isdecimal()):
    raise ValueError(
      f"--size={text}: give width and height in px, such as 768x512."
    )
  size = int(height), int(width)
  if not 0 < min(size) <= max(size) <= MAX_PX:
    raise ValueError(f"--size={text}: give sides of 1 to {MAX_PX} px.")
  return size


def read_lora(text: str) -> tuple[Path, float]:
  """Reads "FILE" or "FILE:0.8" as the file and how strongly it counts.

  A file may be on the hub: `ORG/NAME`, `ORG/NAME@REVISION`, `ORG/NAME/FILE`.

  Raises:
    ValueError: there is no such file, or the strength is no number.
  """
  name, scale = text, 1.0
  if not Path(text).exists() and ":" in text:
    name, _, number = text.rpartition(":")
    try:
      scale = float(number)
    except ValueError:
      scale = math.nan
  if name and math.isfinite(scale):
    if Path(name).exists():
      return Path(name), scale
    from suti.hf.hub_lora import fetch_lora, read_name

    if there := read_name(name):
      return fetch_lora(there), scale
  raise ValueError(
    f"--lora={text}: there is no such file; give a .safetensors file, or "
    "ORG/NAME or ORG/NAME/FILE.safetensors of the Hugging Face hub, and after "
    "it :0.8 for a part of its strength."
  )
