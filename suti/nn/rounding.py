# SPDX-License-Identifier: Apache-2.0
"""Rounding by chance, so that many small steps add up.

A weight of 0.1 in bfloat16 has neighbours 0.0005 away: a step of 1e-5 rounds to
nothing, and so do five hundred of them. Rounded up or down at random, by how
near each neighbour is, the weight moves by the sum of its steps on average
(Gupta et al. 2015, arXiv 1502.02551, section 4.1).
"""

import jax
import jax.numpy as jnp
from jax import lax


def round_by_chance(x: jax.Array, key: jax.Array) -> jax.Array:
  """float32 -> bfloat16, equal to `x` on average.

  Args:
    x: float32; what bfloat16 can hold stays as it is, and so does what is not
      finite.
    key: for which way each element goes.

  Returns: bfloat16 of the same shape.
  """
  # bfloat16 is the upper half of float32. A uniform number added to the lower
  # half carries over into it as often as the lower half is large.
  bits = lax.bitcast_convert_type(x, jnp.uint32)
  chance = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  upper = (bits + chance) & jnp.uint32(0xFFFF0000)
  rounded = lax.bitcast_convert_type(upper, jnp.float32)
  return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)
