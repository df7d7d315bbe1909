# SPDX-License-Identifier: Apache-2.0
"""What the published configs of CLIP, DINO and DINOv2 have in common."""

from collections.abc import Mapping
from typing import Any

from suti.config.values import check_kinds
from suti.nn.layers import ACTIVATIONS


def complete(
  config: Mapping[str, Any], defaults: Mapping[str, Any], *, what: str
) -> dict[str, Any]:
  """Gives a config the publisher's defaults.

  Args:
    config: of one tower.
    defaults: what it has where it is silent.
    what: the family, for messages: "CLIP".

  Returns:
    The config with every key that matters.

  Raises:
    ValueError: a value makes no sense.
  """
  check_kinds(config, defaults, what=what)
  config = {**defaults, **config}
  if config["hidden_act"] not in ACTIVATIONS:
    raise ValueError(
      f"hidden_act={config['hidden_act']!r} of {what} is not one of "
      f"{', '.join(ACTIVATIONS)}."
    )
  dim, heads = config["hidden_size"], config["num_attention_heads"]
  if dim % heads:
    raise ValueError(
      f"num_attention_heads={heads} of {what} does not divide its "
      f"hidden_size={dim}: correct it, or fetch the file again."
    )
  return config
