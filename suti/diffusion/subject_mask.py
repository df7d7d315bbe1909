# SPDX-License-Identifier: Apache-2.0
"""Where a picture's subject is, by how much each position looks at its noun.

SynCD (arXiv 2502.01720, section 3.2) for subjects without known geometry: the
weights that positions give to the noun's tokens in the attention to the text,
averaged over layers and the steps so far, cut in two by Otsu's threshold. As
the published code has it, ten thresholds are tried.

Shape legend: `B` rows, `S` positions (h x w, row by row), `L` tokens of the
text, `R` side of a map.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array

CANDIDATES = 10  # of thresholds between the least value and the largest


def noun_map(weights: Sequence[Array], noun_BL: Array, *, side: int) -> Array:
  """The attention to a noun, the mean over layers.

  Args:
    weights: of layers, each float32 (B, S, L), S of any square map.
    noun_BL: which tokens are the noun's, bool.
    side: of the result; coarser maps are interpolated, which the published code
      need not do, as its net has one resolution.

  Returns:
    float32 (B, R, R).
  """
  maps = []
  for weights_BSL in weights:
    own = round(weights_BSL.shape[1] ** 0.5)
    assert own * own == weights_BSL.shape[1], weights_BSL.shape
    map_BS = jnp.where(noun_BL[:, None], weights_BSL, 0).sum(-1)
    map_BRR = map_BS.reshape(-1, own, own)
    maps.append(jax.image.resize(map_BRR, (len(map_BRR), side, side), "linear"))
  return jnp.stack(maps).mean(0)


def otsu(map_BRR: Array, *, candidates: int = CANDIDATES) -> Array:
  """Cuts each map in two where the variance between its halves is largest.

  Otsu 1979, "A threshold selection method from gray-level histograms", over few
  thresholds instead of all.

  Args:
    map_BRR: any values. Of a map that is flat nothing is in the mask.
    candidates: thresholds that are tried, evenly over the range of values.

  Returns:
    bool (B, R, R), True where values are large.
  """
  flat_BS = map_BRR.reshape(len(map_BRR), -1)
  low_B1 = flat_BS.min(1, keepdims=True)
  range_B1 = flat_BS.max(1, keepdims=True) - low_B1
  is_flat_B1 = range_B1 == 0
  flat_BS = (flat_BS - low_B1) / jnp.where(is_flat_B1, 1, range_B1)
  cuts_N = jnp.arange(candidates, dtype=jnp.float32) / candidates

  def between(cut):
    high_BS = flat_BS >= cut
    num_B = high_BS.sum(1).astype(jnp.float32)
    share_B = num_B / flat_BS.shape[1]
    high_B = jnp.where(high_BS, flat_BS, 0).sum(1) / jnp.maximum(num_B, 1)
    rest_B = flat_BS.shape[1] - num_B
    low_B = jnp.where(high_BS, 0, flat_BS).sum(1) / jnp.maximum(rest_B, 1)
    # Zero where one half is empty.
    return share_B * (1 - share_B) * jnp.square(high_B - low_B)

  variance_NB = jax.vmap(between)(cuts_N)
  cut_B1 = cuts_N[variance_NB.argmax(0)][:, None]  # the first of equal ones
  mask_BS = (flat_BS >= cut_B1) & (flat_BS > 0) & ~is_flat_B1
  return mask_BS.reshape(map_BRR.shape)
