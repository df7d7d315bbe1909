# SPDX-License-Identifier: Apache-2.0
"""Masked shared attention: rows of a set attend to each other's subjects.

SynCD (arXiv 2502.01720, eq. 1): T pictures that are sampled together, with

  MSA_i = softmax(q_i [k_1 .. k_T]^T / sqrt(d) + M_i) [v_1 .. v_T]

where M_i hides the other pictures' backgrounds. A U-Net's self-attention holds
no tokens of the text, so that nobody sees another's text.

Shape suffixes: B rows, sets of T side by side, S positions of a row, L those of
the others, D width, R side of a mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.nn.cells import widened
from suti.nn.param import Module
from suti.nn.surgery import adapter

Array = jax.Array

SEEN = "seen"  # what `Shared` finds in a context: {str(S): seen_BL}


class Shared(Module):
  """More keys of a self-attention, its slot `extend`: those of the others."""

  def __call__(self, x_BSD: Array, context: Any) -> tuple[Array, Array]:
    """The others' positions, (B, L, D), and which of them are seen, (B, L)."""
    if SEEN not in context:  # each row is alone
      return x_BSD[:, :0], jnp.zeros((len(x_BSD), 0), bool)
    size = x_BSD.shape[1]
    seen_BL = context[SEEN][str(size)]
    return others(x_BSD, together=seen_BL.shape[1] // size + 1), seen_BL


def share(module: Module) -> Module:
  """Lets the rows of a set see each other, in every self-attention of a U-Net.

  Args:
    module: a declared U-Net.

  Returns:
    A copy with the same parameters; without a context it is what it was.

  Raises:
    ValueError: it has no self-attention apart from that to its text, as IF.
  """
  return adapter(
    module, r"attn1$", lambda path, layer: Shared(), place="extend"
  )


def others(x_BSD: Array, *, together: int) -> Array:
  """Of each row the other rows of its set, one after another: (B, L, D)."""
  batch, size, *rest = x_BSD.shape
  x_GTSD = x_BSD.reshape(-1, together, size, *rest)
  parts = [jnp.roll(x_GTSD, i, axis=1) for i in range(1, together)]
  return jnp.concatenate(parts, axis=2).reshape(batch, -1, *rest)


def seen_of(masks: Mapping[str, Array], *, together: int) -> dict[str, Array]:
  """What `Shared` needs of each resolution: the others' subjects.

  Args:
    masks: {str(S): bool (B, S)}, where each row's subject is.
    together: T.
  """
  return {
    name: others(mask_BS, together=together) for name, mask_BS in masks.items()
  }


def token_masks(
  mask_BRR: Array, *, sides: Sequence[int], dilate: int
) -> dict[str, Array]:
  """Where the subject is, at each resolution that attends.

  A position counts as subject if any of its pixels does, or of its neighbours'
  at the finest resolution, on which the published code works alone.

  Args:
    mask_BRR: bool.
    sides: of the maps, the finest first.
    dilate: side of the neighbourhood, odd, in positions of the finest map: 9
      for rigid subjects and 3 for others, of 32 and of 64 positions a side.

  Returns:
    {str(S): bool (B, S)}.
  """
  finest = widened(_covered(mask_BRR, sides[0]), size=dilate)
  batch = len(mask_BRR)
  return {
    str(side * side): _covered(finest, side).reshape(batch, -1)
    for side in dict.fromkeys(sides)
  }


def _covered(mask_BRR: Array, side: int) -> Array:
  """Whether any pixel of each cell of a grid is in the mask."""
  fine = mask_BRR.shape[-1]
  if fine == side:
    return mask_BRR
  start_S = np.arange(side) * fine // side
  end_S = -(-np.arange(1, side + 1) * fine // side)
  at_R = np.arange(fine)
  is_in_SR = (at_R >= start_S[:, None]) & (at_R < end_S[:, None])
  is_in_SR = jnp.asarray(is_in_SR, jnp.float32)
  count_BSS = jnp.einsum(
    "SR,BRQ,PQ->BSP", is_in_SR, mask_BRR.astype(jnp.float32), is_in_SR
  )
  return count_BSS > 0


def attending_sides(config: Mapping[str, Any], side: int) -> list[int]:
  """Sides of the maps that a U-Net attends on, the finest first.

  Args:
    config: of the U-Net, as published.
    side: of its input.
  """
  kinds = config["down_block_types"]
  # Odd sides are rounded up; nothing is halved after the last block.
  sides = [side]
  for _ in kinds[1:]:
    sides.append(-(-sides[-1] // 2))
  found = [
    each for kind, each in zip(kinds, sides, strict=True) if "Attn" in kind
  ]
  if "Attn" in (config.get("mid_block_type", "CrossAttn") or ""):
    found.append(sides[-1])
  return list(dict.fromkeys(found))
