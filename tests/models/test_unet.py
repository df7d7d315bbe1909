# SPDX-License-Identifier: Apache-2.0
"""The U-Net: configs, features, masks, adapters, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.models.unet import declare_unet
from suti.models.unet_blocks import MidBlock
from suti.models.unet_layers import Condition, Level
from suti.nn.layers import Linear
from suti.nn.param import LECUN, ZEROS, Module, functional, init, without
from suti.nn.surgery import adapter

TINY = {
  "in_channels": 3,
  "out_channels": 3,
  "block_out_channels": [4, 8],
  "layers_per_block": 1,
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
  "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
  "cross_attention_dim": 6,
  "attention_head_dim": 2,
  "norm_num_groups": 2,
}


class Adapter(Module):
  """Adds a projection of the context's mean."""

  def __init__(self, dim, start):
    self.out = Linear(dim, dim, bias=False, init=start)

  def __call__(self, x_BSD, context):
    return self.out(x_BSD * context)


@pytest.fixture(scope="module")
def inputs():
  keys = jax.random.split(jax.random.key(1), 2)
  x = jax.random.normal(keys[0], (2, 4, 4, 3))
  text = jax.random.normal(keys[1], (2, 5, 6))
  return x, jnp.array([3, 700]), text


@pytest.fixture(scope="module")
def tiny():
  """The bare net, and the same with an adapter in every transformer block."""
  bare = declare_unet(TINY)
  made = adapter(bare, "", lambda _, block: Adapter(block.dim, LECUN))
  spec, apply = functional(made)
  bare_spec, bare_apply = functional(bare)
  params = init(spec, jax.random.key(0))
  return bare_spec, jax.jit(bare_apply), spec, jax.jit(apply), params


def test_published_sizes():
  spec, _ = functional(declare_unet({"cross_attention_dim": 768}))
  assert len(spec) == 686
  assert sum(p.size for p in spec.values()) == 859_520_964


def test_adapters_leave_names_intact_and_need_a_context(tiny, inputs):
  bare_spec, bare_apply, spec, apply, params = tiny
  blocks = [
    f"{part}.attentions.{i}.transformer_blocks.0"
    for part, num in (
      ("down_blocks.1", 1),
      ("mid_block", 1),
      ("up_blocks.0", 2),
    )
    for i in range(num)
  ]
  assert without(spec, bare_spec).keys() == {
    f"{block}.adapter.out.weight" for block in blocks
  }
  expected = bare_apply(params, *inputs)
  assert expected.shape == inputs[0].shape
  np.testing.assert_array_equal(apply(params, *inputs), expected)
  told = apply(params, *inputs, context=jnp.ones((2, 1, 1)))
  assert abs(told - expected).max() > 1e-4


def test_zero_adapters_change_nothing(tiny, inputs):
  _, bare_apply, spec, apply, params = tiny
  zero = {
    name: ZEROS(jax.random.key(0), p.shape, jnp.float32)
    for name, p in spec.items()
    if ".adapter." in name
  }
  np.testing.assert_array_equal(
    apply(params | zero, *inputs, context=jnp.ones((2, 1, 1))),
    apply(params, *inputs, context=jnp.zeros((2, 1, 1))),
  )
  np.testing.assert_allclose(
    apply(params | zero, *inputs, context=jnp.ones((2, 1, 1))),
    bare_apply(params, *inputs),
    atol=1e-6,
  )


def test_a_masked_token_is_no_token_and_all_is_the_default(tiny, inputs):
  _, apply, _, _, params = tiny
  x, t, text = inputs
  mask = jnp.arange(5) < jnp.array([[2], [5]])
  found = apply(params, x, t, text.at[0, 2:].set(1e4), text_mask_BL=mask)
  np.testing.assert_allclose(
    found[0], apply(params, x, t, text[:, :2])[0], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    found[1], apply(params, *inputs)[1], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    apply(params, *inputs, text_mask_BL=jnp.ones_like(mask)),
    apply(params, *inputs),
    rtol=1e-5,
    atol=1e-6,
  )


def test_features_of_the_way_down(inputs):
  spec, apply = functional(declare_unet(TINY))
  shapes = jax.eval_shape(
    lambda params: apply(params, *inputs, method="encode"),
    {n: jax.ShapeDtypeStruct(p.shape, jnp.float32) for n, p in spec.items()},
  )
  assert {name: value.shape for name, value in shapes.items()} == {
    "down_blocks.0": (2, 4, 4, 4),
    "down_blocks.1": (2, 2, 2, 8),
    "mid_block": (2, 2, 2, 8),
  }


def test_bfloat16_parameters_compute_in_bfloat16(tiny, inputs):
  _, apply, _, _, params = tiny
  half = {name: v.astype(jnp.bfloat16) for name, v in params.items()}
  found = apply(half, *inputs)
  assert found.dtype == jnp.bfloat16
  exact = apply(params, *inputs)
  error = np.abs(found.astype(jnp.float32) - exact).max()
  assert error < 0.05 * np.abs(exact).max()


def test_experts_side_by_side_equal_experts_alone():
  level = Level(
    dim=4,
    num_layers=1,
    attends=True,
    num_heads=2,
    num_transformers=1,
    text_dim=6,
    time_dim=8,
    num_groups=2,
    eps=1e-5,
    act="silu",
    linear_projection=True,
  )
  spec, apply = functional(MidBlock(level, scale=1))
  keys = jax.random.split(jax.random.key(0), 5)
  condition = Condition(
    time_BD=jax.random.normal(keys[0], (2, 8)),
    text_BLD=jax.random.normal(keys[1], (2, 3, 6)),
    text_mask=None,
    context=None,
  )
  x_EBHWC = jax.random.normal(keys[2], (2, 2, 4, 4, 4))
  params_E = jax.vmap(lambda key: init(spec, key))(keys[3:])

  @jax.jit
  def gradient(params, x):
    return jax.grad(lambda p: jnp.square(apply(p, x, condition)).mean())(params)

  together = jax.jit(jax.vmap(gradient))(params_E, x_EBHWC)
  for e in range(2):
    expert = {name: value[e] for name, value in params_E.items()}
    alone = gradient(expert, x_EBHWC[e])
    for name, value in alone.items():
      np.testing.assert_allclose(
        together[name][e], value, rtol=1e-4, atol=1e-6, err_msg=name
      )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"addition_embed_type": "text_time", "widths": 3},
      r"addition_embed_type='text_time', widths=3: known are",
    ),
    ({"mid_block_type": None}, "mid_block_type=None"),
    ({"down_block_types": ["DownBlock2D"]}, "down_block_types="),
    (
      {"up_block_types": ["UpBlock2D", "SimpleCrossAttnUpBlock2D"]},
      "SimpleCrossAttnUpBlock2D",
    ),
    ({"act_fn": "tanh"}, "act_fn='tanh'"),
    ({"attention_head_dim": 3}, r"does not divide block_out_channels\[1\]=8"),
    ({"norm_num_groups": 3}, "norm_num_groups=3 does not divide"),
  ],
)
def test_configs_that_are_not_supported_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    declare_unet(TINY | change)
