# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates as `suti.hf.lora` reads them -> files for other tools.

diffusers   one file for `load_lora_weights`, with PEFT's config in its header
peft        a folder for `PeftModel.from_pretrained`
kohya       one file for ComfyUI, A1111 and Forge: lora_unet_LAYER with
            underscores for dots, and a tensor .alpha for each layer
"""

import collections
import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from suti.hf.lora_config import make_config
from suti.io.files import replacing_folder, write_atomic, write_json

LAYOUTS = ("diffusers", "peft", "kohya")
FILE = "pytorch_lora_weights.safetensors"  # diffusers' own, in a folder

_PEFT, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_HEADER = "lora_adapter_metadata"
_A, _B = ".lora_A.weight", ".lora_B.weight"


def save_lora(
  updates: Mapping[str, Mapping[str, jax.Array]],
  path: str | os.PathLike,
  *,
  layout: str = "diffusers",
  about: Mapping[str, str] | None = None,
) -> None:
  """Writes an update of low rank for other tools, whole or not at all.

  Args:
    updates: `{part: {name: array}}` as `load_lora` returns. Alpha is the rank,
      and what is written says so.
    path: a .safetensors file, or a folder for the publisher's own file names;
      "peft" writes a folder, of the update of a U-Net.
    layout: one of `LAYOUTS`.
    about: texts for the header of the file, such as its caption.

  Raises:
    ValueError: the layout is another, or does not hold these parts.
  """
  path = Path(path)
  if layout not in LAYOUTS:
    raise ValueError(
      f"layout={layout!r} of LoRA: use {', '.join(LAYOUTS[:-1])} or "
      f"{LAYOUTS[-1]}."
    )
  about = dict(about or {})
  if layout == "peft":
    _save_peft(updates, path, about)
    return
  file = path if path.suffix == ".safetensors" else path / FILE
  if layout == "kohya":
    tensors, alpha = _kohya(updates)
    _write(file, tensors, _kohyas_header(alpha) | about)
    return
  tensors, config = {}, {}
  for part, update in updates.items():
    tensors |= _published(update, f"{part}.")
    fields = make_config(_ranks(update))
    config |= {f"{part}.{field}": value for field, value in fields.items()}
  _write(file, tensors, about | {_HEADER: json.dumps(config, sort_keys=True)})


def _save_peft(updates, path: Path, about: Mapping[str, str]) -> None:
  # Names inside a text encoder differ between versions of transformers.
  if set(updates) != {"unet"} or path.suffix == ".safetensors":
    raise ValueError(
      f"{path}: PEFT's layout is a folder for a U-Net alone, and this LoRA "
      f"is of {' and '.join(updates)}: use the layout 'diffusers'."
    )
  update = updates["unet"]
  config = {"peft_type": "LORA", "bias": "none"} | make_config(_ranks(update))
  if base := about.get("suti.base"):
    config["base_model_name_or_path"] = base
  with replacing_folder(path) as folder:
    _write(folder / _PEFT, _published(update, "base_model.model."), about)
    write_json(folder / _PEFT_CONFIG, config)


def _kohya(updates) -> tuple[dict[str, np.ndarray], int]:
  """Tensors by kohya's names, and the alpha of all of them.

  It is one for all: diffusers 0.42 forgets the alphas of attention layers that
  differ from most. Where ranks differ, the second factor makes up for it.
  """
  ranks = {part: _ranks(update) for part, update in updates.items()}
  counts = collections.Counter(
    r for each in ranks.values() for r in each.values()
  )
  ((alpha, _),) = counts.most_common(1)
  prefixes = {
    "unet": "lora_unet_",
    "text_encoder": (
      "lora_te1_" if "text_encoder_2" in updates else "lora_te_"
    ),
    "text_encoder_2": "lora_te2_",
  }
  tensors = {}
  for part, update in updates.items():
    factors = _published(update, "")
    for layer, rank in ranks[part].items():
      name = prefixes[part] + layer.replace(".", "_")
      tensors[f"{name}.lora_down.weight"] = factors[layer + _A]
      up = factors[layer + _B]
      if rank != alpha:
        up = (up * np.float32(rank / alpha)).astype(up.dtype)
      tensors[f"{name}.lora_up.weight"] = up
      tensors[f"{name}.alpha"] = np.array(alpha, np.float32)
  return tensors, alpha


def _kohyas_header(alpha: int) -> dict[str, str]:
  """What A1111 shows of a file."""
  return {
    "ss_network_module": "networks.lora",
    "ss_network_dim": str(alpha),
    "ss_network_alpha": str(alpha),
  }


def _write(file, tensors, header) -> None:
  # PyTorch's readers need the format.
  metadata = {"format": "pt"} | header
  write_atomic(file, safetensors.numpy.save(tensors, metadata=metadata))


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
