# SPDX-License-Identifier: Apache-2.0
"""Which layer of a model a tensor of a LoRA file is for.

Files name layers with dots or, as kohya's do, with underscores, by the names of
diffusers or of Stability AI's own code; before them stands what the tool that
saved them had around its model. They are looked up among the layers of declared
models, underscores for dots, so that no table of names is kept. What the
tensors mean is `suti.hf.lora`'s business.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_TENSOR = re.compile(
  r"(?P<layer>.+?)[._](lora[._](?P<half>A|B|down|up)"
  r"|lora_linear_layer\.(?P<older>down|up))((\.(?P<adapter>[^.]+))?\.weight)?"
)
_HALVES = {"down": "A", "up": "B"}
# What stands before a layer's name, of whichever tool: the part, or None where
# a name says none. Tools put one before the other, so all of them are removed.
_STARTS = {
  "unet.": "unet",
  "diffusion_model.": "unet",
  "text_encoder.": "text_encoder",
  "text_encoder_2.": "text_encoder_2",
  "text_encoders.clip_l.transformer.": "text_encoder",
  "text_encoders.clip_h.transformer.": "text_encoder",
  "text_encoders.clip_g.transformer.": "text_encoder_2",
  "base_model.": None,
  "model.": None,
  "module.": None,
}
# Of kohya's names, which have underscores for dots.
_KOHYA = {
  "lora_unet_": "unet",
  "lora_te_": "text_encoder",
  "lora_te1_": "text_encoder",
  "lora_te2_": "text_encoder_2",
  "lycoris_": None,
}
# Modules that compilers and sharding put around others, at any depth.
_WRAPPERS = re.compile(
  r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
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


class Half(NamedTuple):
  """What a tensor's name says.

  Attributes:
    layer: the file's name for the layer.
    half: "A", "B" or "alpha".
    adapter: which of the adapters of a model it is of, as PEFT names them in
      memory; "" where nothing says so, as in most files.
  """

  layer: str
  half: str
  adapter: str = ""


def split_name(name: str) -> Half | None:
  """Parts a tensor's name: `"x.lora_down.weight"` is `("x", "A", "")`.

  Returns:
    Its parts; None for a tensor that no plain LoRA has.
  """
  if name.endswith(".alpha"):
    return Half(
      name.removesuffix(".alpha").replace(".processor.", "."), "alpha"
    )
  if (match := _TENSOR.fullmatch(name)) is None:
    return None
  half = match["half"] or match["older"]
  return Half(
    match["layer"].replace(".processor.", "."),
    _HALVES.get(half, half),
    match["adapter"] or "",
  )


def find_layers(name: str, places: Places) -> list[tuple[str, str]]:
  """Finds the layers that a file's name can stand for.

  Args:
    name: as `split_name` returns it.
    places: `{part: layer_names(spec)}`.

  Returns:
    (part, attribute path), at most one of each part. A name without a part is
    looked up in all of them: SDXL's two text encoders have layers of one name.
  """
  part, name = _split_part(name)
  name = name.replace(".", "_")
  return [
    (each, layers[name])
    for each, layers in places.items()
    if part in (None, each) and name in layers
  ]


def _split_part(name: str) -> tuple[str | None, str]:
  """("unet", the rest of the name), or None where it says no part."""
  for start, part in _KOHYA.items():
    if name.startswith(start):
      return part, name.removeprefix(start)
  found = None
  name = _WRAPPERS.sub("", name)
  while start := next(filter(name.startswith, _STARTS), None):
    part, name = _STARTS[start], name.removeprefix(start)
    if part and found and part != found:
      return found, start + name  # is of no layer
    found = part or found
  return found, name


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
