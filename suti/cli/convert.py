# SPDX-License-Identifier: Apache-2.0
"""`suti convert`: published models, checked and written anew; experts."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suti.cli.parser import Parser, check_here
from suti.io.paths import local, path_of

_DESCRIPTION = """\
Checks a published model, tensor by tensor, and writes it anew: tensors under
their current names, one variant, safetensors alone. Or takes experts out of a
run, each as a LoRA that other tools open.
"""
_EXAMPLES = """\
examples:
  suti convert stable-diffusion-v1-5/stable-diffusion-v1-5 models/sd15
  suti convert models/mine models/for_diffusers --to diffusers --dtype float16
  suti convert runs/lora experts --to kohya
  suti convert runs/lora experts --expert rex dog 0a1b2c3d4e5f
"""
# Of experts; a whole model is written in the first. `suti.hf.lora_export` has
# them too, and would load JAX before a mistake is named.
_LAYOUTS = ("diffusers", "peft", "kohya")
MAX_GB = 5.0  # of a file, as publishers have it
_THOUSANDS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def convert(argv: Sequence[str]) -> None:
  """Writes the folder and says what is in it.

  Raises:
    ValueError: there is no model, it does not fit its config, OUT exists, or
      arguments do not go together.
  """
  args = _parser().parse_args(list(argv))
  if args.to not in (None, *_LAYOUTS):
    raise ValueError(
      f"--to={args.to}: use {', '.join(_LAYOUTS[:-1])} or {_LAYOUTS[-1]}."
    )
  source, out = path_of(args.source), check_here(args.out, flag="OUT")
  with contextlib.suppress(FileNotFoundError):
    source = local(source)
  experts = source / "experts" / "finetune"
  folder = experts if experts.is_dir() else source
  if folder.is_dir() and any(folder.glob("wave-*.json")):
    _export_experts(folder, out, args)
  else:
    _convert_model(out, args)


def _convert_model(out: Path, args) -> None:
  for flag, given in (
    (f"--to={args.to}", args.to in ("peft", "kohya")),
    ("--expert", args.expert),
  ):
    if given:
      raise ValueError(f"{flag} is for experts: give the workdir of a run.")
  max_gb = MAX_GB if args.max_gb is None else args.max_gb
  if not 0 < max_gb < float("inf"):
    raise ValueError(f"--max-gb={max_gb}: give a number above 0.")
  dtype = _dtype(args.dtype)
  experts = path_of(args.source) / "experts" / "finetune"
  if experts.is_dir():
    raise ValueError(
      f"{args.source} is the workdir of a run that has no finished experts: "
      "run experts.finetune first."
    )
  from suti.hf.hub import find_or_fetch

  folder = find_or_fetch(args.source)
  from suti.hf.convert import convert as write

  parts = write(
    folder,
    out,
    dtype=dtype,
    max_shard_bytes=int(max_gb * 1e9),
    complete=args.to == "diffusers",
  )
  for part in parts:
    print(f"  {part.name or '.':22} {_describe(part)}")
  total = sum(part.num_bytes for part in parts if part.num_parameters)
  print(f"Wrote {out}: {short(total, ' ')}B of weights, every tensor checked.")


def _describe(part) -> str:
  files = "1 file" if part.num_files == 1 else f"{part.num_files} files"
  if not part.num_files:
    return part.kind
  if not part.num_parameters:
    return f"{files} of text"
  return (
    f"{part.kind}, {short(part.num_parameters)} parameters, "
    f"{short(part.num_bytes, ' ')}B in {files}"
  )


def short(number: float, space: str = "") -> str:
  """859500000 -> "860M"; with a space, 3438000000 -> "3.44 G"."""
  for thousands, letter in _THOUSANDS:
    if number >= thousands:
      return f"{number / thousands:.3g}{space}{letter}"
  return f"{number}{space}"


def _export_experts(folder: Path, out: Path, args) -> None:
  """Experts of a run, each as a LoRA of its own."""
  for name in ("dtype", "max_gb"):
    if getattr(args, name) is not None:
      raise ValueError(
        f"--{name.replace('_', '-')} is for whole models: leave it out, "
        "experts are small and keep their dtype."
      )
  from experts.export import export_experts

  files = export_experts(
    folder,
    out,
    layout=args.to or "diffusers",
    experts=args.expert or None,
  )
  many = f" to {files[-1].name}: {len(files)} experts" if files[1:] else ": one"
  print(f"Wrote {files[0]}{many} as LoRA.")


def _dtype(name: str | None) -> Any:
  import jax.numpy as jnp

  known = {
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
  }
  if name is not None and name not in known:
    raise ValueError(f"--dtype={name}: use {', '.join(known)}.")
  return known[name] if name else None


def _parser() -> Parser:
  parser = Parser(
    prog="suti convert",
    description=_DESCRIPTION,
    epilog=_EXAMPLES,
  )
  add = parser.add_argument
  add(
    "source",
    metavar="PATH_OR_REPO",
    help="a folder in the layout of diffusers or transformers, ORG/NAME or "
    "ORG/NAME@REVISION on the Hugging Face hub, or the workdir of a run",
  )
  add("out", metavar="OUT", help="a new folder")
  add(
    "--to",
    metavar="LAYOUT",
    help="diffusers: a model becomes a folder for DiffusionPipeline, or is "
    "refused; experts become files for load_lora_weights, as without --to. "
    "peft: experts become folders for PeftModel. kohya: experts become files "
    "for ComfyUI, A1111 and Forge",
  )
  add(
    "--dtype",
    metavar="TYPE",
    help="float32, bfloat16 or float16 (default: each tensor's own)",
  )
  add(
    "--max-gb",
    type=float,
    metavar="GB",
    help=f"largest file of weights (default: {MAX_GB:g})",
  )
  add(
    "--expert",
    nargs="+",
    action="extend",
    metavar="SUBJECT",
    help="which experts to take out: names of their folders, nouns, or keys "
    "(default: all)",
  )
  return parser
