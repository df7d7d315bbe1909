# SPDX-License-Identifier: Apache-2.0
"""Files of low-rank updates (LoRA) <-> flat `{name: array}`.

Read are the layouts that people have, tensor by tensor, as files mix them:

  PEFT        base_model.model.LAYER.lora_A.weight, and adapter_config.json
  diffusers   unet.LAYER.lora_A.weight, and a config in the file's header;
              before: unet.LAYER.lora.down.weight,
              unet.ATTENTION.processor.to_q_lora.down.weight,
              text_encoder.LAYER.lora_linear_layer.down.weight
  kohya       lora_unet_LAYER.lora_down.weight and .alpha, where LAYER has
              underscores for dots and, for SDXL, Stability AI's own numbers

Written are the first two. In memory an update is `LAYER.lora_A.weight` and
`LAYER.lora_B.weight` in our layout, with alpha / rank multiplied into the
second: alpha is the rank. How an update is applied is `suti.nn.surgery`'s
business. Updates that are no plain product of two matrices (DoRA, LoHa, LoKr)
are refused by name.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from suti.hf.families import recognise
from suti.hf.lora_config import check_config, make_config, strength
from suti.hf.lora_names import find_layer, layer_names, split_name
from suti.hf.weight_files import FLOATS, WHY_NOT_PICKLES, opened
from suti.io.files import (
  read_object,
  replacing_folder,
  write_atomic,
  write_json,
)

Update = dict[str, jax.Array]

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
  ".diff": "differences of full rank",
  ".bias": "LoRA with biases",
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
  names = _split_names(file, tensors)
  places = {part: layer_names(spec) for part, spec in specs.items()}
  found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
  misfits: dict[str, str] = {}
  for name, (layer, half) in names.items():
    if place := find_layer(layer, places):
      found.setdefault(place, {})[half] = tensors[name]
    else:
      misfits[layer] = "is not one of its layers"
  updates: dict[str, Update] = {}
  for (part, layer), halves in found.items():
    _check_halves(file, f"{part}.{layer}", halves)
    if absent := {"A", "B"} - halves.keys():
      raise ValueError(
        f"{file} has half of a pair: there is no lora_{min(absent)} of "
        f"{part}.{layer}. Fetch or make it again."
      )
    shape = specs[part][f"{layer}.weight"].shape
    if (factors := _ours(halves["A"], halves["B"], shape)) is None:
      widths = halves["A"].shape[1], len(halves["B"])
      misfits[f"{part}.{layer}"] = (
        f"is {widths[0]} to {widths[1]} wide, and the model's is {shape[-2]} "
        f"to {shape[-1]}"
      )
      continue
    down_IR, up_RO = factors
    scale = strength(
      configs.get(part, configs.get("", {})),
      layer,
      rank=down_IR.shape[-1],
      alpha=halves["alpha"].item() if "alpha" in halves else None,
    )
    updates.setdefault(part, {})
    updates[part][layer + _A] = jnp.asarray(down_IR)
    updates[part][layer + _B] = jnp.asarray(up_RO * np.float32(scale))
  if misfits:
    (name, reason), *_ = misfits.items()
    total = len({layer for layer, _ in names.values()})
    raise ValueError(
      f"{file} is a LoRA of another model: {len(misfits)} of its {total} "
      f"layers do not fit, e.g. {name!r} {reason}. {_guess(tensors, specs)}"
      "Give it the base that it was trained on."
    )
  return updates


def save_lora(
  updates: Mapping[str, Mapping[str, jax.Array]],
  path: str | os.PathLike,
  *,
  layout: str = "diffusers",
) -> None:
  """Writes an update of low rank for other tools, whole or not at all.

  Args:
    updates: `{part: {name: array}}` as `load_lora` returns. Alpha is the rank,
      and what is written says so.
    path: a .safetensors file, or a folder for the publisher's own file names.
    layout: "diffusers", for `load_lora_weights`; "peft", for
      `PeftModel.from_pretrained`: a folder with the update of a U-Net.
  """
  path = Path(path)
  if layout not in ("diffusers", "peft"):
    raise ValueError(f"layout={layout!r} of LoRA: use 'diffusers' or 'peft'.")
  if layout == "peft":
    # Names inside a text encoder differ between versions of transformers.
    if set(updates) != {"unet"} or path.suffix == ".safetensors":
      raise ValueError(
        f"{path}: PEFT's layout is a folder for a U-Net alone, and this LoRA "
        f"is of {' and '.join(updates)}: use the layout 'diffusers'."
      )
    update = updates["unet"]
    config = {"peft_type": "LORA", "bias": "none"} | make_config(_ranks(update))
    with replacing_folder(path) as folder:
      _write(folder / _PEFT, _published(update, "base_model.model."), {})
      write_json(folder / _PEFT_CONFIG, config)
    return
  tensors, config = {}, {}
  for part, update in updates.items():
    tensors |= _published(update, f"{part}.")
    fields = make_config(_ranks(update))
    config |= {f"{part}.{field}": value for field, value in fields.items()}
  file = path if path.suffix == ".safetensors" else path / _DIFFUSERS
  _write(file, tensors, {_HEADER: json.dumps(config, sort_keys=True)})


# --- Files -------------------------------------------------------------------


def _find(path) -> Path:
  path = Path(path)
  if path.is_dir():
    named = [path / _DIFFUSERS, path / _PEFT]
    files = [f for f in named if f.is_file()] or [*path.glob("*.safetensors")]
    if len(files) != 1:
      raise ValueError(
        f"{path} has {len(files)} .safetensors files: give the LoRA's own."
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
    except json.JSONDecodeError as error:
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


def _write(file, tensors, header) -> None:
  # PyTorch's readers need the format.
  metadata = {"format": "pt"} | header
  write_atomic(file, safetensors.numpy.save(tensors, metadata=metadata))


# --- Names -------------------------------------------------------------------


def _split_names(file, tensors) -> dict[str, tuple[str, str]]:
  """`{tensor: (layer, half)}`.

  Raises:
    ValueError: some tensors are of no plain LoRA.
  """
  if not tensors:
    raise ValueError(f"{file} has no tensors: fetch or make it again.")
  split = {name: found for name in tensors if (found := split_name(name))}
  if strange := [name for name in tensors if name not in split]:
    kinds = [k for mark, k in _OTHER_KINDS.items() if mark in strange[0]]
    example = repr(strange[0]) + (f" ({kinds[0]})" if kinds else "")
    family = recognise({n: x.shape for n, x in tensors.items()})
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
  """Says which base it looks like, by the width of its text; "" if unknown."""
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


def _ours(down, up, shape) -> tuple[np.ndarray, np.ndarray] | None:
  """Published factors -> ours, or None where they do not fit.

  Args:
    down, up: (R, I) and (O, R), or kernels (R, I, H, W) and (O, R, 1, 1). A
      plain product may be written as a 1x1 convolution, and the other way.
    shape: of the layer's kernel, ours: (I, O) or (H, W, I, O).
  """
  *window, d_in, d_out = shape
  ones = [1] * len(window)
  try:
    down = down.reshape(len(down), d_in, *window)
    up = up.reshape(d_out, len(down), *ones)
  except ValueError:
    return None
  order = (*range(2, down.ndim), 1, 0)
  return down.transpose(order), up.transpose(order)


def _published(update, prefix) -> dict[str, np.ndarray]:
  """Our factors -> published ones, with a prefix before their names."""
  tensors = {}
  for name, value in update.items():
    x = np.asarray(value)
    x = x.transpose(x.ndim - 1, x.ndim - 2, *range(x.ndim - 2))
    tensors[prefix + name] = np.ascontiguousarray(x)
  return tensors


def _ranks(update) -> dict[str, int]:
  return {
    name.removesuffix(_A): int(x.shape[-1])
    for name, x in update.items()
    if name.endswith(_A)
  }
