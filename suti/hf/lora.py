# SPDX-License-Identifier: Apache-2.0
"""Files of low-rank updates (LoRA) -> flat `{name: array}`.

Read are the layouts that people have, tensor by tensor, as files mix them:

  PEFT        base_model.model.LAYER.lora_A.weight, and adapter_config.json
  diffusers   unet.LAYER.lora_A.weight, and a config in the file's header;
              before: unet.LAYER.lora.down.weight,
              unet.ATTENTION.processor.to_q_lora.down.weight,
              text_encoder.LAYER.lora_linear_layer.down.weight
  kohya       lora_unet_LAYER.lora_down.weight and .alpha, where LAYER has
              underscores for dots and, for SDXL, Stability AI's own numbers
  ComfyUI     diffusion_model.LAYER.lora_A.weight

with an adapter's name before .weight, and what compilers and wrappers put
before LAYER. In memory an update is `LAYER.lora_A.weight` and
`LAYER.lora_B.weight` in our layout, with alpha / rank multiplied into the
second: alpha is the rank. How an update is applied is `suti.nn.surgery`'s
business, how it is written `suti.hf.lora_export`'s. Updates that are no plain
product of two matrices (DoRA, LoHa, LoKr) are refused by name.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from suti.hf.families import recognise
from suti.hf.lora_config import alphas_of, check_config, strength
from suti.hf.lora_names import Half, find_layers, layer_names, split_name
from suti.hf.weight_files import FLOATS, WHY_NOT_PICKLES, opened
from suti.io.files import read_object

Update = dict[str, jax.Array]


class _Factors(NamedTuple):
  """Of one layer, in our layout: (I, R) and (R, O), or (H, W, ...)."""

  down_IR: np.ndarray
  up_RO: np.ndarray
  alpha: float | None


_DIFFUSERS = "pytorch_lora_weights.safetensors"
_PEFT, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_HEADER = "lora_adapter_metadata"
_A, _B = ".lora_A.weight", ".lora_B.weight"
# A part of a tensor's name -> what its file is.
_OTHER_KINDS = {
  "lora_magnitude_vector": "DoRA",
  "dora_scale": "DoRA",
  "hada_": "LoHa",
  "lokr_": "LoKr",
  "lora_mid": "a Tucker decomposition",
  "lora_embedding": "LoRA of an embedding",
  "lora_controlnet": "a Control-LoRA",
  "bundle_emb": "embeddings of new words",
  "oft_": "OFT",
  "ia3_": "IA3",
  "vera_": "VeRA",
  "_norm": "changes of norms",
  ".diff": "differences of full rank",
  ".bias": "LoRA with biases",
}
# Names of other models that LoRAs are published for.
_NO_UNETS = {
  r"^(base_model\.model\.)?(transformer|diffusion_model|lora_unet|"
  r"lora_transformer)[._](single_)?(transformer_blocks|double_blocks|"
  r"single_blocks|joint_blocks|blocks|layers)[._]": (
    "a diffusion transformer (Flux, Stable Diffusion 3 and others), which is "
    "no U-Net"
  ),
  r"(^|\.)model\.layers\.\d+\.(self_attn|mlp)\.": "a language model",
}
_TEXT_WIDTHS = {768: "SD 1", 1024: "SD 2", 2048: "SDXL"}


def load_lora(
  path: str | os.PathLike, specs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Update]:
  """Reads an update of low rank, in whichever layout.

  Args:
    path: a .safetensors file, or a folder as PEFT and diffusers write it.
    specs: `{part: {name: Param}}` of the models that it may be for; parts are
      "unet", "text_encoder" and "text_encoder_2".

  Returns:
    `{part: {name: float32 array}}`, of the parts that it changes.

  Raises:
    ValueError: the file cannot be read, is no plain LoRA, or is one of another
      model.
  """
  file = _find(path)
  tensors, header = _read(file)
  configs = _read_configs(file, header)
  places = {part: layer_names(spec) for part, spec in specs.items()}
  groups, misfits = _group(file, tensors, places)
  total = len(groups) + len(misfits)
  found: dict[str, dict[str, _Factors]] = {}
  for candidates, names in groups.items():
    halves = {half: tensors[name] for half, name in names.items()}
    _check_halves(file, ".".join(candidates[0]), halves)
    fits = [
      (part, layer, factors)
      for part, layer in candidates
      if (factors := _ours(halves, specs[part][f"{layer}.weight"].shape))
    ]
    if not fits:
      part, layer = candidates[0]
      shape = specs[part][f"{layer}.weight"].shape
      misfits[f"{part}.{layer}"] = (
        f"is {halves['A'].shape[1]} to {len(halves['B'])} wide, and the "
        f"model's is {shape[-2]} to {shape[-1]}"
      )
    elif len(fits) > 1:
      parts = " and ".join(part for part, *_ in fits)
      raise ValueError(
        f"{file} does not say which model it changes: {names['A']!r} fits "
        f"{parts} alike. Put '{fits[0][0]}.' before its names, with the tool "
        "that made it."
      )
    else:
      part, layer, factors = fits[0]
      found.setdefault(part, {})[layer] = factors
  if misfits:
    (name, reason), *_ = misfits.items()
    raise ValueError(
      f"{file} is a LoRA of another model: {len(misfits)} of its {total} "
      f"layers do not fit, e.g. {name!r} {reason}. {_guess(tensors, specs)}"
      "Give it the base that it was trained on."
    )
  return {
    part: _scaled(file, layers, configs.get(part, configs.get("", {})))
    for part, layers in found.items()
  }


# --- Files -------------------------------------------------------------------


def _find(path) -> Path:
  path = Path(path)
  if path.is_dir():
    named = [path / _DIFFUSERS, path / _PEFT]
    files = (
      [f for f in named if f.is_file()]
      or [*path.glob("*.safetensors")]
      # PEFT saves adapters that have names to folders of these names.
      or [*path.glob(f"*/{_PEFT}")]
    )
    if len(files) != 1:
      names = sorted(str(f.relative_to(path)) for f in files)
      listed = ", ".join(names[:5]) + (" and more" if names[5:] else "")
      raise ValueError(
        f"{path} has {len(files)} .safetensors files"
        + (f" ({listed})" if names else "")
        + ": give the LoRA's own."
      )
    return files[0]
  if not path.is_file():
    raise ValueError(f"There is no LoRA at {path}: give a .safetensors file.")
  if path.suffix != ".safetensors":
    raise ValueError(f"{path} is not a .safetensors file. {WHY_NOT_PICKLES}")
  return path


def _read(file) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  tensors = {}
  with opened(file) as stored:
    for name in stored.keys():  # noqa: SIM118 (not a dict)
      dtype = stored.get_slice(name).get_dtype()
      if dtype not in (*FLOATS, "I32", "I64"):  # alphas may be whole numbers
        raise ValueError(
          f"{file} has tensors of {dtype}, e.g. {name!r}: floats of 16 bits or "
          "more are read; fetch or make it in one of those."
        )
      tensors[name] = stored.get_tensor(name).astype(np.float32)
    return tensors, stored.metadata() or {}


def _read_configs(file, header) -> dict[str, dict[str, Any]]:
  """`{part: fields of PEFT's LoraConfig}`; the part "" stands for all."""
  found: dict[str, dict[str, Any]] = {}
  if file.name == _PEFT:
    if not (config := file.parent / _PEFT_CONFIG).is_file():
      raise ValueError(
        f"{file.parent} has no {_PEFT_CONFIG}, which says how strong the LoRA "
        "is: put it beside the weights."
      )
    found[""] = read_object(config)
  elif _HEADER in header:
    try:
      fields = json.loads(header[_HEADER])
    except (ValueError, RecursionError) as error:
      raise ValueError(
        f"The header of {file} is not JSON ({error}): fetch or make it again."
      ) from error
    if not isinstance(fields, dict):
      raise ValueError(
        f"The header of {file} holds no fields of a LoRA: fetch or make it "
        "again."
      )
    for name, value in fields.items():
      part, _, field = name.rpartition(".")
      found.setdefault(part, {})[field] = value
  for config in found.values():
    check_config(config, file)
  return found


# --- Names -------------------------------------------------------------------


def _group(
  file, tensors, places
) -> tuple[dict[tuple[tuple[str, str], ...], dict[str, str]], dict[str, str]]:
  """Which tensors belong together.

  Returns:
    `{layers that they can be for: {half: tensor}}`, and why others are for
    none, by the file's names of their layers.

  Raises:
    ValueError: some tensors are of no plain LoRA, or of more than one.
  """
  names = _split_names(file, tensors)
  adapters = sorted({half.adapter for half in names.values()} - {""})
  if len(adapters) > 1:
    raise ValueError(
      f"{file} holds {len(adapters)} LoRAs, the adapters "
      f"{', '.join(map(repr, adapters[:5]))}: save each to a file of its own."
    )
  groups: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
  misfits: dict[str, str] = {}
  for name, (layer, half, _) in names.items():
    if not (found := tuple(find_layers(layer, places))):
      misfits[layer] = "is not one of its layers"
      continue
    group = groups.setdefault(found, {})
    if half in group:
      raise ValueError(
        f"{file} holds two LoRAs of {'.'.join(found[0])}: {group[half]!r} and "
        f"{name!r}. Save each to a file of its own."
      )
    group[half] = name
  for found, group in groups.items():
    if absent := {"A", "B"} - group.keys():
      raise ValueError(
        f"{file} has half of a pair: there is no lora_{min(absent)} of "
        f"{'.'.join(found[0])}. Fetch or make it again."
      )
  return groups, misfits


def _split_names(file, tensors) -> dict[str, Half]:
  """`{tensor: what its name says}`.

  Raises:
    ValueError: some tensors are of no plain LoRA.
  """
  if not tensors:
    raise ValueError(f"{file} has no tensors: fetch or make it again.")
  split = {name: found for name in tensors if (found := split_name(name))}
  if strange := [name for name in tensors if name not in split]:
    kinds = [
      (name, kind)
      for name in strange
      for mark, kind in _OTHER_KINDS.items()
      if mark in name
    ]
    name, kind = kinds[0] if kinds else (strange[0], "")
    example = repr(name) + (f" ({kind})" if kind else "")
    family = recognise({n: x.shape for n, x in tensors.items()})
    family = None if family == "a LoRA" else family  # whose names are unknown
    if not split and (family or not kinds):
      what = f"but {family}" if family else f"its names are like {example}"
      raise ValueError(
        f"{file} holds no LoRA, {what}: the layouts of PEFT, diffusers and "
        "kohya are read."
      )
    raise ValueError(
      f"{file} is not a plain LoRA: {len(strange)} of its {len(tensors)} "
      f"tensors are something else, e.g. {example}. Merge it into its base "
      "with the tool that made it."
    )
  return split


def _check_halves(file, layer, halves) -> None:
  """Sees that the tensors of a layer can be what their names say.

  Raises:
    ValueError: one of them cannot.
  """
  for half, x in halves.items():
    usual = x.size == 1 if half == "alpha" else x.ndim in (2, 4) and x.size
    if not (usual and np.isfinite(x).all()):
      what = "has NaN or infinite values" if usual else f"is {x.shape}"
      raise ValueError(
        f"{file} is damaged: {layer}, {half}, {what}. Fetch or make it again."
      )


def _guess(tensors, specs) -> str:
  """Says which base it looks like, by names and widths; "" if unknown."""
  for pattern, what in _NO_UNETS.items():
    if any(map(re.compile(pattern).search, tensors)):
      return f"Its names are those of {what}. "
  layer = r"attn2[._](processor\.)?to_[kv]"
  theirs = {
    x.shape[1]
    for name, x in tensors.items()
    if x.ndim > 1 and re.search(rf"{layer}[._]lora([._]down|_A)\.", name)
  }
  ours = {
    p.shape[0]
    for name, p in specs.get("unet", {}).items()
    if re.search(rf"{layer}\.weight$", name)
  }
  if len(theirs) != 1 or len(ours) != 1 or theirs == ours:
    return ""
  looks = [
    f"{width} wide ({_TEXT_WIDTHS.get(width, 'none that is known')})"
    for width in (*theirs, *ours)
  ]
  return f"Its text is {looks[0]}, the model's {looks[1]}. "


# --- Layouts -----------------------------------------------------------------


def _scaled(file, layers: Mapping[str, _Factors], config) -> Update:
  """The update of one part, with its strength multiplied in.

  Raises:
    ValueError: its values are then too large for float32.
  """
  alphas = alphas_of(config, list(layers), file)
  update: Update = {}
  for layer, factors in layers.items():
    alpha = alphas.get(layer) if factors.alpha is None else factors.alpha
    rank = factors.down_IR.shape[-1]
    scale = strength(config, rank=rank, alpha=alpha)
    with np.errstate(over="ignore"):
      up_RO = factors.up_RO * np.float32(scale)
    if not np.isfinite(up_RO).all():
      raise ValueError(
        f"{file} is damaged: {layer} is multiplied by {scale:g} (alpha "
        f"{alpha:g}, rank {rank}), which makes infinite values. Fetch or make "
        "it again."
      )
    update[layer + _A] = jnp.asarray(factors.down_IR)
    update[layer + _B] = jnp.asarray(up_RO)
  return update


def _ours(halves: Mapping[str, np.ndarray], shape) -> _Factors | None:
  """Published factors -> ours, or None where they do not fit.

  Args:
    halves: "A" (R, I) and "B" (O, R), or kernels (R, I, H, W) and (O, R, 1, 1),
      and "alpha" where there is one. A plain product may be written as a 1x1
      convolution, and the other way.
    shape: of the layer's kernel, ours: (I, O) or (H, W, I, O).
  """
  down, up = halves["A"], halves["B"]
  *window, d_in, d_out = shape
  ones = [1] * len(window)
  try:
    down = down.reshape(len(down), d_in, *window)
    up = up.reshape(d_out, len(down), *ones)
  except ValueError:
    return None
  order = (*range(2, down.ndim), 1, 0)
  alpha = halves["alpha"].item() if "alpha" in halves else None
  return _Factors(down.transpose(order), up.transpose(order), alpha)
