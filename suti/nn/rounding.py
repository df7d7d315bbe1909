# SPDX-License-Identifier: Apache-2.0
"""Stochastic rounding, so that many small steps add up.

A weight of 0.1 in bfloat16 has neighbours 0.0005 away: a step of 1e-5 rounds to
nothing, and so do five hundred of them. Rounded up or down at random, the
nearer neighbour with the larger probability, the weight moves by the sum of its
steps on average (Gupta et al. 2015, arXiv 1502.02551, section 4.1).
"""

import math

import jax
import jax.numpy as jnp
from jax import lax


def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
  """float32 -> bfloat16, equal to `x` on average.

  Args:
    x: float32; what bfloat16 can hold stays as it is, and so does what is not
      finite.
    key: for which way each element goes; never the same one twice.

  Returns: bfloat16 of the same shape.
  """
  # bfloat16 is the upper half of float32. A uniform number added to the lower
  # half carries over into it as often as the lower half is large.
  bits = lax.bitcast_convert_type(x, jnp.uint32)
  upper = (bits + (_hashes(key, x.shape) >> 16)) & jnp.uint32(0xFFFF0000)
  rounded = lax.bitcast_convert_type(upper, jnp.float32)
  return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def _hashes(key, shape):
  """A uniform uint32 from each element's index and the key.

  Ten operations on integers, which XLA fuses into the update of a parameter;
  JAX's own generator takes a hundred and an array of its own. Good enough for
  rounding alone, with a key from a proper generator.
  """
  one, two = jax.random.key_data(key)
  index = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
  return _mix(_mix(index ^ one) + two)


def _mix(x):
  """Chris Wellons' `lowbias32`: flips each bit for half of all changes."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
