# SPDX-License-Identifier: Apache-2.0
"""Published configs: the publisher's defaults, and what is not supported.

A config of diffusers says all that it has of a model, so a key that is not
known is refused. One of transformers also says how to train and to generate:
there keys that are not known are passed over.
"""

from collections.abc import Collection, Mapping
from typing import Any

from suti.nn.layers import ACTIVATIONS


def complete_encoder(
  config: Mapping[str, Any] | None, defaults: Mapping[str, Any], *, of: str
) -> dict[str, Any]:
  """Gives a config of transformers the publisher's defaults.

  Args:
    config: as in config.json, or a part of it; None is all defaults.
    defaults: every key that matters.
    of: whose config it is, for the message.

  Raises:
    ValueError: its `hidden_act` is not known.
  """
  complete = {**defaults, **(config or {})}
  if complete["hidden_act"] not in ACTIVATIONS:
    raise ValueError(
      f"hidden_act={complete['hidden_act']!r} of {of} is not one of "
      f"{', '.join(ACTIVATIONS)}."
    )
  return complete


def complete_diffusers(
  config: Mapping[str, Any],
  defaults: Mapping[str, Any],
  *,
  choices: Mapping[str, Collection[Any]],
  ignored: Collection[str],
) -> tuple[dict[str, Any], set[str]]:
  """Gives a config of diffusers the publisher's defaults.

  Args:
    config: as in config.json.
    defaults: every key that matters.
    choices: keys, with or without a default, that have these values alone.
    ignored: keys that say nothing about the function that is computed.

  Returns:
    The config without what is ignored; its keys that are not known, or have
    another value than their choices.
  """
  given = {
    key: value
    for key, value in config.items()
    if not key.startswith("_") and key not in ignored
  }
  complete = {**defaults, **given}
  wrong = {
    key
    for key, value in complete.items()
    if (key not in defaults and key not in choices)
    or (key in choices and value not in choices[key])
  }
  return complete, wrong


def describe(config: Mapping[str, Any], keys: Collection[str]) -> str:
  """Some keys and their values, in the config's order: "a=1, b='c'"."""
  return ", ".join(f"{k}={v!r}" for k, v in config.items() if k in keys)
