# SPDX-License-Identifier: Apache-2.0
"""model_index.json: which parts a published text-to-image model has.

  {
    "_class_name": "StableDiffusionXLPipeline",     the pipeline
    "force_zeros_for_empty_prompt": true,           its settings
    "unet": ["diffusers", "UNet2DConditionModel"],  a folder, library and class
    "safety_checker": [null, null]                  a part that it does without
  }

`patch_size` is ours (`suti.pipeline.backbone`). What a part holds is not known
here.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from suti.config.values import check_kinds
from suti.io.files import read_object

FILE = "model_index.json"
# What published pipelines have beside the model: judges and watermarks.
ASIDE = ("feature_extractor", "safety_checker", "watermarker")
_KINDS = {
  "_class_name": "",
  "patch_size": 1,
  "force_zeros_for_empty_prompt": False,
}
# The published pipelines, by their text encoders.
_PIPELINES = {
  ("CLIPTextModel",): "StableDiffusionPipeline",
  ("CLIPTextModel", "CLIPTextModelWithProjection"): "StableDiffusionXLPipeline",
  ("T5EncoderModel",): "IFPipeline",
}
_TOKENIZERS = {
  "CLIPTextModel": "CLIPTokenizer",
  "CLIPTextModelWithProjection": "CLIPTokenizer",
  "T5EncoderModel": "T5Tokenizer",
}
PIPELINES = (*_PIPELINES.values(), "IFSuperResolutionPipeline")
_DIFFUSERS = ("UNet2DConditionModel", "AutoencoderKL")


def read_index(folder: Path) -> dict[str, Any]:
  """What a folder's model_index.json says.

  Returns:
    Its content; empty if it has none.

  Raises:
    ValueError: it is no JSON object, or a key that is read has a value that
      makes no sense.
  """
  path = folder / FILE
  index = read_object(path) if path.is_file() else {}
  check_kinds(index, _KINDS, what=str(path))
  return index


def named_parts(index: Mapping[str, Any]) -> list[str]:
  """The parts that it names, without those that it marks as absent."""
  return [
    name
    for name, value in index.items()
    if isinstance(value, list) and value[:1] not in ([], [None])
  ]


def check_named_parts(
  folder: Path, index: Mapping[str, Any], parts: Collection[str]
) -> None:
  """Sees that a folder has the parts that its index names.

  Args:
    folder: of the model.
    index: its content.
    parts: those that are needed, if they are named.

  Raises:
    ValueError: one is not there.
  """
  # By their names alone: an index may not lead elsewhere.
  there = {path.name for path in folder.iterdir() if path.is_dir()}
  for part in named_parts(index):
    if part in parts and part not in there:
      raise ValueError(
        f"{folder} has no folder '{part}', which its {FILE} names as a part: "
        "fetch the rest of the model."
      )


def without_parts(index: Mapping[str, Any], kept: set[str]) -> dict[str, Any]:
  """Marks all parts as absent but those that are kept."""
  gone = set(named_parts(index)) - kept
  return {n: [None, None] if n in gone else value for n, value in index.items()}


def complete_index(
  folder: Path, index: Mapping[str, Any], kinds: Mapping[str, str]
) -> dict[str, Any]:
  """Names all parts of a folder and the pipeline, so that diffusers opens it.

  Args:
    folder: which has them.
    index: that names no parts.
    kinds: `{part: class}` of its models.

  Returns:
    A new index, whose class is one of the published pipelines where the models
    are of one.
  """
  encoders = [k for n, k in sorted(kinds.items()) if n.startswith("text_enc")]
  pipeline = _PIPELINES.get(tuple(encoders))
  if (pipeline == "IFPipeline") == ("vae" in kinds):
    pipeline = None  # latents where there should be pixels, or the other way
  enlarges = (folder / "image_noising_scheduler").is_dir()
  if enlarges and pipeline:
    pipeline = "IFSuperResolutionPipeline"
  parts: dict[str, Any] = {
    name: ["diffusers" if kind in _DIFFUSERS else "transformers", kind]
    for name, kind in kinds.items()
  }
  for file in folder.glob("*/scheduler_config.json"):
    name = read_object(file).get("_class_name")
    parts[file.parent.name] = ["diffusers", name]
  for tokenizer, encoder in (
    ("tokenizer", "text_encoder"),
    ("tokenizer_2", "text_encoder_2"),
  ):
    if (folder / tokenizer).is_dir() and encoder in kinds:
      name = _tokenizer_class(folder / tokenizer, kinds[encoder])
      parts[tokenizer] = ["transformers", name]
  if pipeline and "XL" not in pipeline:
    parts["requires_safety_checker"] = False
  name = pipeline or index.get("_class_name", "DiffusionPipeline")
  return {**index, "_class_name": name, **dict(sorted(parts.items()))}


def _tokenizer_class(folder: Path, encoder: str) -> str:
  file = folder / "tokenizer_config.json"
  name = read_object(file).get("tokenizer_class") if file.is_file() else None
  if name == "TokenizersBackend":
    return "PreTrainedTokenizerFast"  # its name before, which is still known
  return name or _TOKENIZERS[encoder]
