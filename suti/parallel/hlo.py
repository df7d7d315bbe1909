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
_CALLS = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)")
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
      called = _CALLS.findall(one.attributes)
      if one.opcode == "while":
        body, condition = (
          re.search(rf"{role}=%?([\w.-]+)", one.attributes)[1]  # pyright: ignore
          for role in ("body", "condition")
        )
        count = _trip_count(computations, condition)
        total += costs_of(body).times(count or 1)
        total += Costs(unknown_loops=int(count is None))
      elif one.opcode == "call":
        total += costs_of(called[0])
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


def _costs(
  one: _Instruction,
  computation: Computation,
  computations: Mapping[str, Computation],
) -> Costs:
  """Of an instruction that is no loop and no call."""
  if one.opcode in _FREE or one.opcode.endswith("-done"):
    return Costs()
  inside = list(_within(one, computations))
  collectives: dict[str, float] = collections.defaultdict(float)
  counts: dict[str, int] = collections.defaultdict(int)
  flops = 0.0
  for inner, scope in [(one, computation), *inside]:
    flops += _flops(inner, scope)
    kind = inner.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
      payload = max(
        _bytes(inner.shape) if not inner.opcode.endswith("-start") else 0,
        sum(_bytes(scope[n].shape) for n in inner.operands if n in scope),
        _largest(inner.shape),
      )
      collectives[kind] += payload * COLLECTIVES[kind]
      counts[kind] += 1
  cycles = _CYCLES.search(one.attributes)
  return Costs(
    flops=flops,
    bytes=_moved(one, computation, computations),
    cycles=_known(int(cycles[1])) if cycles else 0.0,
    collectives=dict(collectives),
    num_collectives=dict(counts),
  )


def _known(cycles: int) -> float:
  """An estimate, or 0 where the compiler has written that it has none."""
  return float(cycles) if cycles < 2**62 else 0.0


def _within(
  one: _Instruction, computations: Mapping[str, Computation]
) -> Iterator[tuple[_Instruction, Computation]]:
  """All instructions of the computations that an instruction fuses or wraps."""
  if "calls=" not in one.attributes:
    return
  for name in re.findall(r"calls=%?([\w.-]+)", one.attributes):
    for inner in computations.get(name, {}).values():
      yield inner, computations[name]
      yield from _within(inner, computations)


def _moved(
  one: _Instruction,
  computation: Computation,
  computations: Mapping[str, Computation],
) -> float:
  """Bytes of HBM that an instruction reads and writes."""
  if one.opcode == "dynamic-slice" or one.opcode == "slice":
    return 2 * _bytes(one.shape)
  if one.opcode == "dynamic-update-slice":
    return 2 * _bytes(computation[one.operands[1]].shape)
  if one.opcode.endswith("-start") and one.opcode != "async-start":
    # Its shape is (what it reads, what it writes, ...).
    parts = [_size(*found) for found in _SHAPE.findall(one.shape)[:2]]
    return float(sum(parts))
  inside = computations.get(
    (re.findall(r"calls=%?([\w.-]+)", one.attributes) or [""])[0], {}
  )
  total = 0.0
  parameters = {
    inner.operands[0]: name
    for name, inner in inside.items()
    if inner.opcode == "parameter"
  }
  for place, operand in enumerate(one.operands):
    if operand not in computation:
      continue
    shape = computation[operand].shape
    users = [
      i
      for i in inside.values()
      if parameters.get(str(place)) in i.operands and i.opcode != "parameter"
    ]
    if users and all(_reads_a_slice(i, parameters[str(place)]) for i in users):
      shape_bytes = sum(
        _elements(i.shape) * _width(shape)
        for i in users
        if i.opcode != "dynamic-update-slice"
      )
      total += shape_bytes if _in_hbm(shape) else 0
    else:
      total += _bytes(shape)
  root = next((i for i in inside.values() if i.root), None)
  while root is not None and root.opcode == "bitcast":
    root = inside.get(root.operands[0])
  if root is not None and root.opcode == "dynamic-update-slice":
    update = inside[root.operands[1]].shape
    return total + (
      _elements(update) * _width(one.shape) if _in_hbm(one.shape) else 0
    )
  return total + _bytes(one.shape)


def _reads_a_slice(user: _Instruction, name: str) -> bool:
  """Whether an instruction touches but a part of its first operand."""
  return (
    user.opcode in ("dynamic-slice", "slice", "dynamic-update-slice", "gather")
    and user.operands[0] == name
  )


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
  return 2.0 * _elements(one.shape) * math.prod(left[i] for i in places)


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
    for name in re.findall(r"calls=%?([\w.-]+)", one.attributes)
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


def _elements(shape: str) -> int:
  return math.prod(_dims(shape))


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


def _bytes(shape: str) -> float:
  """Of an array, or of all arrays of a tuple, those in HBM."""
  return float(sum(_size(*found) for found in _SHAPE.findall(shape)))


def _largest(shape: str) -> float:
  """Of the largest array of a tuple, wherever it lies."""
  return max(
    (_size(dtype, dims, "") for dtype, dims, _ in _SHAPE.findall(shape)),
    default=0.0,
  )
