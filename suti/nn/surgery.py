# SPDX-License-Identifier: Apache-2.0
"""Adds parameters to a declared model: low-rank updates and adapters.

Surgery works on descriptions, where it is assignment: no array exists yet, the
original is not changed, and every name that was there stays as it was.

Shape suffixes: B batch, S image tokens, D width.
"""

import re
from collections.abc import Callable

from suti.nn.layers import Linear
from suti.nn.param import ZEROS, Module, copy, modules, normal


def lora(module: Module, pattern: str, *, rank: int) -> Module:
  r"""Gives linear layers a trainable update of low rank (Hu et al. 2021).

  Args:
    module: a declared module.
    pattern: regular expression, searched for in the attribute paths of linear
      layers, e.g. `r"attn[12]\.to_(q|k|v|out\.0)$"`.
    rank: of the update, at least 1.

  Returns:
    A copy, in which layer `path` also has `path.lora.down.weight` and
    `path.lora.up.weight`; the second starts at zero.
  """
  if rank < 1:
    raise ValueError(f"rank={rank} of LoRA: use at least 1.")
  module = copy(module)
  linears = {p: m for p, m in modules(module) if type(m) is Linear}
  for path in _matching(linears, pattern, "linear layer"):
    _assign(module, path, _LoraLinear(linears[path], rank))
  return module


def adapter(
  module: Module, pattern: str, make: Callable[[str, Module], Module]
) -> Module:
  r"""Puts new modules into blocks that have a place for them.

  Args:
    module: a declared module.
    pattern: regular expression, searched for in the attribute paths of blocks
      with an `adapter` slot, e.g. `r"up_blocks\.[12]\."`.
    make: `(path, block) -> Module`, called once per block. What it returns is
      called as `adapter(x_BSD, context)` and its output is added; a U-Net's
      block has the ints `dim`, `num_heads` and `head_dim`.

  Returns:
    A copy, in which block `path` also has the parameters `path.adapter.*`.
  """
  module = copy(module)
  blocks = {
    p: m for p, m in modules(module) if getattr(m, "adapter", m) is None
  }
  for path in _matching(blocks, pattern, "block with a place for an adapter"):
    blocks[path].adapter = make(path, blocks[path])
  return module


class _LoraLinear(Linear):
  """A linear layer that keeps its parameters and has a low-rank update too."""

  def __init__(self, base, rank):
    self.d_in, self.d_out = base.d_in, base.d_out
    self.weight, self.bias = base.weight, base.bias
    self.lora = _LowRank(base, rank)

  def __call__(self, x):
    y = super().__call__(x)
    return y + self.lora.up(self.lora.down(x)).astype(y.dtype)


class _LowRank(Module):
  def __init__(self, base, rank):
    axis_in, axis_out = base.weight.get_metadata("spec").axes
    down = normal(1 / rank)
    self.down = Linear(
      base.d_in, rank, bias=False, init=down, axes=(axis_in, None)
    )
    self.up = Linear(
      rank, base.d_out, bias=False, init=ZEROS, axes=(None, axis_out)
    )


def _matching(candidates, pattern, what):
  found = [path for path in candidates if re.search(pattern, path)]
  if not found:
    example = next(iter(candidates), None)
    raise ValueError(
      f"The pattern {pattern!r} matches no {what}; one is {example!r}."
    )
  return found


def _assign(module, path, value):
  *parents, name = path.split(".")
  for parent in parents:
    module = (
      module[int(parent)] if parent.isdigit() else getattr(module, parent)
    )
  if name.isdigit():
    module[int(name)] = value
  else:
    setattr(module, name, value)
