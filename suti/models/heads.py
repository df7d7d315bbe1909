# SPDX-License-Identifier: Apache-2.0
"""Linear maps from one encoder's features, by name: a judge's heads.

No published family. The encoder itself keeps its published layout; its heads
lie beside it, in a folder of their own, so that other programs open the first
as they know it.

Shape suffixes: B batch, F features, O outputs of a head.
"""

from collections.abc import Mapping
from typing import Any

import jax

from suti.config.values import shorten
from suti.nn.layers import Linear
from suti.nn.param import Module


def declare_heads(config: Mapping[str, Any]) -> "Heads":
  """Declares heads.

  Args:
    config: `hidden_size`, width of the features, and `heads`, the width of each
      head by name.

  Raises:
    ValueError: it has no such sizes.
  """
  width: Any = config.get("hidden_size")
  heads: Any = config.get("heads")
  sizes = [width, *(heads.values() if isinstance(heads, Mapping) else [None])]
  if not all(type(size) is int and size > 0 for size in sizes):
    raise ValueError(
      f"hidden_size={shorten(width)} and heads={shorten(heads)} of heads must "
      "be a width, and the width of each by name: correct them, or fetch the "
      "file again."
    )
  return Heads(width, heads)


class Heads(Module):
  """`NAME.weight` and `NAME.bias` of each head."""

  def __init__(self, width: int, heads: Mapping[str, int]):
    self._names = tuple(heads)
    for name, size in heads.items():
      setattr(self, name, Linear(width, size))

  def __call__(self, x_BF: jax.Array) -> dict[str, jax.Array]:
    """Features (B, F) -> {name: (B, O)}."""
    return {name: getattr(self, name)(x_BF) for name in self._names}
