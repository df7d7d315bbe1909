# SPDX-License-Identifier: Apache-2.0
"""Declares parameters, and turns a declared module into a pure function.

Flax NNX serves as a declaration language only: constructors describe parameters
and allocate nothing. Parameters themselves are a flat dict
`{published name: array}`, which any JAX transformation takes as it is.

This is the one file that knows NNX's machinery. It uses none of NNX's random
streams, transformations, optimizers or shared variables.
"""

import dataclasses
import functools
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import initializers

# Trees only: no reference sharing between modules, no hidden mutation.
nnx.set_graph_mode(False)

Module = nnx.Module
ModuleList = nnx.List
Initializer = Callable[..., jax.Array]
Params = dict[str, jax.Array]

_Value = TypeVar("_Value")


def normal(std: float) -> Initializer:
  """Draws from a normal distribution, cut at two standard deviations."""

  def draw(key, shape, dtype):
    # Random bits are slow to compile, 4-D ones the most: they are drawn flat,
    # and in powers of two, so that a large U-Net needs a dozen programs.
    size = math.prod(shape)
    flat = _draw(key, size=1 << (size - 1).bit_length(), dtype=dtype)
    return _cut(flat, std / _CUT_STD, shape=shape)

  return draw


def fan_in(scale: float) -> Initializer:
  """Draws with a variance of `scale` over the number of inputs of an output.

  Inputs are all dims but the last, as in our kernels `_IO` and `_HWIO`.
  """

  def draw(key, shape, dtype):
    return normal(math.sqrt(scale / math.prod(shape[:-1])))(key, shape, dtype)

  return draw


LECUN = fan_in(1.0)
NORMAL = normal(0.02)
ZEROS = initializers.zeros
ONES = initializers.ones
_CUT_STD = 0.87962566  # of a standard normal cut at -2 and 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Param:
  """All that is known of a parameter before it has a value.

  Attributes:
    shape: the shape of our array.
    init: `(key, shape, dtype) -> array`.
    axes: one logical name (or None) per dim, for sharding rules.
    torch: published layout against ours, as "o i -> i o"; None if equal.
  """

  shape: tuple[int, ...]
  init: Initializer
  axes: tuple[str | None, ...]
  torch: str | None = None

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)


def param(
  shape: tuple[int, ...],
  *,
  init: Initializer,
  axes: tuple[str | None, ...],
  torch: str | None = None,
) -> nnx.Param:
  """Describes one parameter: to be assigned to a module's attribute."""
  assert len(shape) == len(axes), (shape, axes)
  return nnx.Param(
    jax.ShapeDtypeStruct(shape, jnp.float32),
    spec=Param(shape=shape, init=init, axes=axes, torch=torch),
  )


def slot() -> Any:
  """An empty slot of a module, where surgery may put another module."""
  return nnx.data(None)


class Placeholder(Module):
  """Holds an index of a list that has no parameters (a published Dropout)."""


def functional(
  module: Module,
) -> tuple[dict[str, Param], Callable[..., Any]]:
  """Turns a declared module into its parameters' description and a function.

  Args:
    module: a declared module; it is not changed and holds no array.

  Returns:
    spec: `{name: Param}`; a name is the attribute path joined by dots.
    apply: a pure function `(params, *args, method="__call__", **kwargs)`.
      `params` must have every name of `spec`; other names are ignored, so that
      a base model also runs on the parameters of one that extends it.
      `method` is a method's name, or a function that takes the module first.
  """
  graph, state = nnx.split(module)
  leaves = {_name(path): (path, v) for path, v in nnx.to_flat_state(state)}
  spec = {name: v.get_metadata("spec") for name, (_, v) in leaves.items()}

  def apply(
    params: Mapping[str, jax.Array],
    *args: Any,
    method: str | Callable[..., Any] = "__call__",
    **kwargs: Any,
  ) -> Any:
    if absent := [name for name in spec if name not in params]:
      raise ValueError(
        f"{len(absent)} of {len(spec)} parameters are absent, e.g. "
        f"{absent[0]!r}: pass all that `functional` described."
      )
    bound = nnx.merge(
      graph,
      nnx.from_flat_state(
        [(path, v.replace(params[name])) for name, (path, v) in leaves.items()]
      ),
    )
    if isinstance(method, str):
      return getattr(bound, method)(*args, **kwargs)
    return method(bound, *args, **kwargs)

  return spec, apply


def init(spec: Mapping[str, Param], key: jax.Array) -> Params:
  """Draws parameters, each from its own name.

  A parameter's value depends on `key` and its name alone, so declaring more
  layers, or in another order, changes no other layer.

  Args:
    spec: what to draw.
    key: one random key.

  Returns:
    `{name: float32 array}`.
  """
  # Not in one jit: with the parameters of a large U-Net it takes minutes to
  # compile.
  return {
    name: p.init(
      jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode()))),
      p.shape,
      jnp.float32,
    )
    for name, p in spec.items()
  }


def shapes(
  spec: Mapping[str, Param], dtype: Any = jnp.float32
) -> dict[str, jax.ShapeDtypeStruct]:
  """Stands in for parameters where a program is compiled and never run."""
  return {n: jax.ShapeDtypeStruct(p.shape, dtype) for n, p in spec.items()}


def split(
  values: Mapping[str, _Value], pattern: str
) -> tuple[dict[str, _Value], dict[str, _Value]]:
  """Parts a flat dict (of parameters or of their descriptions) by name.

  Args:
    values: `{name: anything}`.
    pattern: a regular expression, searched for anywhere in the name.

  Returns:
    `(matching, rest)`.
  """
  found = re.compile(pattern).search
  matching = {name: v for name, v in values.items() if found(name)}
  return matching, {n: v for n, v in values.items() if n not in matching}


def without(
  values: Mapping[str, _Value], names: Mapping[str, Any]
) -> dict[str, _Value]:
  """Returns the entries of `values` whose names are not in `names`."""
  return {name: v for name, v in values.items() if name not in names}


def cast(params: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
  """Parameters, or their shapes, in another dtype."""
  return {
    name: jax.ShapeDtypeStruct(x.shape, dtype)
    if isinstance(x, jax.ShapeDtypeStruct)
    else x.astype(dtype)
    for name, x in params.items()
  }


def copy(module: Module) -> Module:
  """Copies a declared module, so that surgery leaves the original whole."""
  return nnx.merge(*nnx.split(module))


def modules(module: Module) -> Iterator[tuple[str, Any]]:
  """Yields `(attribute path, module)` of a module's descendants and itself."""
  for path, child in nnx.iter_modules(module):
    yield _name(path), child


@functools.partial(jax.jit, static_argnames=("size", "dtype"))
def _draw(key, *, size, dtype):
  return jax.random.truncated_normal(key, -2, 2, (size,), dtype)


@functools.partial(jax.jit, static_argnames="shape")
def _cut(flat, scale, *, shape):
  return (flat[: math.prod(shape)] * scale).reshape(shape)


def _name(path: tuple[Any, ...]) -> str:
  return ".".join(map(str, path))
