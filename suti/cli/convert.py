# SPDX-License-Identifier: Apache-2.0
"""`suti convert`: published models, checked and written anew; experts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suti.cli.parser import Parser


def convert(argv: Sequence[str]) -> None:
  """Writes the folder and says what is in it.

  Raises:
    ValueError: there is no model, it does not fit its config, or OUT exists.
  """
  args = _parser().parse_args(list(argv))
  out = Path(args.out)
  if args.to not in (None, "diffusers", "peft"):
    raise ValueError(f"--to={args.to}: use diffusers or peft.")
  if args.max_gb <= 0:
    raise ValueError(f"--max-gb={args.max_gb} must be above 0.")
  source = Path(args.source)
  if source.is_dir() and any(source.glob("wave-*.json")):
    _export_experts(source, out, args)
    return
  if args.to == "peft":
    raise ValueError(
      "--to=peft is for experts: give WORKDIR/experts/finetune of a run."
    )
  from suti.hub import find_or_fetch

  folder = find_or_fetch(args.source)
  from suti.convert import convert as write
  from suti.progress import progress

  with progress(None, label="convert") as bar:
    parts = write(
      folder,
      out,
      dtype=_dtype(args.dtype),
      max_shard_bytes=int(args.max_gb * 1e9),
      complete=args.to == "diffusers",
      tell=lambda name: bar.update(note=name),
    )
  for part in parts:
    print(_line(part))
  total = sum(part.num_bytes for part in parts)
  print(f"Wrote {out}: {total / 1e9:.2f} GB of weights, all checked.")


def _line(part) -> str:
  name = part.name or part.kind
  if not part.num_files:
    return f"  {name:22} {part.kind}"
  files = "1 file" if part.num_files == 1 else f"{part.num_files} files"
  return (
    f"  {name:22} {part.kind}, {part.num_parameters / 1e6:,.1f}M parameters, "
    f"{part.num_bytes / 1e9:.2f} GB in {files}"
  )


def _export_experts(folder: Path, out: Path, args) -> None:
  """Experts of a run, each as a LoRA of its own."""
  from experts.export import export_experts

  files = export_experts(
    folder,
    out,
    layout=args.to or "diffusers",
    clusters=args.expert or None,
  )
  more = f" to {files[-1].name}" if files[1:] else ""
  print(f"Wrote {files[0]}{more}: {len(files)} experts as LoRA.")


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
    allow_abbrev=False,
    description="Checks a published model and writes it anew: tensors under "
    "today's names, one variant, whole files of safetensors. Takes experts out "
    "of a run as LoRA.",
  )
  add = parser.add_argument
  add(
    "source",
    metavar="PATH_OR_REPO",
    help="a folder in the layout of diffusers or transformers, ORG/NAME on the "
    "Hugging Face hub, or WORKDIR/experts/finetune",
  )
  add("out", metavar="OUT", help="a new folder")
  add(
    "--to",
    metavar="LAYOUT",
    help="diffusers: refuse what its pipelines cannot open; experts become "
    "files for load_lora_weights. peft: experts become folders for PeftModel",
  )
  add(
    "--dtype",
    metavar="TYPE",
    help="float32, bfloat16 or float16 (each tensor's own)",
  )
  add(
    "--max-gb",
    type=float,
    default=5.0,
    metavar="GB",
    help="largest file of weights (5)",
  )
  add(
    "--expert",
    nargs="+",
    metavar="CLUSTER",
    help="the experts to take out (all)",
  )
  return parser
