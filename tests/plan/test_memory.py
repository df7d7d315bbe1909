# SPDX-License-Identifier: Apache-2.0
"""How much fits: searched in few compilations, read from compiled programs."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.plan import memory


def counting(function):
  asked = []

  def bytes_at(size):
    asked.append(size)
    return function(size)

  return bytes_at, asked


@pytest.mark.parametrize(
  ("function", "limit", "most", "expected"),
  [
    (lambda n: 100 + 10 * n, 175, 64, 7),
    (lambda n: 100 + 10 * n, 170, 64, 7),  # the limit itself is allowed
    (lambda n: 100 + 10 * n, 175, 5, 5),
    (lambda n: 100 + 10 * n, 175, 1, 1),
    (lambda n: 100 + 10 * n, 115, 64, 1),
    (lambda n: 100 + 10 * n, 109, 64, 0),
    (lambda n: 100, 100, 64, 64),  # grows with nothing
    # The first step is dearer, or cheaper, than all that follow.
    (lambda n: 100 if n == 1 else 120 + 10 * n, 305, 64, 18),
    (lambda n: 10 * n + 50 * (n > 2), 205, 64, 15),
  ],
)
def test_the_largest_that_fits_is_found(function, limit, most, expected):
  bytes_at, asked = counting(function)
  assert memory.fit_size(bytes_at, limit, most=most) == expected
  assert len(asked) == len(set(asked)) <= 6


@pytest.mark.parametrize("seed", range(20))
def test_what_is_returned_was_seen_to_fit(seed):
  """Growth in uneven steps, as of buffers that are padded and shared."""
  rng = np.random.default_rng(seed)
  table = np.cumsum(rng.exponential(10, 200) + 5).astype(int)
  bytes_at, asked = counting(lambda n: int(table[n - 1]))
  found = memory.fit_size(bytes_at, int(table[100]), most=200)
  assert found in asked and table[found - 1] <= table[100]
  assert found >= 0.85 * 101
  assert len(asked) <= 6


def test_a_program_holds_what_it_is_given_and_what_it_makes():
  x = jnp.ones((256, 256), jnp.float32)
  size = x.nbytes
  plain = jax.jit(lambda x: x + 1).lower(x).compile()
  donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
  code = plain.memory_analysis().generated_code_size_in_bytes
  assert 2 * size <= memory.program_bytes(plain) - code < 2 * size + 4096
  code = donated.memory_analysis().generated_code_size_in_bytes
  assert size <= memory.program_bytes(donated) - code < size + 4096


def test_a_cpu_shares_the_machines_memory():
  devices = jax.devices()
  assert len(devices) == 8
  free = memory.free_bytes(devices[0])
  assert 1e8 < free == memory._host_bytes() // 8


def test_what_the_program_takes_is_not_counted_against_it():
  """A device that says how much it has, 1000 bytes, 400 of them in use."""
  (real,) = jax.devices()[:1]
  x = jax.device_put(np.zeros(25, np.float32), real)
  device = types.SimpleNamespace(
    memory_stats=lambda: {"bytes_limit": 1000, "bytes_in_use": 400}
  )
  assert memory.free_bytes(device) == 600
  other = types.SimpleNamespace(
    nbytes=100,
    addressable_shards=[types.SimpleNamespace(data=x, device=device)],
  )
  assert memory.free_bytes(device, counted={"a": other}) == 700
  assert memory.free_bytes(device, counted={"a": x}) == 600
