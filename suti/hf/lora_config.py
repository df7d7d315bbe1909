# SPDX-License-Identifier: Apache-2.0
"""What stands beside the tensors of a LoRA file: PEFT's LoraConfig.

As adapter_config.json or, with a part before each field ("unet.r"), as JSON in
a safetensors header. It gives an update's strength, and whether it is a plain
product of two matrices at all; ranks are read from the tensors.
"""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

from suti.config.values import shorten
from suti.hf.lora_patterns import first_matches

_UNDERSTOOD = {"alpha_pattern", "lora_alpha", "r", "rank_pattern", "use_rslora"}
# They say nothing about what the tensors mean.
_HARMLESS = {
  "auto_mapping",
  "base_model_name_or_path",
  "exclude_modules",
  "inference_mode",
  "layers_pattern",
  "layers_to_transform",
  "lora_dropout",
  "megatron_core",
  "peft_version",
  "qalora_group_size",
  "revision",
  "target_modules",
  "task_type",
}
# Any other start changes the base's weights, which are not in the file.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


# Kinds of those that are read here or would be taken for on; None stands for
# a field that is left open.
_SWITCHES = (
  "fan_in_fan_out",
  "lora_bias",
  "use_dora",
  "use_qalora",
  "use_rslora",
)
_MAX = 3e38  # what factors in float32 can be multiplied by


def check_config(config: Mapping[str, Any], where: Any) -> None:
  """Refuses what is no plain LoRA: all other fields must be off.

  Raises:
    ValueError: names the fields, or the first value that makes no sense;
      `where` is the file.
  """
  again = "correct it, or fetch the file again."
  for field in _SWITCHES:
    if not isinstance(config.get(field), bool | None):
      raise ValueError(
        f"{field}={shorten(config[field])} of {where} must be true or false: "
        f"{again}"
      )
  refused = [
    f"{field}={shorten(value)}"
    for field, value in config.items()
    if not (
      field in _HARMLESS | _UNDERSTOOD
      or value in (None, False, "none", {}, [])
      or (field == "peft_type" and value == "LORA")
      or (field == "init_lora_weights" and value in _STARTS)
    )
  ]
  if refused:
    raise ValueError(
      f"{where} is not a plain LoRA: {', '.join(refused[:5])} is not "
      "supported. Merge it into its base with the tool that made it."
    )
  patterns = config.get("alpha_pattern") or {}
  if not isinstance(patterns, Mapping):
    raise ValueError(
      f"alpha_pattern={shorten(patterns)} of {where} gives no alpha for a "
      f"layer: {again}"
    )
  alphas = {f"alpha_pattern of {shorten(k)}": v for k, v in patterns.items()}
  if (alpha := config.get("lora_alpha")) is not None:
    alphas = {"lora_alpha": alpha, **alphas}
  for name, value in alphas.items():
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value <= _MAX):
      raise ValueError(
        f"{name}={shorten(value)} of {where} must be a number from 0: {again}"
      )


def alphas_of(
  config: Mapping[str, Any], layers: Sequence[str], where: Any
) -> dict[str, float]:
  """What a config says of the alpha of each layer of a model.

  Args:
    config: `check_config` has seen it; {} where there is none.
    layers: attribute paths.
    where: the file.

  Returns:
    {layer: alpha}, without those of which it says nothing.

  Raises:
    ValueError: its patterns are none.
  """
  patterns = config.get("alpha_pattern") or {}
  default = config.get("lora_alpha")
  # Older libraries have one more part before the names of a text encoder.
  names = [(layer, layer.removeprefix("text_model.")) for layer in layers]
  found = {}
  for layer, place in zip(
    layers, first_matches(list(patterns), names, where=where), strict=True
  ):
    alpha = default if place is None else list(patterns.values())[place]
    if alpha is not None:
      found[layer] = float(alpha)
  return found


def strength(
  config: Mapping[str, Any], *, rank: int, alpha: float | None
) -> float:
  """What the product of a layer's factors is multiplied by.

  Args:
    config: of the layer's model; {} where there is none.
    rank: of the layer.
    alpha: the layer's own, of a tensor or of `alphas_of`.

  Returns:
    alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023). Where
    nothing says alpha, it is the rank.
  """
  alpha = rank if alpha is None else alpha
  return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def make_config(ranks: Mapping[str, int]) -> dict[str, Any]:
  """The fields for `{layer: rank}`, where alpha is the rank of each layer."""
  # Newer libraries have lost the first part of a text encoder's names, and the
  # end of a name is enough.
  ranks = {k.removeprefix("text_model."): v for k, v in ranks.items()}
  ((rank, _),) = collections.Counter(ranks.values()).most_common(1)
  others = {layer: r for layer, r in ranks.items() if r != rank}
  return {
    "r": rank,
    "lora_alpha": rank,
    "rank_pattern": others,
    "alpha_pattern": others,
    "target_modules": sorted(ranks),
  }
