# SPDX-License-Identifier: Apache-2.0
"""Published folders -> the same, checked, under today's names, in shards.

A folder of this project is a published folder, so nothing is translated: every
part is opened as it would be to draw with, which finds what is missing, of the
wrong shape or not a number, and written anew. Old names of tensors become the
current ones, several variants become one, pickles are refused. The result opens
here and in diffusers or transformers alike. Experts and LoRA files are
`suti.io.lora`'s matter.
"""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from suti.io.files import read_json, replacing_folder, write_json
from suti.io.weights import save
from suti.published import FAMILIES, kind_of, open_model, read_config

# What is copied beside weights: configs, tokenizers, model cards' licences.
_TEXTS = (".json", ".txt", ".model")
_MAX_TEXT_BYTES = 64 << 20  # a large tokenizer.json has 20 MB

# The published pipelines, by what their folders hold.
_PIPELINES = {
  ("CLIPTextModel",): "StableDiffusionPipeline",
  ("CLIPTextModel", "CLIPTextModelWithProjection"): "StableDiffusionXLPipeline",
  ("T5EncoderModel",): "IFPipeline",
}
_LIBRARIES = {"UNet2DConditionModel": "diffusers", "AutoencoderKL": "diffusers"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """What became of one part.

  Attributes:
    name: its folder; empty if the model is the whole folder.
    kind: its class.
    num_parameters: how many numbers it has.
    num_files: of weights; 0 where it was left out.
    num_bytes: of weights.
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
  tell: Callable[[str], None] = lambda name: None,
) -> list[Part]:
  """Checks a published folder and writes it anew.

  Args:
    source: one model, or a text-to-image model of several parts.
    out: the new folder; appears when all of it is written.
    dtype: of the weights; None keeps each tensor's own.
    max_shard_bytes: largest file of weights, tensors being whole.
    complete: also refuse what diffusers could not open.
    tell: called with the name of each part before it is read.

  Returns:
    The parts, also those that were left out.

  Raises:
    ValueError: no model is there, a part does not fit its config, or `out` is
      not empty.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(f"{out} is already there: give the name of a new folder.")
  if (source / "unet").is_dir() or (source / "model_index.json").is_file():
    names = sorted(p.name for p in source.iterdir() if _is_part(p))
  else:
    names = [""]
  if complete:
    _check_pipeline(source)
  parts = []
  with replacing_folder(out) as place:
    for name in names:
      tell(name or source.name)
      parts.append(
        _convert_part(
          source / name if name else source,
          place / name if name else place,
          name=name,
          dtype=dtype,
          max_shard_bytes=max_shard_bytes,
        )
      )
    if names != [""]:
      kept = {part.name: part for part in parts if part.kind != _LEFT_OUT}
      write_json(place / "model_index.json", _index(source, kept))
  return parts


_LEFT_OUT = "left out"


def _is_part(path: Path) -> bool:
  return path.is_dir() and not path.name.startswith(".")


def _convert_part(source, out, *, name, dtype, max_shard_bytes) -> Part:
  """Writes a model's weights, or copies the texts of what has none."""
  config_file = source / "config.json"
  if name and not config_file.is_file():
    return Part(name=name, kind=_copy_texts(source, out) and "texts")
  config = read_config(source)
  kind = kind_of(config)
  if name and kind not in FAMILIES:
    return Part(name=name, kind=_LEFT_OUT)
  model = open_model(source, dtype=dtype)
  _copy_texts(source, out)
  stem = FAMILIES[kind].stem
  save(
    model.params,
    model.spec,
    out / f"{stem}.safetensors",
    max_shard_bytes=max_shard_bytes,
  )
  if dtype is not None and "torch_dtype" in config:
    config["torch_dtype"] = jnp.dtype(dtype).name
    write_json(out / "config.json", config)
  files = list(out.glob("*.safetensors"))
  return Part(
    name=name,
    kind=kind,
    num_parameters=sum(p.size for p in model.spec.values()),
    num_files=len(files),
    num_bytes=sum(file.stat().st_size for file in files),
  )


def _copy_texts(source: Path, out: Path) -> bool:
  """Copies small text files; weights' indexes are written with the weights."""
  out.mkdir(parents=True, exist_ok=True)
  for file in sorted(source.iterdir()):
    if (
      file.is_file()
      and file.suffix in _TEXTS
      and not file.name.endswith(".safetensors.index.json")
      and not file.name.endswith(".bin.index.json")
      and file.stat().st_size <= _MAX_TEXT_BYTES
    ):
      shutil.copyfile(file, out / file.name)
  return True


def _index(source: Path, parts: dict[str, Part]) -> dict[str, Any]:
  """The published model_index.json without what was left out.

  A folder that has none gets one, so that diffusers can open it whole.
  """
  path = source / "model_index.json"
  if path.is_file():
    index = read_json(path)
    return {
      name: [None, None] if _names_part(value) and name not in parts else value
      for name, value in index.items()
    }
  index: dict[str, Any] = {"_class_name": _pipeline(source, parts)}
  for name, part in parts.items():
    if part.num_files:
      library = _LIBRARIES.get(part.kind, "transformers")
      index[name] = [library, part.kind]
    elif (config := _texts_config(source / name)) is not None:
      index[name] = config
  return index


def _names_part(value: Any) -> bool:
  return isinstance(value, list) and len(value) == 2


def _pipeline(source: Path, parts: dict[str, Part]) -> str:
  encoders = tuple(
    parts[name].kind
    for name in ("text_encoder", "text_encoder_2")
    if name in parts
  )
  return _PIPELINES.get(encoders, "DiffusionPipeline")


def _texts_config(folder: Path) -> Sequence[str] | None:
  """[library, class] of a scheduler or a tokenizer, as its own config says."""
  for name, key, library in (
    ("scheduler_config.json", "_class_name", "diffusers"),
    ("tokenizer_config.json", "tokenizer_class", "transformers"),
  ):
    if (folder / name).is_file():
      return [library, str(read_json(folder / name).get(key))]
  return None


def _check_pipeline(source: Path) -> None:
  """Refuses what is ours alone."""
  index = source / "model_index.json"
  patch = int(read_json(index).get("patch_size", 1)) if index.is_file() else 1
  if patch != 1:
    raise ValueError(
      f"{source} works on patches of {patch} px (patch_size of its "
      "model_index.json), for which diffusers has no pipeline: convert its "
      "unet/ alone."
    )
  if (source / "apprentice.json").is_file():
    raise ValueError(
      f"{source} is an apprentice: its layers for demonstrations exist nowhere "
      "else. Draw with `suti generate --subject`."
    )
