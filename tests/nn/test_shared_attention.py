# SPDX-License-Identifier: Apache-2.0
"""Masked shared attention: its masks cell by cell, and a whole tiny U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.models.unet import declare_unet
from suti.models.unet_layers import Attention
from suti.nn.param import copy, functional, init, modules
from suti.nn.shared_attention import (
  SEEN,
  Shared,
  attending_sides,
  others,
  seen_of,
  share,
  token_masks,
)
from tests import tiny

T, SIDE = 3, tiny.SIZE_PX // tiny.PATCH


def masks_by_hand(mask_BRR, sides, dilate):
  """Cell by cell: any pixel, then any neighbour, then any cell below."""

  def pooled(mask_RR, side):
    fine = len(mask_RR)
    return np.array(
      [
        [
          mask_RR[
            i * fine // side : -(-(i + 1) * fine // side),
            j * fine // side : -(-(j + 1) * fine // side),
          ].any()
          for j in range(side)
        ]
        for i in range(side)
      ]
    )

  out = {}
  for side in sides:
    rows = []
    for mask_RR in mask_BRR:
      cells, reach = pooled(mask_RR, sides[0]), dilate // 2
      wide = np.array(
        [
          [
            cells[
              max(0, i - reach) : i + reach + 1,
              max(0, j - reach) : j + reach + 1,
            ].any()
            for j in range(sides[0])
          ]
          for i in range(sides[0])
        ]
      )
      rows.append(pooled(wide, side).ravel())
    out[str(side * side)] = np.stack(rows)
  return out


@pytest.mark.parametrize(
  ("fine", "sides", "dilate"),
  [(32, [8, 4], 3), (32, [16, 8, 4], 9), (12, [8, 4], 1), (4, [8, 4], 3)],
)
def test_masks_are_exact_at_each_resolution(fine, sides, dilate):
  rng = np.random.default_rng(fine)
  mask_BRR = rng.random((6, fine, fine)) < 0.02
  mask_BRR[0] = False
  mask_BRR[1] = True
  found = token_masks(jnp.asarray(mask_BRR), sides=sides, dilate=dilate)
  expected = masks_by_hand(mask_BRR, sides, dilate)
  assert found.keys() == expected.keys()
  for name, mask_BS in expected.items():
    np.testing.assert_array_equal(found[name], mask_BS, err_msg=name)


def test_a_row_sees_the_others_subjects_and_all_of_itself():
  """The matrix M of the paper's equation 1, entry by entry."""
  rng = np.random.default_rng(0)
  mask_BS = rng.random((2 * T, 4)) < 0.5
  (seen_BL,) = seen_of({"4": jnp.asarray(mask_BS)}, together=T).values()
  assert seen_BL.shape == (2 * T, (T - 1) * 4)
  for row in range(2 * T):
    first = row - row % T
    before = [first + (row - first - i) % T for i in range(1, T)]
    np.testing.assert_array_equal(
      seen_BL[row], np.concatenate([mask_BS[other] for other in before])
    )


def test_the_sides_that_attend():
  sdxl = {
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
  }
  assert attending_sides(sdxl, 128) == [64, 32]
  sd15 = {"down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]}
  assert attending_sides(sd15, 64) == [64, 32, 16, 8]
  without = {"down_block_types": ["CrossAttnDownBlock2D"] * 2}
  without["mid_block_type"] = None
  assert attending_sides(without, 9) == [9, 5]


class ByHand(Attention):
  """Softmax over own positions and the others' subjects, with einsum alone."""

  def __call__(self, x_BSD, context_BLD, mask=None, context=None):
    _, size, width = x_BSD.shape
    mask_GTS = context[size].reshape(-1, T, size)

    def project(layer):
      y_GTSD = layer(x_BSD).reshape(-1, T, size, width)
      return y_GTSD.reshape(*y_GTSD.shape[:-1], self.num_heads, -1)

    q, k, v = (project(each) for each in (self.to_q, self.to_k, self.to_v))
    logits = jnp.einsum("GTSNC,GULNC->GTNSUL", q, k) * q.shape[-1] ** -0.5
    is_own = np.eye(T, dtype=bool)[None, :, :, None]
    allowed = is_own | mask_GTS[:, None]  # (G, T, U, L)
    logits = jnp.where(allowed[:, :, None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits.reshape(*logits.shape[:4], -1), axis=-1)
    weights = weights.reshape(logits.shape)
    out = jnp.einsum("GTNSUL,GULNC->GTSNC", weights, v)
    return self.to_out[0](out.reshape(x_BSD.shape))


def test_rows_that_see_each_other_are_an_einsum():
  heads, width, size = 2, 8, 16
  layer = Attention(width, num_heads=heads)
  layer.extend = Shared()
  spec, apply = functional(layer)
  params = {
    name: 0.3 * np.asarray(jax.random.normal(jax.random.key(i), p.shape))
    for i, (name, p) in enumerate(spec.items())
  }
  rng = np.random.default_rng(0)
  x_BSD = rng.normal(size=(2 * T, size, width)).astype(np.float32)
  mask_BS = rng.random((2 * T, size)) < 0.4
  context = {SEEN: seen_of({str(size): jnp.asarray(mask_BS)}, together=T)}
  found = apply(params, x_BSD, x_BSD, None, context)
  _, by_hand = functional(ByHand(width, num_heads=heads))
  expected = by_hand(params, x_BSD, x_BSD, None, {size: mask_BS})
  np.testing.assert_allclose(found, expected, atol=1e-5)
  alone = apply(params, x_BSD, x_BSD, None, None)
  assert np.abs(found - alone).max() > 0.01


def test_a_u_net_is_one_whose_attentions_are_written_out():
  """With a mask; without, it is the U-Net that it was."""
  unet = declare_unet(tiny.ONE_LEVEL_UNET)
  spec, plain = functional(unet)
  _, sharing = functional(share(unet))
  written_out = copy(unet)
  for path, layer in modules(written_out):
    if path.endswith("attn1"):
      layer.__class__ = ByHand
  _, by_hand = functional(written_out)
  params = {name: x + 0.1 for name, x in init(spec, jax.random.key(0)).items()}
  rng = np.random.default_rng(0)
  shape = (2 * T, SIDE, SIDE, tiny.ONE_LEVEL_UNET["in_channels"])
  x_BHWC = jnp.asarray(rng.normal(size=shape), jnp.float32)
  text_BLD = jnp.asarray(rng.normal(size=(2 * T, 5, 16)), jnp.float32)
  t_B = jnp.full(2 * T, 500)
  sides = attending_sides(tiny.ONE_LEVEL_UNET, SIDE)

  @jax.jit
  def run(x_BHWC, mask_BRR):
    masks = token_masks(mask_BRR, sides=sides, dilate=1)
    context = {SEEN: seen_of(masks, together=T)}
    return sharing(params, x_BHWC, t_B, text_BLD, context=context)

  nothing = jnp.zeros((2 * T, SIDE, SIDE), bool)
  alone = jax.jit(plain)(params, x_BHWC, t_B, text_BLD)
  np.testing.assert_allclose(run(x_BHWC, nothing), alone, atol=2e-5)
  some = nothing.at[:, 2:5, 2:6].set(True)
  seen = run(x_BHWC, some)
  expected = jax.jit(
    lambda x: by_hand(
      params, x, t_B, text_BLD, context={SIDE**2: some.reshape(2 * T, -1)}
    )
  )(x_BHWC)
  np.testing.assert_allclose(seen, expected, atol=1e-5)
  assert np.abs(seen - alone).max() > 1e-3
  # The second set does not see the first.
  other = run(x_BHWC.at[0].add(1.0), some)
  np.testing.assert_array_equal(seen[T:], other[T:])
  assert np.abs(seen[1] - other[1]).max() > 1e-4


def test_others_are_each_of_the_set_once():
  x_BSD = jnp.arange(6.0).reshape(6, 1, 1)
  found = np.asarray(others(x_BSD, together=3))[..., 0]
  assert [sorted(row) for row in found.tolist()] == [
    [1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4],
  ]  # fmt: skip
