# SPDX-License-Identifier: Apache-2.0
"""Values that layers note while a net is applied, for who listens.

  with listening() as notes:
    y = apply(params, x)
  loss = f(notes["mid_block...attn2"])

What is noted is ordinary values of the program that is traced: gradients flow
through them. A block that is rematerialised (`suti.nn.surgery.remat`) hands
them out as further results of its own, so that they are the same with and
without. Outside of such a scope nothing is computed for it.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

Notes = dict[str, Any]

_notes: contextvars.ContextVar[Notes | None] = contextvars.ContextVar(
  "notes", default=None
)


@contextlib.contextmanager
def listening() -> Iterator[Notes]:
  """Collects what layers note, by name; the inner scope takes it all."""
  found: Notes = {}
  token = _notes.set(found)
  try:
    yield found
  finally:
    _notes.reset(token)


def is_heard() -> bool:
  """Whether anyone listens."""
  return _notes.get() is not None


def note(name: str, value: Any) -> None:
  """Notes a value under a name that no other layer has."""
  found = _notes.get()
  if found is not None:
    assert name not in found, f"{name} is noted twice"
    found[name] = value


def through(
  transform: Callable[..., Any], function: Callable[..., Any]
) -> Callable[..., Any]:
  """Applies a transformation of JAX such that notes pass through it.

  Args:
    transform: function -> function, such as `jax.checkpoint`.
    function: of arrays, which may note.

  Returns: the transformed function; what was noted inside is noted outside.
  """

  def inside(*args: Any) -> tuple[Any, Notes]:
    with listening() as found:
      return function(*args), found

  def outside(*args: Any) -> Any:
    if not is_heard():
      return transform(function)(*args)
    result, found = transform(inside)(*args)
    for name, value in found.items():
      note(name, value)
    return result

  return outside
