# SPDX-License-Identifier: Apache-2.0
"""Adds parameters to a declared model: low-rank updates and adapters.

Surgery works on descriptions, where it is assignment: no array exists yet, the
original is not changed, and every name that was there stays as it was.

An update of low rank (Hu et al. 2021, "LoRA: low-rank adaptation of large
language models") runs beside its layer (`lora`, `lora_at`) or is added into the
layer's weights (`merge`). Its factors have the published names `lora_A` and
`lora_B`, and no scale of their own: alpha is the rank. Files are the business
of `suti.hf.lora`.

`remat` changes no parameter, only what a layer keeps for the backward pass.

Shape suffixes: B batch, S image tokens, D width, I O in and out, R rank.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from suti.nn.layers import Conv2d, Linear
from suti.nn.notes import through
from suti.nn.param import ZEROS, Module, Params, copy, modules, normal

_A, _B = ".lora_A.weight", ".lora_B.weight"


def lora(module: Module, pattern: str, *, rank: int) -> Module:
  r"""Gives layers a trainable update of low rank.

  Args:
    module: a declared module.
    pattern: regular expression, searched for in the attribute paths of linear
      layers and convolutions, e.g. `r"attn[12]\.to_(q|k|v|out\.0)$"`.
    rank: of the updates, at least 1.

  Returns:
    A copy, in which layer `path` also has `path.lora_A.weight`, of the layer's
    own kernel size, and `path.lora_B.weight`, which starts at zero.
  """
  if rank < 1:
    raise ValueError(f"rank={rank} of LoRA: use at least 1.")
  paths = _matching(_layers(module), pattern, "linear layer or convolution")
  return lora_at(module, dict.fromkeys(paths, rank))


def lora_at(module: Module, ranks: Mapping[str, int]) -> Module:
  """The same, with a rank for each layer: `lora_at(unet, ranks(params))`.

  Args:
    module: a declared module.
    ranks: `{attribute path of a linear layer or convolution: rank}`.

  Returns:
    A copy, as `lora`.
  """
  module = copy(module)
  layers = _layers(module)
  for path, rank in ranks.items():
    layer = layers[path]
    kind = _LoraLinear if type(layer) is Linear else _LoraConv2d
    _assign(module, path, kind(layer, rank))
  return module


def ranks(params: Mapping[str, jax.Array]) -> dict[str, int]:
  """`{path: rank}` of the updates of low rank among some parameters."""
  return {
    name.removesuffix(_A): x.shape[-1]
    for name, x in params.items()
    if name.endswith(_A)
  }


def merge(
  params: Mapping[str, jax.Array],
  update: Mapping[str, jax.Array],
  *,
  scale: float = 1.0,
) -> Params:
  """Adds updates of low rank into the weights that they are for.

  Args:
    params: of the model, `{name: array}`.
    update: `path.lora_A.weight` and `path.lora_B.weight` of some layers.
    scale: strength of the update. Merging once more with `-scale` takes it out,
      but for rounding.

  Returns:
    `params` with other weights in these layers, of the dtype they had.
  """
  merged = dict(params)
  for path in ranks(update):
    name = f"{path}.weight"
    down_IR = update[path + _A].astype(jnp.float32)  # kernel dims in front
    up_RO = update[path + _B].astype(jnp.float32)
    change = down_IR @ up_RO.reshape(up_RO.shape[-2:])
    weight = params[name]
    merged[name] = (
      weight.astype(jnp.float32) + jnp.float32(scale) * change
    ).astype(weight.dtype)
  return merged


def joined(updates: Sequence[tuple[Mapping[str, jax.Array], float]]) -> Params:
  """Several updates of low rank as one, of their sum.

  Where two change one layer their ranks add up, as (A1 A2) (B1; B2) is
  A1 B1 + A2 B2: it runs beside its layer or is merged as any other.

  Args:
    updates: each with its strength.
  """
  factors: dict[str, list[jax.Array]] = {}
  for update, scale in updates:
    for name, x in update.items():
      strength = jnp.asarray(scale if name.endswith(_B) else 1, x.dtype)
      factors.setdefault(name, []).append(x * strength)
  return {
    name: jnp.concatenate(parts, axis=-2 if name.endswith(_B) else -1)
    for name, parts in factors.items()
  }


def adapter(
  module: Module,
  pattern: str,
  make: Callable[[str, Module], Module],
  *,
  place: str = "adapter",
) -> Module:
  r"""Puts new modules into blocks that have a slot for them.

  Args:
    module: a declared module.
    pattern: regular expression, searched for in the attribute paths of blocks
      with such a slot, e.g. `r"up_blocks\.[12]\."`.
    make: `(path, block) -> Module`, called once per block. What it returns is
      called by the block, with arguments of the block's choice, and its output
      is added; a U-Net's block has the ints `dim`, `num_heads` and `head_dim`.
    place: name of the slot.

  Returns:
    A copy, in which block `path` also has the parameters `path.PLACE.*`.
  """
  module = copy(module)
  blocks = {p: m for p, m in modules(module) if getattr(m, place, m) is None}
  for path in _matching(blocks, pattern, f"block with a place for an {place}"):
    setattr(blocks[path], place, make(path, blocks[path]))
  return module


def listen(module: Module, pattern: str) -> Module:
  r"""Lets layers note what they see, see `suti.nn.notes`.

  Args:
    module: a declared module.
    pattern: regular expression, searched for in the attribute paths of layers
      that note: a U-Net's transformer blocks, the input of their first
      attention, and attentions `attn2`, their weights.

  Returns:
    A copy with the same parameters; a layer notes under its path.
  """
  module = copy(module)
  layers = {p: m for p, m in modules(module) if hasattr(m, "note_as")}
  for path in _matching(layers, pattern, "layer that notes"):
    layers[path].note_as = path
  return module


def widen(module: Module, path: str, channels: int) -> Module:
  """Lets a convolution see more channels, behind those that it sees.

  Its own weight keeps its name and shape; that of the new channels is beside
  it, `PATH.more.weight`, and starts at zero. Given only its own channels, the
  layer is what it was. `merge_wide` makes one weight of both.

  Args:
    module: a declared module.
    path: of the convolution, such as "conv_in".
    channels: how many more.

  Returns:
    A copy.
  """
  module = copy(module)
  _assign(module, path, _WideConv2d(_layers(module)[path], channels))
  return module


def merge_wide(params: Mapping[str, jax.Array], path: str) -> Params:
  """One weight for a convolution that `widen` gave two."""
  merged, name = dict(params), f"{path}.weight"
  more = merged.pop(f"{path}.more.weight")
  merged[name] = jnp.concatenate([params[name], more], axis=-2)
  return merged


def remat(module: Module, pattern: str) -> Module:
  r"""Keeps only the input of some blocks for the backward pass.

  All else is rematerialised in the backward pass (gradient checkpointing, Chen
  et al. 2016, arXiv 1604.06174): about a third more arithmetic, and memory for
  the activations of one block instead of all. XLA's compiler for CPUs undoes
  this, as it merges the two equal computations.

  Args:
    module: a declared module.
    pattern: regular expression, searched for in the attribute paths of blocks,
      e.g. `r"(resnets|attentions)\.\d+$"`.

  Returns:
    A copy with the same parameters and the same results.
  """
  module = copy(module)
  blocks = dict(modules(module))
  for path in _matching(blocks, pattern, "block"):
    blocks[path].__class__ = _with_remat(type(blocks[path]))
  return module


@functools.cache
def _with_remat(kind):
  def call(self, *args):
    # A function of its own each time: it holds this call's parameters.
    call = through(jax.checkpoint, lambda *args: kind.__call__(self, *args))
    return call(*args)

  return type(kind.__name__, (kind,), {"__call__": call})


class _LoraLinear(Linear):
  """A linear layer that keeps its parameters and has a low-rank update too."""

  def __init__(self, base, rank):
    self.d_in, self.d_out = base.d_in, base.d_out
    self.weight, self.bias = base.weight, base.bias
    axis_in, axis_out = base.weight.get_metadata("spec").axes
    self.lora_A = Linear(
      base.d_in, rank, bias=False, init=normal(1 / rank), axes=(axis_in, None)
    )
    self.lora_B = Linear(
      rank, base.d_out, bias=False, init=ZEROS, axes=(None, axis_out)
    )

  def __call__(self, x):
    y = super().__call__(x)
    return y + self.lora_B(self.lora_A(x)).astype(y.dtype)


class _LoraConv2d(Conv2d):
  """The same of a convolution: first its own kernel size, then 1x1."""

  def __init__(self, base, rank):
    self.kernel_size, self.stride = base.kernel_size, base.stride
    self.padding = base.padding
    self.weight, self.bias = base.weight, base.bias
    *_, d_in, d_out = base.weight.get_metadata("spec").shape
    self.lora_A = Conv2d(
      d_in,
      rank,
      base.kernel_size,
      stride=base.stride,
      padding=base.padding,
      bias=False,
      init=normal(1 / rank),
    )
    self.lora_B = Conv2d(rank, d_out, 1, bias=False, init=ZEROS)

  def __call__(self, x_BHWC):
    y_BHWC = super().__call__(x_BHWC)
    return y_BHWC + self.lora_B(self.lora_A(x_BHWC)).astype(y_BHWC.dtype)


class _WideConv2d(Conv2d):
  """A convolution that keeps its weight and has one for more channels."""

  def __init__(self, base, channels):
    self.kernel_size, self.stride = base.kernel_size, base.stride
    self.padding = base.padding
    self.weight, self.bias = base.weight, base.bias
    *_, self.d_own, d_out = base.weight.get_metadata("spec").shape
    self.more = Conv2d(
      channels,
      d_out,
      base.kernel_size,
      stride=base.stride,
      padding=base.padding,
      bias=False,
      init=ZEROS,
    )

  def __call__(self, x_BHWC):
    y_BHWC = super().__call__(x_BHWC[..., : self.d_own])
    if x_BHWC.shape[-1] == self.d_own:
      return y_BHWC
    return y_BHWC + self.more(x_BHWC[..., self.d_own :]).astype(y_BHWC.dtype)


def _layers(module):
  """What an update can stand beside; not what has one already."""
  return {p: m for p, m in modules(module) if type(m) in (Linear, Conv2d)}


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
