# SPDX-License-Identifier: Apache-2.0
"""Published folders -> the same, checked, under today's names, in shards.

A folder of this project is a published folder, so nothing is translated: every
part is declared from its config and its tensors are held against that, which
finds what is missing, of the wrong shape or not a number. Tensors go from file
to file one by one. Old names become the current ones, several variants become
one, pickles are refused. The result opens here and in diffusers or transformers
alike. Experts and LoRA files are `suti.hf.lora`'s matter.
"""

import dataclasses
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from suti.hf.find import explain_without_config
from suti.hf.model import FAMILIES, open_model
from suti.hf.model_index import (
  ASIDE,
  FILE,
  PIPELINES,
  check_named_parts,
  complete_index,
  named_parts,
  read_index,
  without_parts,
)
from suti.hf.weight_files import leads_out, read_headers
from suti.hf.weights import load, rewrite, save
from suti.io.files import (
  check_new_folder,
  read_object,
  replacing_folder,
  write_json,
)
from suti.nn.param import functional
from suti.nn.surgery import merge_wide, widen
from suti.runtime.progress import progress

# What is copied beside weights: configs, tokenizers, cards and licences.
_TEXTS = re.compile(r".*\.(json|txt|model|md)|LICEN[CS]E.*", re.IGNORECASE)
_WEIGHTS_INDEX = re.compile(r".*\.index(\.[^.]+)?\.json")
_MAX_TEXT_BYTES = 64 << 20  # a large tokenizer.json has 20 MB

TEXTS, LEFT_OUT = "texts", "left out"
_FIRST = "conv_in"  # the layer of a U-Net that an apprentice may widen
_WIDER = f"{_FIRST}.more.weight"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """The result for one part.

  Attributes:
    name: its folder; empty if the model is the whole folder.
    kind: its class; or `TEXTS`, which were copied, or `LEFT_OUT`.
    num_parameters: how many numbers it has.
    num_files: of weights, or of texts.
    num_bytes: of these files.
  """

  name: str
  kind: str
  num_parameters: int = 0
  num_files: int = 0
  num_bytes: int = 0


def convert(
  source: Path,
  out: Path,
  *,
  dtype: Any = None,
  max_shard_bytes: int = 5 * 10**9,
  complete: bool = False,
) -> list[Part]:
  """Checks a published folder and writes it anew, showing where it is.

  Args:
    source: one model, or a text-to-image model of several parts.
    out: the new folder; appears when all of it is written.
    dtype: of the weights; None keeps each tensor's own.
    max_shard_bytes: largest file of weights, tensors being whole.
    complete: also make it a folder that diffusers opens as a whole.

  Returns:
    The parts, also those that were left out.

  Raises:
    ValueError: no model is there, a part is missing or does not fit its config,
      diffusers cannot open it, or `out` cannot be a new folder.
  """
  check_new_folder(out, outside=source)
  if (source / "apprentice.json").is_file():
    return [_convert_widened(source, out, dtype=dtype)]
  options = {"dtype": dtype, "max_shard_bytes": max_shard_bytes, "home": source}
  if not ((source / "unet").is_dir() or (source / FILE).is_file()):
    with replacing_folder(out) as place:
      return [_convert_model(source, place, name="", **options)]
  index = read_index(source)
  kinds = _kinds_of_parts(source, index)
  index = _new_index(source, index, kinds, complete=complete)
  parts = []
  with replacing_folder(out) as place:
    if (copied := _copy_texts(source, place, home=source)).num_files:
      parts.append(copied)
    for name, kind in kinds.items():
      folder = source / name
      if kind == LEFT_OUT:
        parts.append(Part(name=name, kind=LEFT_OUT))
      elif kind == TEXTS:
        parts.append(_copy_texts(folder, place / name, home=source))
      else:
        parts.append(_convert_model(folder, place / name, name=name, **options))
    write_json(place / FILE, index)
  return parts


def _convert_widened(source: Path, out: Path, *, dtype: Any) -> Part:
  """Writes an apprentice that is a U-Net with a wider input as a U-Net.

  Both weights of its first convolution (`suti.nn.surgery.widen`) become one,
  and in_channels is what that sees: a folder like that of a published U-Net of
  inpainting or depth.

  Raises:
    ValueError: it has other new layers.
  """
  folder = source / "unet"
  unet = open_model(folder, weights=False)
  stored = read_headers(folder)
  if stored.keys() - unet.spec.keys() != {_WIDER}:
    raise ValueError(
      f"{source} is an apprentice, whose layers for demonstrations exist "
      "nowhere else: use it as it is, by `suti generate --subject`."
    )
  _, more, *_ = stored[_WIDER].shape  # as published: out, in, height, width
  config = dict(unet.config)
  config["in_channels"] = int(config.get("in_channels", 4)) + more
  family = FAMILIES[unet.kind]
  spec, _ = functional(widen(unet.module, _FIRST, more))
  params = merge_wide(load(spec, folder, dtype=dtype), _FIRST)
  merged, _ = functional(family.declare(config))
  file = f"{family.stem}.safetensors"
  with replacing_folder(out) as place:
    write_json(place / "config.json", config)
    save(params, merged, place / file, dtype=dtype)
    num_bytes = (place / file).stat().st_size
  return Part(
    name="",
    kind=unet.kind,
    num_parameters=sum(p.size for p in merged.values()),
    num_files=1,
    num_bytes=num_bytes,
  )


def _kinds_of_parts(source: Path, index: Mapping[str, Any]) -> dict[str, str]:
  """The class of each part, or that it is `TEXTS` or `LEFT_OUT`.

  Where model_index.json names parts, all others are left out; where it does
  not, what goes beside a model is.

  Raises:
    ValueError: a part that it names is not there, or not supported.
  """
  folders = sorted(p for p in source.iterdir() if p.is_dir())
  folders = [folder for folder in folders if not folder.name.startswith(".")]
  named = named_parts(index)
  check_named_parts(source, index, set(named).difference(ASIDE))
  there = {folder.name for folder in folders}
  wanted = named or there.difference(ASIDE)
  return {
    folder.name: _kind_of_part(folder) if folder.name in wanted else LEFT_OUT
    for folder in folders
  }


def _kind_of_part(folder: Path) -> str:
  aside = folder.name in ASIDE
  if not (folder / "config.json").is_file():
    if any(folder.glob("*.safetensors")) and not aside:
      raise ValueError(explain_without_config(folder))
    return TEXTS
  # Not by its kind: the config of a safety checker is a CLIP's.
  return LEFT_OUT if aside else open_model(folder, weights=False).kind


def _new_index(source, index, kinds, *, complete) -> dict[str, Any]:
  """The new model_index.json, with the parts that are kept.

  Raises:
    ValueError: it must be complete, and diffusers has no such pipeline.
  """
  if named_parts(index):
    return without_parts(index, {n for n, k in kinds.items() if k != LEFT_OUT})
  models = {n: k for n, k in kinds.items() if k in FAMILIES}
  full = complete_index(source, index, models)
  patch = index.get("patch_size", 1)
  if complete and (patch != 1 or full["_class_name"] not in PIPELINES):
    what = (
      f"is of {', '.join(models.values()) or 'no models'}"
      if patch == 1
      else f"works on patches of {patch} px (patch_size of its {FILE})"
    )
    raise ValueError(
      f"{source} {what}, for which diffusers has no pipeline: convert its "
      "unet/ alone, or leave --to out."
    )
  vae = read_object(source / "vae" / "config.json") if "vae" in models else {}
  if complete and vae.get("shift_factor"):
    raise ValueError(
      f"{source / 'vae' / 'config.json'} has "
      f"shift_factor={vae['shift_factor']!r}, which {full['_class_name']} of "
      "diffusers does not read, so that its pictures would be wrong: convert "
      "its unet/ alone, or leave --to out."
    )
  # An index of ours names no parts, and is left as it is.
  return full if complete or not index else dict(index)


def _convert_model(folder, out, *, name, home, dtype, max_shard_bytes) -> Part:
  """Writes a model's weights, and copies the texts beside them."""
  model = open_model(folder, weights=False)
  family = FAMILIES[model.kind]
  _copy_texts(folder, out, home=home)
  with progress(len(model.spec), name or folder.name) as bar:
    rewrite(
      model.spec,
      folder,
      out / f"{family.stem}.safetensors",
      dtype=dtype,
      renames=family.renames,
      max_shard_bytes=max_shard_bytes,
      notify=lambda _: bar.update(),
    )
  if dtype is not None:
    stated = {"torch_dtype", "dtype"} & model.config.keys()
    new = dict.fromkeys(stated, jnp.dtype(dtype).name)
    write_json(out / "config.json", {**model.config, **new})
  files = list(out.glob("*.safetensors"))
  return Part(
    name=name,
    kind=model.kind,
    num_parameters=sum(p.size for p in model.spec.values()),
    num_files=len(files),
    num_bytes=sum(file.stat().st_size for file in files),
  )


def _copy_texts(folder: Path, out: Path, *, home: Path) -> Part:
  """Copies texts; weights' indexes are written with the weights.

  Raises:
    ValueError: one is a link to a place outside of `home`, or too large.
  """
  files = [
    file
    for file in sorted(folder.iterdir())
    if file.is_file()
    and file.name != FILE
    and _TEXTS.fullmatch(file.name)
    and not _WEIGHTS_INDEX.fullmatch(file.name)
  ]
  for file in files:
    if (size := file.stat().st_size) > _MAX_TEXT_BYTES:
      raise ValueError(
        f"{file} has {size >> 20} MB, and a text of a model at most "
        f"{_MAX_TEXT_BYTES >> 20}: move it elsewhere if it is none."
      )
    # What is copied may be published: nothing of another place may slip in.
    if leads_out(file, home=home):
      raise ValueError(
        f"{file} is a link that leads out of {home}: put the file itself there "
        "if it belongs to the model."
      )
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, out / file.name)
  return Part(
    name="" if folder == home else folder.name,
    kind=TEXTS if files else LEFT_OUT,
    num_files=len(files),
    num_bytes=sum(file.stat().st_size for file in files),
  )
