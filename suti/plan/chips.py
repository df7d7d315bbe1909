# SPDX-License-Identifier: Apache-2.0
"""What TPU chips can do at most, as published, and the names of their slices.

A slice is named `KIND:AxB` or `KIND:AxBxC`, chips along each axis of its torus.
These are peaks: nothing here says what a program reaches.

Sources, read in November 2026:
  v4   cloud.google.com/tpu/docs/v4; links from Jouppi et al., "TPU v4" (arXiv
       2304.01433), table 4: six of 50 GB/s each way
  v5e  cloud.google.com/tpu/docs/v5e
  v5p  cloud.google.com/tpu/docs/v5p
  v6e  cloud.google.com/tpu/docs/v6e
Clocks are those at which the published peak is what the matrix units do in a
cycle: 4 units of 128x128 a core, a product and a sum each. v6e has two units of
256x256, by whose peak they do twice that in a cycle of 1.75 GHz, at which the
compiler's cycles for a large product agree with the peak. Room for programs is
what the compiler of libtpu 0.0.42 reports when one does not fit.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from suti.config.names import nearest

_GB = 10**9
_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One chip, which is one device of JAX.

  Attributes:
    kind: as in the names of slices.
    peak_flops: bfloat16 products and sums a second.
    hbm_bytes: its memory, as published.
    program_bytes: of that, what the compiler gives to a program.
    hbm_bandwidth: bytes a second.
    ici_bandwidth: bytes a second to all neighbours together, one way.
    num_cores: TensorCores; where there are two they share the memory and work
      as one device.
    flops_per_cycle: of all its matrix units together.
    num_axes: of the torus of its slices.
    host: shape of the chips of one host.
    libtpu: other arguments by which libtpu describes a slice.
  """

  kind: str
  peak_flops: float
  hbm_bytes: int
  program_bytes: int
  hbm_bandwidth: float
  ici_bandwidth: float
  num_cores: int
  flops_per_cycle: int
  num_axes: int
  host: tuple[int, int, int] = (2, 2, 1)
  libtpu: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def example(self) -> str:
    """The name of a slice."""
    return f"{self.kind}:{'4x4x8' if self.num_axes == 3 else '2x4'}"

  @property
  def clock_hz(self) -> float:
    """Cycles a second."""
    return self.peak_flops / self.flops_per_cycle


CHIPS: Mapping[str, Chip] = {
  chip.kind: chip
  for chip in (
    Chip(
      kind="v4",
      peak_flops=275e12,
      hbm_bytes=32 * _GIB,
      program_bytes=int(30.75 * _GIB),
      hbm_bandwidth=1200e9,
      ici_bandwidth=300e9,
      num_cores=2,
      flops_per_cycle=2 * 4 * 128 * 128 * 2,
      num_axes=3,
      # Otherwise libtpu describes each core as a device with half the memory,
      # which is not what a v4 host shows.
      libtpu={"chip_config_name": "megacore"},
    ),
    Chip(
      kind="v5e",
      peak_flops=197e12,
      hbm_bytes=16 * _GIB,
      program_bytes=int(15.75 * _GIB),
      hbm_bandwidth=819e9,
      ici_bandwidth=200e9,
      num_cores=1,
      flops_per_cycle=4 * 128 * 128 * 2,
      num_axes=2,
    ),
    Chip(
      kind="v5p",
      peak_flops=459e12,
      hbm_bytes=95 * _GIB,
      program_bytes=int(95.74 * _GIB),
      hbm_bandwidth=2765e9,
      ici_bandwidth=600e9,
      num_cores=2,
      flops_per_cycle=2 * 4 * 128 * 128 * 2,
      num_axes=3,
    ),
    Chip(
      kind="v6e",
      peak_flops=918e12,
      hbm_bytes=32 * _GIB,
      program_bytes=int(31.25 * _GIB),
      hbm_bandwidth=1638e9,
      ici_bandwidth=400e9,
      num_cores=1,
      flops_per_cycle=2 * 256 * 256 * 2 * 2,
      num_axes=2,
    ),
  )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
  """A slice.

  Attributes:
    chip: what it is made of.
    shape: chips along each axis.
  """

  chip: Chip
  shape: tuple[int, ...]

  @property
  def name(self) -> str:
    """As "v4:4x4x8"."""
    return f"{self.chip.kind}:{'x'.join(map(str, self.shape))}"

  @property
  def num_chips(self) -> int:
    """All of them."""
    return math.prod(self.shape)


def parse_topology(name: str) -> Topology:
  """Reads the name of a slice.

  Args:
    name: "v5e:2x4"; a single chip is "v5e:1x1".

  Raises:
    ValueError: no such kind of chip, or a shape that its slices do not have.
  """
  kind, _, text = name.partition(":")
  chip = CHIPS.get(kind)
  if chip is None:
    close = nearest(kind, CHIPS, cutoff=0.4)
    hint = f" Did you mean '{CHIPS[close].example}'?" if close else ""
    raise ValueError(
      f"--topology={name}: there is no chip '{kind}' here, but "
      f"{', '.join(CHIPS)}.{hint}"
    )
  axes = "x".join("ABC"[: chip.num_axes])
  is_shape = re.fullmatch(r"[0-9]{1,6}(x[0-9]{1,6})*", text)
  shape = tuple(map(int, text.split("x"))) if is_shape else ()
  if len(shape) != chip.num_axes:
    raise ValueError(
      f"--topology={name}: a slice of {kind} is {kind}:{axes}, chips along "
      f"each axis; give {chip.example} or another."
    )
  uneven = any(n % host for n, host in zip(shape, chip.host, strict=False))
  if min(shape) < 1 or (uneven and math.prod(shape) > 1):
    host = "x".join(map(str, chip.host[: chip.num_axes]))
    raise ValueError(
      f"--topology={name}: a slice is made of hosts of {host} chips, or is one "
      f"chip; give {chip.example} or another."
    )
  return Topology(chip=chip, shape=shape)
