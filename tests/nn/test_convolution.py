# SPDX-License-Identifier: Apache-2.0
"""The convolution's own rules for gradients and for `vmap`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from suti.nn import convolution
from suti.nn.convolution import convolve


def draw(*shapes):
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def value_and_gradients(function, axes, *args):
  def loss(x, kernel):
    y = jax.vmap(function, axes)(x, kernel)
    return jnp.sin(y).sum(), y

  return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(*args)


def assert_close(found, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    found,
    expected,
  )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_vmap_is_the_same_sum(stride, axes):
  x, kernel = draw((3, 2, 6, 7, 4), (3, 3, 3, 4, 5))
  x, kernel = (
    value if axis == 0 else value[0]
    for value, axis in zip((x, kernel), axes, strict=True)
  )

  def native(x, kernel):
    return convolution._native(x, kernel, stride=stride, padding=1)

  def ours(x, kernel):
    return convolve(x, kernel, stride, 1)

  assert_close(
    value_and_gradients(ours, axes, x, kernel),
    value_and_gradients(native, axes, x, kernel),
  )


def test_vmap_in_vmap():
  """Experts outside, examples of one expert inside."""
  x, kernel = draw((2, 3, 1, 5, 5, 2), (2, 3, 3, 2, 2))

  def gradients(function):
    def expert(x, kernel):
      y = jax.vmap(function, (0, None))(x, kernel)
      return jnp.sin(y).sum()

    return jax.jit(jax.vmap(jax.grad(expert, (0, 1))))(x, kernel)

  assert_close(
    gradients(lambda x, k: convolve(x, k, 1, 1)),
    gradients(lambda x, k: convolution._native(x, k, stride=1, padding=1)),
  )


def test_kernels_along_a_batch_make_no_grouped_convolution_on_cpu():
  x, kernel = draw((3, 2, 6, 6, 4), (3, 3, 3, 4, 4))

  def step(x, kernel):
    return jax.grad(lambda k: jnp.square(convolve(x, k, 1, 1)).sum())(kernel)

  text = jax.jit(jax.vmap(step)).lower(x, kernel).compile().as_text()
  assert " convolution(" not in text
  assert " dot(" in text


def test_a_frozen_kernel_is_convolved_once_for_all():
  """As with low-rank experts, which share their base's convolutions."""
  x, kernel = draw((3, 2, 10, 10, 4), (3, 3, 4, 4))

  def step(x):
    return jax.grad(lambda x: jnp.square(convolve(x, kernel, 1, 1)).sum())(x)

  text = jax.jit(jax.vmap(step)).lower(x).compile().as_text()
  convolutions = [line for line in text.split("\n") if " convolution(" in line]
  assert len(convolutions) == 2
  assert all("f32[6,10,10,4]" in line for line in convolutions)
  assert "feature_group_count" not in text


def test_waves_of_experts_exchange_nothing():
  """`vmap` inside `shard_map`, as experts are trained."""
  x, kernel = draw((8, 1, 4, 4, 2), (8, 3, 3, 2, 2))
  mesh = jax.make_mesh((4,), ("expert",), axis_types=(AxisType.Auto,))

  def step(x, kernel):
    return jax.grad(lambda k: jnp.square(convolve(x, k, 1, 1)).sum())(kernel)

  wave = jax.jit(
    jax.shard_map(
      jax.vmap(step),
      mesh=mesh,
      in_specs=PartitionSpec("expert"),
      out_specs=PartitionSpec("expert"),
    )
  ).lower(x, kernel)
  text = wave.compile().as_text()
  assert not re.search(r"all-|collective|permute", text)
  np.testing.assert_allclose(
    wave.compile()(x, kernel), jax.jit(jax.vmap(step))(x, kernel), rtol=1e-5
  )


def test_other_platforms_keep_their_own_convolution():
  x, kernel = draw((3, 2, 6, 6, 4), (3, 3, 3, 4, 4))
  many = jax.jit(jax.vmap(lambda x, kernel: convolve(x, kernel, 1, 1)))
  text = many.trace(x, kernel).lower(lowering_platforms=("tpu",)).as_text()
  assert "stablehlo.convolution" in text
  assert "feature_group_count = 3" in text
  assert "stablehlo.dot_general" not in text
