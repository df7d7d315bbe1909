# SPDX-License-Identifier: Apache-2.0
"""The layers that every model is built from; leaves are `weight` and `bias`.

Linear and convolution cast their input to the dtype of their own weights, so
the dtype of the parameters is the dtype of the computation. Norms compute in
float32 and return the dtype they were given.

Shape suffixes: B batch, H W height and width, C channels, I O in and out.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from suti.nn.convolution import convolve
from suti.nn.param import LECUN, NORMAL, ONES, ZEROS, Initializer, Module, param


def _gelu(x):
  """The exact GELU by erf; that of `jax.nn` uses erfc, twice the arithmetic."""
  wide = x.astype(jnp.float32)
  return (0.5 * wide * (1 + lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


# Published names of activations.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "gelu": _gelu,
  "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
  "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
  "relu": jax.nn.relu,
  "silu": jax.nn.silu,
  "swish": jax.nn.silu,
}


class Linear(Module):
  """`x @ weight + bias` over the last dim."""

  def __init__(
    self,
    d_in: int,
    d_out: int,
    *,
    bias: bool = True,
    init: Initializer = LECUN,
    axes: tuple[str | None, str | None] = ("in", "out"),
  ):
    self.d_in, self.d_out = d_in, d_out
    self.weight = param((d_in, d_out), init=init, axes=axes, torch="o i -> i o")
    self.bias = param((d_out,), init=ZEROS, axes=axes[1:]) if bias else None

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., d_in) -> (..., d_out)."""
    weight_IO = self.weight[...]
    y = x.astype(weight_IO.dtype) @ weight_IO
    return y if self.bias is None else y + self.bias[...]


class Conv2d(Module):
  """A 2-D convolution, NHWC with an HWIO kernel.

  Both layouts are what XLA's own convolutions want on CPU and TPU. `padding` is
  the same on all four sides, by default what keeps the size at stride 1.
  """

  def __init__(
    self,
    d_in: int,
    d_out: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = True,
    init: Initializer = LECUN,
  ):
    self.kernel_size, self.stride = kernel_size, stride
    self.padding = (kernel_size - 1) // 2 if padding is None else padding
    self.weight = param(
      (kernel_size, kernel_size, d_in, d_out),
      init=init,
      axes=(None, None, "in", "out"),
      torch="o i h w -> h w i o",
    )
    self.bias = param((d_out,), init=ZEROS, axes=("out",)) if bias else None

  def __call__(self, x_BHWC: jax.Array) -> jax.Array:
    """(B, H, W, d_in) -> (B, H / stride, W / stride, d_out)."""
    weight_HWIO = self.weight[...]
    x_BHWC = x_BHWC.astype(weight_HWIO.dtype)
    if self.kernel_size == self.stride and not self.padding:
      y_BHWC = _patches(x_BHWC, self.stride) @ weight_HWIO.reshape(
        -1, weight_HWIO.shape[-1]
      )
    else:
      y_BHWC = convolve(x_BHWC, weight_HWIO, self.stride, self.padding)
    return y_BHWC if self.bias is None else y_BHWC + self.bias[...]


class GroupNorm(Module):
  """Normalises groups of channels together with all of space."""

  def __init__(self, num_groups: int, dim: int, *, eps: float = 1e-5):
    if dim % num_groups:
      raise ValueError(
        f"norm_num_groups={num_groups} does not divide a width of {dim}: use "
        "a divisor of every block's width."
      )
    self.num_groups, self.eps = num_groups, eps
    self.weight = param((dim,), init=ONES, axes=("out",))
    self.bias = param((dim,), init=ZEROS, axes=("out",))

  def __call__(self, x: jax.Array) -> jax.Array:
    """(B, ..., dim) -> the same."""
    x_BSC = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
    # Over space first, then over the channels of a group: the long sum runs
    # along contiguous channels, which vectorises.
    centred_BSC = x_BSC - self._mean(x_BSC)
    variance_B1C = self._mean(jnp.square(centred_BSC))
    scale = lax.rsqrt(variance_B1C + self.eps) * _float32(self.weight)
    y_BSC = centred_BSC * scale + _float32(self.bias)
    return y_BSC.reshape(x.shape).astype(x.dtype)

  def _mean(self, x_BSC):
    batch, _, dim = x_BSC.shape
    per_group = x_BSC.mean(1).reshape(batch, self.num_groups, -1).mean(-1)
    return jnp.repeat(per_group, dim // self.num_groups, axis=-1)[:, None]


class LayerNorm(Module):
  """Normalises the last dim."""

  def __init__(self, dim: int, *, eps: float = 1e-5):
    self.eps = eps
    self.weight = param((dim,), init=ONES, axes=("out",))
    self.bias = param((dim,), init=ZEROS, axes=("out",))

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., dim) -> the same."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
    return (y * _float32(self.weight) + _float32(self.bias)).astype(x.dtype)


class RMSNorm(Module):
  """Divides the last dim by its root mean square."""

  def __init__(self, dim: int, *, eps: float = 1e-6):
    self.eps = eps
    self.weight = param((dim,), init=ONES, axes=("out",))

  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., dim) -> the same."""
    y = x.astype(jnp.float32)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
    return (y * _float32(self.weight)).astype(x.dtype)


class Embed(Module):
  """A table of vectors, looked up by integers."""

  def __init__(self, num: int, dim: int, *, init: Initializer = NORMAL):
    self.weight = param((num, dim), init=init, axes=("vocab", "out"))

  def __call__(self, ids: jax.Array) -> jax.Array:
    """Integers (...) -> (..., dim)."""
    return jnp.take(self.weight[...], ids, axis=0)


def _patches(x_BHWC, size):
  """Windows that do not overlap: their convolution is a plain product.

  Products are faster than convolutions on CPU, the more so under `vmap` over
  the kernels, and cover both 1x1 convolutions and the patches of a ViT.
  """
  batch, height, width, dim = x_BHWC.shape
  rows, columns = height // size, width // size
  x = x_BHWC[:, : rows * size, : columns * size]
  x = x.reshape(batch, rows, size, columns, size, dim).swapaxes(2, 3)
  return x.reshape(batch, rows, columns, size * size * dim)


def _float32(variable):
  return variable[...].astype(jnp.float32)
