# SPDX-License-Identifier: Apache-2.0
"""Layers against their formulas, in float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from suti.nn import layers
from suti.nn.param import functional
from tests.goldens import drawing


def run(module, x, dtype=jnp.float32):
  spec, apply = functional(module)
  params = {name: drawing.draw(name, p.shape) for name, p in spec.items()}
  found = apply(
    {name: jnp.asarray(v, dtype) for name, v in params.items()}, jnp.asarray(x)
  )
  return found, {name: v.astype(np.float64) for name, v in params.items()}


def test_linear():
  x = drawing.draw("x", (2, 5, 7))
  found, p = run(layers.Linear(7, 3), x)
  np.testing.assert_allclose(found, x @ p["weight"] + p["bias"], atol=1e-6)


@pytest.mark.parametrize(
  ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (2, 2, 0)]
)
def test_conv(kernel, stride, padding):
  x = drawing.draw("x", (2, 6, 7, 3))
  found, p = run(layers.Conv2d(3, 4, kernel, stride=stride, padding=padding), x)
  padded = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
  for row, column in np.ndindex(found.shape[1:3]):
    window = padded[
      :, row * stride : row * stride + kernel, column * stride :, :
    ][:, :, :kernel]
    expected = np.tensordot(window, p["weight"], 3) + p["bias"]
    np.testing.assert_allclose(found[:, row, column], expected, atol=1e-6)


def test_group_norm():
  # A small spread about a large mean: one pass over squares would lose it.
  x = 30 + drawing.draw("x", (2, 5, 4, 6))
  found, p = run(layers.GroupNorm(2, 6, eps=1e-5), x)
  groups = x.astype(np.float64).reshape(2, 20, 2, 3)
  mean = groups.mean((1, 3), keepdims=True)
  variance = groups.var((1, 3), keepdims=True)
  expected = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
  np.testing.assert_allclose(
    found, expected * p["weight"] + p["bias"], rtol=1e-3, atol=1e-3
  )


def test_layer_and_rms_norm():
  x = 3 + drawing.draw("x", (2, 5, 6))
  found, p = run(layers.LayerNorm(6), x)
  centred = x - x.mean(-1, keepdims=True, dtype=np.float64)
  scaled = centred / np.sqrt(x.var(-1, keepdims=True, dtype=np.float64) + 1e-5)
  np.testing.assert_allclose(
    found, scaled * p["weight"] + p["bias"], rtol=1e-4, atol=1e-4
  )
  found, p = run(layers.RMSNorm(6), x)
  size = np.sqrt(np.square(x, dtype=np.float64).mean(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(found, x / size * p["weight"], rtol=1e-5)


def test_embed():
  ids = np.array([[3, 0], [1, 3]])
  found, p = run(layers.Embed(4, 5), ids)
  np.testing.assert_allclose(found, p["weight"][ids], atol=1e-7)


@pytest.mark.parametrize(
  "module",
  [layers.Linear(4, 6), layers.Conv2d(4, 6, 3), layers.Conv2d(4, 6, 1)],
)
def test_the_dtype_of_the_parameters_is_that_of_the_computation(module):
  x = drawing.draw("x", (1, 5, 5, 4))
  exact, _ = run(module, x)
  found, _ = run(module, x, jnp.bfloat16)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(found.astype(np.float32), exact, atol=0.05)


@pytest.mark.parametrize(
  "module", [layers.GroupNorm(2, 4), layers.LayerNorm(4), layers.RMSNorm(4)]
)
def test_norms_reckon_in_float32_and_return_what_they_were_given(module):
  x = jnp.asarray(100 + drawing.draw("x", (1, 5, 5, 4)), jnp.bfloat16)
  exact, _ = run(module, x.astype(jnp.float32))
  found, _ = run(module, x)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


def test_groups_must_divide_the_width():
  with pytest.raises(ValueError, match="norm_num_groups=32 does not divide"):
    layers.GroupNorm(32, 48)
