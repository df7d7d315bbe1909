# SPDX-License-Identifier: Apache-2.0
"""Which layer of a model a tensor of a LoRA file is for.

Files name layers with dots or, as kohya's do, with underscores, by the names of
diffusers or of Stability AI's own code. They are looked up among the layers of
declared models, underscores for dots, so that no table of names is kept. What
the tensors mean is `suti.hf.lora`'s business.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_TENSOR = re.compile(
  r"(?P<layer>.+?)[._](lora[._](?P<half>A|B|down|up)"
  r"|lora_linear_layer\.(?P<older>down|up))(\.default)?\.weight"
)
_HALVES = {"down": "A", "up": "B"}
_PARTS = {
  "unet.": "unet",
  "lora_unet_": "unet",
  "text_encoder.": "text_encoder",
  "lora_te_": "text_encoder",
  "lora_te1_": "text_encoder",
  "text_encoder_2.": "text_encoder_2",
  "lora_te2_": "text_encoder_2",
}
# Names of diffusers and of Stability AI's code: around the blocks, in a ResNet.
_OUTSIDE = {
  "conv_in": "input_blocks.0.0",
  "conv_out": "out.2",
  "time_embedding.linear_1": "time_embed.0",
  "time_embedding.linear_2": "time_embed.2",
  "add_embedding.linear_1": "label_emb.0.0",
  "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
  "conv1": "in_layers.2",
  "conv2": "out_layers.3",
  "time_emb_proj": "emb_layers.1",
  "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(
  r"(down|mid|up)_block(?:s\.(\d+))?\."
  r"(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)

Places = Mapping[str, Mapping[str, str]]


def split_name(name: str) -> tuple[str, str] | None:
  """Parts a tensor's name: `"x.lora_down.weight"` is `("x", "A")`.

  Returns:
    The file's name for the layer, and "A", "B" or "alpha"; None for a tensor
    that no plain LoRA has.
  """
  if name.endswith(".alpha"):
    layer, half = name.removesuffix(".alpha"), "alpha"
  elif match := _TENSOR.fullmatch(name):
    half = match["half"] or match["older"]
    layer, half = match["layer"], _HALVES.get(half, half)
  else:
    return None
  layer = layer.removeprefix("base_model.model.")
  return layer.replace(".processor.", "."), half


def find_layer(name: str, places: Places) -> tuple[str, str] | None:
  """Finds the layer that a file's name stands for.

  Args:
    name: as `split_name` returns it.
    places: `{part: layer_names(spec)}`.

  Returns:
    (part, attribute path), or None. A name without a part is looked up in all.
  """
  parts: Iterable[str] = places
  for prefix, part in _PARTS.items():
    if name.startswith(prefix):
      name, parts = name.removeprefix(prefix), [part]
      break
  name = name.replace(".", "_")
  for part in parts:
    if name in places.get(part, {}):
      return part, places[part][name]
  return None


def layer_names(spec: Mapping[str, Any]) -> dict[str, str]:
  """Lists every name that files have for the layers of a model.

  Args:
    spec: `{name: Param}` of the model.

  Returns:
    `{name with underscores for dots: attribute path}`; a name that could be
    two layers' is left out, which no published model has.
  """
  layers = [
    name.removesuffix(".weight")
    for name, p in spec.items()
    # Tables and norms have the published layout and cannot have an update.
    if name.endswith(".weight") and p.torch is not None
  ]
  first = re.compile(r"down_blocks\.0\.resnets\.\d+\.conv1")
  depth = sum(first.fullmatch(layer) is not None for layer in layers)
  found: dict[str, set[str]] = {}
  for layer in layers:
    for name in (
      layer,
      layer.removeprefix("text_model."),
      layer.removesuffix(".0"),  # to_out.0, whose update was called to_out_lora
      re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", layer),
      _stability_name(layer, depth),
    ):
      found.setdefault(name.replace(".", "_"), set()).add(layer)
  return {name: min(to) for name, to in found.items() if len(to) == 1}


def _stability_name(layer: str, depth: int) -> str:
  """The name that Stability AI's own code has for a layer of the U-Net.

  SDXL's LoRAs are trained there. It counts all blocks of a side in one row: for
  each of ours `depth` layers (one more on the way up) and a change of size.
  """
  match = _BLOCK.fullmatch(layer)
  if not match:
    return _OUTSIDE.get(layer, layer)
  side, block, kind, i, rest = match.groups()
  place = int(kind == "attentions")
  if kind == "resnets":
    rest = _RESNET.get(rest, rest)
  if side == "mid":
    return f"middle_block.{place or 2 * int(i)}.{rest}"
  row = int(block) * (depth + 1)
  if kind == "downsamplers":
    return f"input_blocks.{1 + row + depth}.0.op"
  if kind == "upsamplers":
    # Behind an attention, which every such block of SDXL has.
    return f"output_blocks.{row + depth}.2.{rest}"
  if side == "down":
    return f"input_blocks.{1 + row + int(i)}.{place}.{rest}"
  return f"output_blocks.{row + int(i)}.{place}.{rest}"
