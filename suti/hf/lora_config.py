# SPDX-License-Identifier: Apache-2.0
"""What stands beside the tensors of a LoRA file: PEFT's LoraConfig.

As adapter_config.json or, with a part before each field ("unet.r"), as JSON in
a safetensors header. It gives an update's strength, and whether it is a plain
product of two matrices at all; ranks are read from the tensors.
"""

import collections
import math
import re
from collections.abc import Mapping
from typing import Any

from suti.config.values import check_kinds, shorten

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


def check_config(config: Mapping[str, Any], where: Any) -> None:
  """Refuses what is no plain LoRA: all other fields must be off.

  Raises:
    ValueError: names the fields, or the first value that makes no sense;
      `where` is the file.
  """
  refused = [
    f"{field}={value!r}"
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
      f"{where} is not a plain LoRA: {', '.join(refused)} is not supported. "
      "Merge it into its base with the tool that made it."
    )
  alphas = config.get("alpha_pattern") or {}
  if not isinstance(alphas, Mapping):
    raise ValueError(
      f"alpha_pattern={shorten(alphas)} of {where} gives no alpha for a layer: "
      "correct it, or fetch the file again."
    )
  if (alpha := config.get("lora_alpha")) is not None:
    alphas = {"lora_alpha": alpha, **alphas}
  check_kinds(alphas, dict.fromkeys(alphas, -1.0), what=str(where))
  for pattern in alphas:
    try:
      re.compile(pattern)
    except re.error as error:
      raise ValueError(
        f"alpha_pattern of {where} has {pattern!r}, which is no pattern "
        f"({error}): correct it, or fetch the file again."
      ) from error


def strength(
  config: Mapping[str, Any], layer: str, *, rank: int, alpha: float | None
) -> float:
  """What the product of a layer's factors is multiplied by.

  Args:
    config: of the layer's model; {} where there is none.
    layer: its attribute path.
    rank: of the layer.
    alpha: the layer's own, if the file has a tensor for it.

  Returns:
    alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023). Where
    nothing says alpha, it is the rank.
  """
  if alpha is None:
    # The end of a layer's name is enough, and the first pattern decides.
    patterns = (config.get("alpha_pattern") or {}).items()
    fitting = (a for p, a in patterns if re.match(rf"(.*\.)?({p})$", layer))
    alpha = next(fitting, config.get("lora_alpha"))
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
