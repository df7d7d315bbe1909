# SPDX-License-Identifier: Apache-2.0
r"""Which published tensor is which parameter, and the message if they differ.

A family's file says in `RENAMES` how the names of older or other files become
those of its modules, `{regular expression: replacement}`, each applied in turn:

  {
    # What is left without a name is left out.
    r".*\.position_ids$": "",
    # Tensors that get one name must be equal; either is enough.
    r"^encoder\.embed_tokens\.": "shared.",
    # A tuple cuts a tensor along its first dim, a part for each.
    r"\.qkv\.": (".query.", ".key.", ".value."),
  }

No family needs tensors joined.
"""

import re
from collections.abc import Mapping, Sequence

from suti.hf.families import recognise
from suti.hf.layout import published_shape
from suti.hf.weight_files import FLOATS, Stored
from suti.nn.param import Param

Renames = Mapping[str, str | tuple[str, ...]]


def match(
  stored: Mapping[str, Stored], renames: Renames
) -> dict[str, list[Stored]]:
  """Finds what each parameter can be read from.

  Args:
    stored: the tensors of the files.
    renames: see the module's text.

  Returns:
    `{name in the model: tensors or parts of such}`, one of each but where
    several get one name.
  """
  sources: dict[str, list[Stored]] = {}
  for name, tensor in stored.items():
    names = rename(name, renames)
    parts = [tensor] * len(names)
    # One that cannot be cut evenly stays whole, and will be misshapen.
    if len(names) > 1 and tensor.shape and tensor.shape[0] % len(names) == 0:
      parts = tensor.cut(len(names))
    for new, part in zip(names, parts, strict=True):
      if new:
        sources.setdefault(new, []).append(part)
  return sources


def rename(name: str, renames: Renames) -> list[str]:
  """Returns a published tensor's names in a model.

  Args:
    name: in the file.
    renames: see the module's text.

  Returns:
    One name, empty if the tensor is left out; or one for each of its parts.
  """
  names = [name]
  for pattern, new in renames.items():
    if isinstance(new, str):
      names = [old and re.sub(pattern, new, old) for old in names]
    elif re.search(pattern, names[0]):
      assert len(names) == 1, f"{name} is cut twice"
      names = [re.sub(pattern, part, names[0]) for part in new]
  return names


def misfit(
  spec: Mapping[str, Param],
  sources: Mapping[str, Sequence[Stored]],
  stored: Mapping[str, Stored],
) -> str:
  """Describes all that keeps tensors from being a model's parameters.

  Args:
    spec: the model's parameters.
    sources: what `match` found.
    stored: the tensors of the files.

  Returns:
    One line, nothing if all fit: absent, unknown and unfit tensors counted,
    each kind with an example; and a guess at the family.
  """
  absent = [repr(name) for name in spec if name not in sources]
  unknown = list(
    dict.fromkeys(  # parts of one tensor count once
      repr(tensor.name)
      for name, tensors in sources.items()
      if name not in spec
      for tensor in tensors
    )
  )
  unfit = [
    f"{tensor.name!r} {reason}"
    for name, p in spec.items()
    for tensor in sources.get(name, ())
    if (reason := _unfit(p, tensor))
  ]
  if not (absent or unknown or unfit):
    return ""
  kinds = (
    (absent, f"of the model's {len(spec)} parameters are absent"),
    (unknown, f"of the file's {len(stored)} tensors are not of the model"),
    (unfit, "do not fit"),
  )
  counts = [f"{len(n)} {what}, e.g. {n[0]}" for n, what in kinds if n]
  return "; ".join([*counts, _diagnosis(spec, stored)])


def _unfit(p: Param, tensor: Stored) -> str:
  if tensor.dtype not in FLOATS:
    return f"is of {tensor.dtype} where one of {', '.join(FLOATS)} is expected"
  expected = published_shape(p)
  if _without_ones(tensor.shape) != _without_ones(expected):
    return f"is {tensor.shape} in the file and {expected} in the model"
  return ""


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
  """Drops dims of one at the end: a 1x1 convolution is a matrix."""
  shape = tuple(shape)
  while shape and shape[-1] == 1:
    shape = shape[:-1]
  return shape


def _diagnosis(spec: Mapping[str, Param], stored: Mapping[str, Stored]) -> str:
  held = recognise({name: tensor.shape for name, tensor in stored.items()})
  asked = recognise({name: published_shape(p) for name, p in spec.items()})
  if held and asked and held != asked:
    return f"it looks like {held}, the config says {asked}."
  doubt = "is it the config of these weights?"
  return f"it looks like {held}: {doubt}" if held else doubt
