# SPDX-License-Identifier: Apache-2.0
"""A model's name -> its folder: one that the package ships, or one on disk.

`ORG/NAME` on the Hugging Face hub is `suti.hf.hub`'s matter. Weights are not
read here, so that a stage that needs a path alone does not import the models.
"""

import contextlib
from pathlib import Path

from suti.hf.families import recognise
from suti.hf.weight_files import read_headers
from suti.io.paths import local, path_of

PRETRAINED = Path(__file__).parent.parent / "pretrained"


def find_model(name_or_dir: str | Path) -> Path:
  """The folder of a shipped model's name, or the folder itself.

  Raises:
    ValueError: there is no such folder; names the shipped ones, or what lies
      there.
  """
  shipped = sorted(p.name for p in PRETRAINED.glob("*") if p.is_dir())
  if str(name_or_dir) in shipped:
    return PRETRAINED / str(name_or_dir)
  path = path_of(name_or_dir)
  with contextlib.suppress(FileNotFoundError):
    path = local(path)
  if path.is_dir():
    return path
  if path.is_file():
    raise ValueError(explain_without_config(path))
  raise ValueError(
    f"No model '{name_or_dir}': it is neither a folder nor one of the shipped "
    f"models {', '.join(shipped) or '(none)'}."
  )


def explain_without_config(path: Path) -> str:
  """Says what lies where a published model was expected.

  Args:
    path: a folder without config.json, or a file.

  Returns:
    One line: what the weights there are, if there are any, and what to do.

  Raises:
    ValueError: these weights are pickles, or damaged.
  """
  expected = (
    "expected a published model's folder, with config.json beside its "
    ".safetensors"
  )
  if path.is_dir() and not any(path.glob("*.safetensors")):
    return f"{path} has no config.json: {expected}."
  tensors = read_headers(path)
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  family = recognise(shapes) or f"{len(shapes)} tensors of an unknown model"
  remedy = "put the config.json that was published with it beside it"
  if family.startswith("a LoRA"):
    remedy = "sample with it by `suti generate --model BASE --lora FILE`"
  elif family.startswith("an IP-Adapter"):
    remedy = "sample with it by `suti generate --model BASE --adapter FILE`"
  elif family.startswith("an original checkpoint"):
    remedy = "give the same model in the layout of diffusers, a folder"
  where = "has no config.json and" if path.is_dir() else "is a file and"
  return f"{path} {where} holds {family}: {remedy} ({expected})."
