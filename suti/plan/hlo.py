# SPDX-License-Identifier: Apache-2.0
"""What a compiled program does, read out of its text.

XLA's own analysis counts the body of a loop once, however often it runs, and
says nothing of what devices send each other. So the text of the program (HLO
after all optimizations, one device's share) is read here: products, bytes that
move between memory and cores, cycles where the compiler has estimated them, and
collectives, each as often as the loops around it run.

A loop's count is the constant that its condition compares with: `lax.scan`,
`lax.map` and `lax.fori_loop` have one. Where there is none the body is counted
once, and `unknown_loops` says so.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_BYTES = {
  "pred": 1,
  "bf16": 2,
  **{f"{sign}{bits}": bits / 8 for sign in "su" for bits in (4, 8, 16, 32, 64)},
  **{f"f{bits}": bits / 8 for bits in (16, 32, 64)},
  "c64": 8,
  "c128": 16,
  "token": 0,
}
# Cost nothing themselves: they name values, or hand over to computations.
_FREE = frozenset(
  {
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "iota",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
  }
)
# Payload of a collective against what passes a chip's links (n devices in a
# ring, n large): an all-reduce is a reduce-scatter and an all-gather.
COLLECTIVES: Mapping[str, int] = {
  "all-gather": 1,
  "all-reduce": 2,
  "all-to-all": 1,
  "collective-broadcast": 1,
  "collective-permute": 1,
  "ragged-all-to-all": 1,
  "reduce-scatter": 1,
}

_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
_FUSED = re.compile(r"calls=%?([\w.-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
  """What one device does in one run of a program.

  Attributes:
    flops: of matrix products and convolutions, a product and a sum each 1.
    bytes: read from and written to the device's memory (HBM).
    cycles: the compiler's estimate, of the operations that it has one for.
    collectives: {kind: bytes that pass a device's links}, see `COLLECTIVES`.
    num_collectives: {kind: how many run}.
    unknown_loops: loops whose body was counted once, for lack of a count.
  """

  flops: float = 0.0
  bytes: float = 0.0
  cycles: float = 0.0
  collectives: Mapping[str, float] = dataclasses.field(default_factory=dict)
  num_collectives: Mapping[str, int] = dataclasses.field(default_factory=dict)
  unknown_loops: int = 0

  def __add__(self, other: "Costs") -> "Costs":
    """One after the other."""
    return Costs(
      flops=self.flops + other.flops,
      bytes=self.bytes + other.bytes,
      cycles=self.cycles + other.cycles,
      collectives=_added(self.collectives, other.collectives),
      num_collectives=_added(self.num_collectives, other.num_collectives),
      unknown_loops=self.unknown_loops + other.unknown_loops,
    )

  def times(self, count: int) -> "Costs":
    """The same again and again."""
    return Costs(
      flops=self.flops * count,
      bytes=self.bytes * count,
      cycles=self.cycles * count,
      collectives={k: v * count for k, v in self.collectives.items()},
      num_collectives={k: v * count for k, v in self.num_collectives.items()},
      unknown_loops=self.unknown_loops,
    )


def _added(one: Mapping, other: Mapping) -> dict:
  return {k: one.get(k, 0) + other.get(k, 0) for k in {**one, **other}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Instruction:
  name: str
  opcode: str
  shape: str
  operands: tuple[str, ...]
  attributes: str
  root: bool


Computation = Mapping[str, _Instruction]


def read_costs(text: str) -> Costs:
  """Adds up what a program does.

  Args:
    text: of `jax.jit(...).lower(...).compile().as_text()`.
  """
  computations, entry = _parse(text)

  @functools.cache
  def costs_of(name: str) -> Costs:
    total = Costs()
    for one in computations[name].values():
      if one.opcode == "while":
        count = _trip_count(computations, _named("condition", one))
        total += costs_of(_named("body", one)).times(count or 1)
        total += Costs(unknown_loops=int(count is None))
      elif one.opcode == "call":
        total += costs_of(_named("to_apply", one))
      elif one.opcode == "conditional":
        branches = re.findall(
          r"%([\w.-]+)",
          "".join(re.findall(r"(?:_computations?)=\{?([^}]*)", one.attributes)),
        )
        options = [costs_of(b) for b in branches if b in computations]
        total += max(options, key=lambda c: (c.flops, c.bytes), default=Costs())
      else:
        total += _costs(one, computations[name], computations)
    return total

  return costs_of(entry)


def _named(role: str, one: _Instruction) -> str:
  """The computation that an instruction names in a role."""
  found = re.search(rf"{role}=%?([\w.-]+)", one.attributes)
  assert found is not None, one
  return found[1]


def _costs(
  one: _Instruction,
  scope: Computation,
  computations: Mapping[str, Computation],
) -> Costs:
  """Of an instruction that is no loop and no call."""
  if one.opcode in _FREE or one.opcode.endswith("-done"):
    return Costs()
  flops = 0.0
  sent: dict[str, float] = collections.defaultdict(float)
  counts: dict[str, int] = collections.defaultdict(int)
  for inner, around in [(one, scope), *_within(one, computations)]:
    flops += _flops(inner, around)
    kind = inner.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
      sent[kind] += COLLECTIVES[kind] * _payload(inner, around)
      counts[kind] += 1
  cycles = _CYCLES.search(one.attributes)
  return Costs(
    flops=flops,
    bytes=_moved(one, scope, computations),
    cycles=_known(int(cycles[1])) if cycles else 0.0,
    collectives=dict(sent),
    num_collectives=dict(counts),
  )


def _known(cycles: int) -> float:
  """An estimate, or 0 where the compiler has written that it has none."""
  return float(cycles) if cycles < 2**62 else 0.0


def _within(
  one: _Instruction, computations: Mapping[str, Computation]
) -> Iterator[tuple[_Instruction, Computation]]:
  """All instructions of what an instruction fuses or wraps, with their own."""
  for name in _FUSED.findall(one.attributes):
    for inner in computations.get(name, {}).values():
      yield inner, computations[name]
      yield from _within(inner, computations)


def _payload(one: _Instruction, scope: Computation) -> float:
  """Bytes that a collective works on: the whole before or after it."""
  given = sum(
    _bytes(scope[name].shape, anywhere=True)
    for name in one.operands
    if name in scope
  )
  made = _bytes(one.shape, anywhere=True)
  if one.opcode.endswith("-start"):
    made -= given  # Its shape is (what it reads, what it writes, ...).
  return max(given, made)


def _moved(
  one: _Instruction,
  scope: Computation,
  computations: Mapping[str, Computation],
) -> float:
  """Bytes of HBM that an instruction reads and writes."""
  if one.opcode.endswith("-start") and one.opcode != "async-start":
    # Its shape is (what it reads, what it writes, ...).
    return sum(_size(*found) for found in _SHAPE.findall(one.shape)[:2])
  fused = next(iter(_FUSED.findall(one.attributes)), None)
  # An instruction alone is read as one that is fused with nothing.
  inside = computations.get(fused or "", {one.name: one})
  names = {
    int(inner.operands[0]): inner.name
    for inner in inside.values()
    if inner.opcode == "parameter"
  }
  read = sum(
    _read(scope[operand].shape, names.get(place, operand), inside)
    for place, operand in enumerate(one.operands)
    if operand in scope
  )
  return read + _written(one, scope, inside)


def _read(shape: str, name: str, inside: Computation) -> float:
  """Bytes of an operand, or of the parts of it that are looked at."""
  users = [inner for inner in inside.values() if name in inner.operands]
  if not all(_looks_at_a_part(user, name) for user in users):
    return _bytes(shape)
  parts = sum(
    math.prod(_dims(user.shape))
    for user in users
    if user.opcode != "dynamic-update-slice"
  )
  return parts * _width(shape) if _in_hbm(shape) else 0.0


def _looks_at_a_part(user: _Instruction, name: str) -> bool:
  parts = ("dynamic-slice", "slice", "gather", "dynamic-update-slice")
  return user.opcode in parts and user.operands[0] == name


def _written(
  one: _Instruction, scope: Computation, inside: Computation
) -> float:
  """Bytes of a result, or of the part of it that is overwritten."""
  last = next((inner for inner in inside.values() if inner.root), one)
  while last.opcode == "bitcast" and last.operands[0] in inside:
    last = inside[last.operands[0]]
  if last.opcode != "dynamic-update-slice" or not _in_hbm(one.shape):
    return _bytes(one.shape)
  update = {**scope, **inside}[last.operands[1]].shape
  return math.prod(_dims(update)) * _width(one.shape)


def _flops(one: _Instruction, scope: Computation) -> float:
  if one.opcode == "dot":
    return _dot_flops(one, scope)
  if one.opcode == "convolution":
    return _convolution_flops(one, scope)
  return 0.0


def _dot_flops(one: _Instruction, scope: Computation) -> float:
  left = _dims(scope[one.operands[0]].shape)
  contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
  places = [int(i) for i in contracted[1].split(",") if i] if contracted else []
  elements = math.prod(_dims(one.shape))
  return 2.0 * elements * math.prod(left[i] for i in places)


def _convolution_flops(one: _Instruction, scope: Computation) -> float:
  """Products with what lies inside of the input; padding costs nothing."""
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
  assert labels is not None, one
  inputs, kernel, outputs = labels.groups()
  shapes = [_dims(scope[name].shape) for name in one.operands[:2]]
  size_in, size_kernel = shapes
  size_out = _dims(one.shape)
  pairs = 1
  spatial = sorted(label for label in kernel if label.isdigit())
  window = dict(re.findall(r"(\w+)=(\S+)", _window(one.attributes)))
  for place, label in enumerate(spatial):
    pairs *= _valid_pairs(
      size_in[inputs.index(label)],
      size_out[outputs.index(label)],
      {key: value.split("x")[place] for key, value in window.items()},
    )
  groups = re.search(r"batch_group_count=(\d+)", one.attributes)
  batch = size_in[inputs.index("b")] // (int(groups[1]) if groups else 1)
  return (
    2.0
    * pairs
    * batch
    * size_kernel[kernel.index("i")]
    * size_out[outputs.index("f")]
  )


def _window(attributes: str) -> str:
  found = re.search(r"window=\{([^}]*)\}", attributes)
  return found[1] if found else ""


def _valid_pairs(size_in: int, size_out: int, window: Mapping[str, str]) -> int:
  """How many (output, kernel) positions of one dim meet an input."""
  size = int(window.get("size", 1))
  stride = int(window.get("stride", 1))
  low = int(window.get("pad", "0_0").split("_")[0])
  dilation_in = int(window.get("lhs_dilate", 1))
  dilation = int(window.get("rhs_dilate", 1))
  last = (size_in - 1) * dilation_in
  pairs = 0
  for k in range(size):
    # Input positions out * stride + offset that lie in [0, last] and on the
    # grid of the dilated input.
    offset = k * dilation - low
    first_out = max(0, -(offset // stride))
    last_out = min(size_out - 1, (last - offset) // stride)
    if dilation_in == 1:
      pairs += max(0, last_out - first_out + 1)
    else:
      pairs += sum(
        (out * stride + offset) % dilation_in == 0
        for out in range(first_out, last_out + 1)
      )
  return pairs


def _trip_count(
  computations: Mapping[str, Computation], condition: str
) -> int | None:
  """The constant that a loop's counter is compared with."""
  scopes = [computations[condition]]
  scopes += [
    computations[name]
    for one in computations[condition].values()
    for name in _FUSED.findall(one.attributes)
  ]
  compared = [
    one for scope in scopes for one in scope.values() if one.opcode == "compare"
  ]
  constants = [
    int(one.operands[0])
    for scope in scopes
    for one in scope.values()
    if one.opcode == "constant"
    and re.match(r"[su](32|64)\[\]", one.shape)
    and one.operands[:1]
    and re.fullmatch(r"-?\d+", one.operands[0])
  ]
  if len(compared) == 1 and len(constants) == 1:
    extra = int("direction=LE" in compared[0].attributes)
    return max(constants[0] + extra, 0)
  return None


# --- The text ----------------------------------------------------------------


def _parse(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
  """All computations by name, and the name of the one that runs."""
  computations: dict[str, dict[str, _Instruction]] = {}
  entry, current = "", None
  for line in text.splitlines():
    if current is None:
      header = _HEADER.match(line)
      if header:
        name = header[2]
        current = computations.setdefault(name, {})
        entry = name if header[1] else entry
      continue
    if line.startswith("}"):
      current = None
      continue
    found = _LINE.match(line)
    if found:
      one = _instruction(found[2], found[3], root=bool(found[1]))
      current[one.name] = one
  assert entry, "a program has an entry"
  return computations, entry


def _instruction(name: str, text: str, *, root: bool) -> _Instruction:
  text = _COMMENT.sub("", text)
  end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
  shape, rest = text[:end], text[end:].lstrip()
  open_at = rest.index("(")
  close_at = _closing(rest, open_at)
  inside = rest[open_at + 1 : close_at]
  return _Instruction(
    name=name,
    opcode=rest[:open_at],
    shape=shape,
    operands=tuple(_operand(part) for part in _commas(inside)),
    attributes=rest[close_at + 1 :],
    root=root,
  )


def _operand(text: str) -> str:
  """The name in "%a", "f32[2]{0} %a", or the text of a constant."""
  return text.strip().split(" ")[-1].lstrip("%")


def _closing(text: str, start: int) -> int:
  """Where the parenthesis that opens at `start` closes."""
  depth = 0
  for place in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[place], 0)
    if depth == 0:
      return place
  raise AssertionError(f"unbalanced: {text[:80]}")


def _commas(text: str) -> Sequence[str]:
  """Splits at the commas outside of all brackets."""
  parts, depth, start = [], 0, 0
  for place, letter in enumerate(text):
    depth += (letter in "([{") - (letter in ")]}")
    if letter == "," and depth == 0:
      parts.append(text[start:place])
      start = place + 1
  return [*parts, text[start:]] if text.strip() else parts


def _dims(shape: str) -> tuple[int, ...]:
  found = _SHAPE.search(shape)
  assert found is not None, shape
  return tuple(int(n) for n in found[2].split(",") if n)


def _width(shape: str) -> float:
  """Bytes of an element."""
  found = _SHAPE.search(shape)
  assert found is not None, shape
  # All kinds of float8 start so.
  return _BYTES.get(found[1], 1)


def _in_hbm(shape: str) -> bool:
  """Whether an array lies in HBM: other memories are named S(1), S(2) ..."""
  return not re.search(r"S\([1-9]\)", shape)


def _size(dtype: str, dims: str, layout: str) -> float:
  if not _in_hbm(layout):
    return 0.0
  return math.prod(int(n) for n in dims.split(",") if n) * _BYTES.get(dtype, 1)


def _bytes(shape: str, *, anywhere: bool = False) -> float:
  """Of an array, or of all arrays of a tuple: those in HBM, or all."""
  return float(
    sum(
      _size(dtype, dims, "" if anywhere else layout)
      for dtype, dims, layout in _SHAPE.findall(shape)
    )
  )
