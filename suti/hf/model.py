# SPDX-License-Identifier: Apache-2.0
"""A published model's folder -> its declaration and its arrays.

  config.json                        says which family it is, and of what size
  *.safetensors [*.index.json]       the weights

One model; a folder of several, such as a backbone's, is
`suti.pipeline.backbone`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from suti.config.values import check_kinds
from suti.hf.find import explain_without_config
from suti.hf.weights import load
from suti.io.files import read_object
from suti.models import (
  clip,
  dino,
  dinov2,
  heads,
  patch_dictionary,
  segmenter,
  t5,
  unet,
  vae,
)
from suti.nn.param import Module, Param, functional


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """How one family of models is read.

  Attributes:
    declare: published config -> module without arrays.
    renames: of tensors, see `suti.hf.weights.load`.
    stem: of the weights' file, as its publisher's library calls it.
  """

  declare: Callable[[Mapping[str, Any]], Module]
  renames: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  stem: str = "model"


# (name of the part, its arrays) -> other arrays of the same names.
Change = Callable[[str, dict[str, jax.Array]], dict[str, jax.Array]]

_DIFFUSERS = "diffusion_pytorch_model"

# By the class that a config names: `_class_name` or `architectures`.
FAMILIES: Mapping[str, Family] = {
  "UNet2DConditionModel": Family(declare=unet.declare_unet, stem=_DIFFUSERS),
  "AutoencoderKL": Family(
    declare=vae.declare_autoencoder, renames=vae.RENAMES, stem=_DIFFUSERS
  ),
  "CLIPModel": Family(declare=clip.declare_clip, renames=clip.RENAMES),
  "CLIPTextModel": Family(
    declare=clip.declare_clip_text, renames=clip.TEXT_RENAMES
  ),
  "CLIPTextModelWithProjection": Family(
    declare=clip.declare_clip_text, renames=clip.TEXT_RENAMES
  ),
  "CLIPVisionModel": Family(
    declare=clip.declare_clip_vision, renames=clip.VISION_RENAMES
  ),
  "CLIPVisionModelWithProjection": Family(
    declare=clip.declare_clip_vision, renames=clip.VISION_RENAMES
  ),
  "T5EncoderModel": Family(declare=t5.declare_t5, renames=t5.RENAMES),
  "ViTModel": Family(declare=dino.declare_dino, renames=dino.RENAMES),
  "Dinov2Model": Family(declare=dinov2.declare_dinov2, renames=dinov2.RENAMES),
  "Dinov2WithRegistersModel": Family(
    declare=dinov2.declare_dinov2, renames=dinov2.RENAMES
  ),
  # Not published: a judge's encoder, and what stands beside it.
  "PatchDictionary": Family(declare=patch_dictionary.declare_patch_dictionary),
  "Heads": Family(declare=heads.declare_heads),
  "Segmenter": Family(declare=segmenter.declare_segmenter),
}
# Configs that name no class say what they are.
_BY_TYPE = {
  "clip": "CLIPModel",
  "clip_text_model": "CLIPTextModel",
  "clip_vision_model": "CLIPVisionModel",
  "t5": "T5EncoderModel",
  "vit": "ViTModel",
  "dinov2": "Dinov2Model",
  "dinov2_with_registers": "Dinov2WithRegistersModel",
  "patch_dictionary": "PatchDictionary",
  "heads": "Heads",
  "segmenter": "Segmenter",
}
# What tells the class, and its kind.
_NAMES = {"_class_name": "", "architectures": ("",), "model_type": ""}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """A model that was opened.

  Attributes:
    kind: its class, a key of `FAMILIES`.
    config: as published.
    module: the declaration, open to surgery.
    spec, apply: of the module, see `suti.nn.param.functional`.
    params: its arrays by published name.
  """

  kind: str
  config: Mapping[str, Any]
  module: Module
  spec: Mapping[str, Param]
  apply: Callable[..., Any]
  params: dict[str, jax.Array]


def open_model(
  folder: Path,
  *,
  expected: Sequence[str] = (),
  dtype: Any = jnp.float32,
  weights: bool = True,
  change: Change | None = None,
) -> Model:
  """Opens one published model.

  Args:
    folder: holds config.json and the weights.
    expected: classes that will do; any of `FAMILIES` if empty.
    dtype: of the arrays; None keeps the file's own.
    weights: whether to read them; `params` is empty else.
    change: what becomes of the arrays, given the folder's name and them.

  Raises:
    ValueError: no config, another class than expected, or weights that do not
      fit it.
  """
  folder = Path(folder)
  config = read_config(folder)
  kind = kind_of(config)
  known = tuple(expected) or tuple(FAMILIES)
  if kind not in known:
    raise ValueError(
      f"{folder} is {_article(kind)}: expected {' or '.join(known)}."
    )
  family = FAMILIES[kind]
  try:
    module = family.declare(config)
  except ValueError as error:
    raise ValueError(f"{folder / 'config.json'}: {error}") from error
  spec, apply = functional(module)
  params = {}
  if weights:
    params = load(spec, folder, dtype=dtype, renames=family.renames)
    params = change(folder.name, params) if change else params
  return Model(
    kind=kind,
    config=config,
    module=module,
    spec=spec,
    apply=apply,
    params=params,
  )


def read_config(folder: Path) -> dict[str, Any]:
  """The config.json of a model's folder.

  Raises:
    ValueError: there is none, or it is none of a model.
  """
  path = Path(folder) / "config.json"
  if not path.is_file():
    raise ValueError(explain_without_config(Path(folder)))
  config = read_object(path)
  check_kinds(
    {key: value for key, value in config.items() if value is not None},
    _NAMES,
    what=str(path),
  )
  return config


def kind_of(config: Mapping[str, Any]) -> str:
  """The class that a config names, or its model type; "" if it names none."""
  names = [config.get("_class_name"), *(config.get("architectures") or ())]
  for name in names:
    if name in FAMILIES:
      return name
  model_type = config.get("model_type") or ""
  if model_type in _BY_TYPE:
    return _BY_TYPE[model_type]
  return next(filter(None, names), model_type)


def _article(kind: str) -> str:
  return f"a {kind}" if kind else "of no kind that its config names"
