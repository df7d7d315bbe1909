# SPDX-License-Identifier: Apache-2.0
"""What the published configs of encoders have in common.

Keys that a reader has no default for are passed over: the publishers' classes
read many that say how to train, to decode or to start. Which those are is held
against their code by `tests/hf/test_config_keys.py`; what would change what an
encoder returns is read, or refused here.
"""

from collections.abc import Mapping
from typing import Any

from suti.config.values import check_kinds, shorten
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
  refuse(config, what=what)
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


def refuse(config: Mapping[str, Any], *, what: str) -> None:
  """Refuses what an encoder's weights would silently be wrong with.

  Args:
    config: of one encoder.
    what: the family, for messages.

  Raises:
    ValueError: it says so.
  """
  for key, remedy in _REFUSED.items():
    if config.get(key):
      raise ValueError(
        f"{key}={shorten(config[key])} of {what} is not supported: {remedy}."
      )


_REFUSED = {
  "quantization_config": "fetch the weights that are not quantised",
  "pruned_heads": "fetch the model that has all of its heads",
  # Read by the pipeline of Stable Diffusion, for encoders other than CLIP's.
  "use_attention_mask": "only encoders that read padding too are read here",
}
