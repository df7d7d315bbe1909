# SPDX-License-Identifier: Apache-2.0
"""The largest size that fits into a device's memory, by compiled programs.

A compiler knows, before anything runs, what a program will hold: its arguments,
its results, and the most that is alive in between. `fit_size` looks for the
largest size whose program fits, in a few compilations. It knows no stage: what
is counted (experts, examples of a batch) is the caller's.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

# Of the room that there is: allocators leave gaps, and the programs that start
# a wave and encode its pictures have temporaries of their own.
SHARE = 0.9
# Compilations after the first two: each may take minutes.
_TRIES = 4


def program_bytes(compiled: Any) -> int:
  """What a compiled program holds on one device while it runs.

  Args:
    compiled: of `jax.jit(...).lower(...).compile()`.

  Returns: bytes of arguments, results (those that take an argument's place
    count once), temporaries, and the code itself.
  """
  found = compiled.memory_analysis()
  return int(
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
    + found.temp_size_in_bytes
    + found.generated_code_size_in_bytes
  )


def array_bytes(tree: Any) -> int:
  """Bytes of all arrays of a tree, or of what describes them."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def fit_size(
  bytes_at: Callable[[int], int], limit_bytes: int, *, most: int
) -> int:
  """The largest size that fits, found along straight lines.

  What a program holds grows nearly in proportion to the size: two small
  programs say where the limit is reached, the one there is compiled to see, and
  from it the line is drawn anew. Only a size that was seen to fit is returned.

  Args:
    bytes_at: size -> bytes, as `program_bytes` of the program of that size.
    limit_bytes: not to be exceeded.
    most: the largest size of use, at least 1.

  Returns: the size, at most `most`; 0 if not even one fits. It may be a little
    below the largest where the growth is uneven.
  """
  assert most >= 1
  fits, held = 0, 0  # The largest size that was seen to fit, and its bytes.
  too_large = most + 1
  slope = 0.0
  for size in (1, 2):
    if size >= too_large:
      return fits
    bytes_now = bytes_at(size)
    if bytes_now > limit_bytes:
      return fits
    slope = bytes_now - held
    fits, held = size, bytes_now
  for _ in range(_TRIES):
    more = int((limit_bytes - held) / slope) if slope > 0 else most
    size = min(fits + more, too_large - 1)
    if size <= fits:
      break
    bytes_now = bytes_at(size)
    slope = (bytes_now - held) / (size - fits)
    if bytes_now <= limit_bytes:
      fits, held = size, bytes_now
    else:
      too_large = size
  return fits


def free_bytes(device: Any, *, counted: Any = ()) -> int:
  """Room for a program on a device.

  Args:
    device: of `jax.local_devices()`. A CPU's devices share the machine's
      memory evenly.
    counted: tree of arrays that are there already and are arguments of the
      program too: their room is counted once.

  Returns: bytes.
  """
  stats = device.memory_stats() or {}
  if "bytes_limit" not in stats:
    return _host_bytes() // len(jax.local_devices(backend=device.platform))
  held = sum(
    shard.data.nbytes
    for array in jax.tree.leaves(counted)
    for shard in array.addressable_shards
    if shard.device == device
  )
  return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0) + held)


def _host_bytes() -> int:
  """Memory of the machine, or of the container that this process is in."""
  total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  file = Path("/sys/fs/cgroup/memory.max")
  limit = file.read_text().strip() if file.is_file() else "max"
  return min(total, int(limit)) if limit.isdigit() else total
