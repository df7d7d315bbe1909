# SPDX-License-Identifier: Apache-2.0
"""The U-Net: configs, features, masks, adapters, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.models.unet import declare_unet
from suti.models.unet_blocks import MidBlock
from suti.models.unet_embeddings import Added
from suti.models.unet_layers import Condition, Level
from suti.nn.layers import Linear
from suti.nn.param import LECUN, ZEROS, Module, functional, init, without
from suti.nn.surgery import adapter
from tests.goldens.families.unet import CASES
from tests.goldens.unets import PUBLISHED

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


SIMPLE_MID = "UNetMidBlock2DSimpleCrossAttn"


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


@pytest.mark.parametrize(
  ("model", "size"),
  [
    ("stable-diffusion-v1-5", 859_520_964),
    ("stable-diffusion-2-1", 865_910_724),
    ("stable-diffusion-xl-base-1.0", 2_567_463_684),
    ("IF-I-XL-v1.0", 4.3e9),
    ("IF-I-L-v1.0", 0.9e9),
    ("IF-I-M-v1.0", 0.4e9),
    ("IF-II-L-v1.0", 1.2e9),
    ("IF-II-M-v1.0", 0.45e9),
  ],
)
def test_published_sizes(model, size):
  spec, _ = functional(declare_unet(PUBLISHED[model]))
  found = sum(p.size for p in spec.values())
  if isinstance(size, int):
    assert found == size
  else:  # rounded by the publisher, to one digit or two
    assert found == pytest.approx(size, rel=0.08)


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
  given = apply(params, *inputs, context=jnp.ones((2, 1, 1)))
  assert abs(given - expected).max() > 1e-4


def test_adapters_find_their_place_in_the_blocks_of_if():
  config, _ = CASES["unet_if1"]
  bare = declare_unet(config)
  made = adapter(bare, r"attentions", lambda _, b: Adapter(b.dim, LECUN))
  assert without(functional(made)[0], functional(bare)[0]).keys() == {
    f"{block}.adapter.out.weight"
    for block in (
      "down_blocks.1.attentions.0",
      "mid_block.attentions.0",
      "up_blocks.0.attentions.0",
      "up_blocks.0.attentions.1",
    )
  }


def test_adapters_in_the_blocks_of_if_need_a_context():
  module = MidBlock(LEVEL._replace(simple=True))
  made = adapter(module, r"attentions", lambda _, b: Adapter(b.dim, LECUN))
  (_, bare_apply), (spec, apply) = functional(module), functional(made)
  params = init(spec, jax.random.key(0))
  condition, x_BHWC = mid_block_inputs()
  expected = jax.jit(bare_apply)(params, x_BHWC, condition)
  apply = jax.jit(apply)
  np.testing.assert_array_equal(apply(params, x_BHWC, condition), expected)
  given = condition._replace(context=jnp.ones((2, 1, 1)))
  assert abs(apply(params, x_BHWC, given) - expected).max() > 1e-4
  given = condition._replace(context=jnp.zeros((2, 1, 1)))
  np.testing.assert_allclose(
    apply(params, x_BHWC, given), expected, rtol=1e-5, atol=1e-6
  )


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


@pytest.mark.parametrize("case", ["unet_sdxl", "unet_if1", "unet_if2"])
def test_parameters_alone_decide_the_dtype(case):
  config, shape = CASES[case]
  spec, apply = functional(declare_unet(config))
  width = config.get("encoder_hid_dim") or config["cross_attention_dim"]

  def struct(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)

  out = jax.eval_shape(
    lambda params, x, t, text, added: apply(params, x, t, text, added=added),
    {name: struct(p.shape, jnp.bfloat16) for name, p in spec.items()},
    struct(shape),
    struct((2,), jnp.int32),
    struct((2, 5, width)),
    Added(
      pooled_BD=struct((2, 6)) if case == "unet_sdxl" else None,
      time_ids_BI=struct((2, 6), jnp.int32) if case == "unet_sdxl" else None,
      class_labels_B=struct((2,), jnp.int32) if case == "unet_if2" else None,
    ),
  )
  assert out.dtype == jnp.bfloat16
  assert out.shape == (*shape[:3], config["out_channels"])


LEVEL = Level(
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


def mid_block_inputs():
  keys = jax.random.split(jax.random.key(0), 3)
  condition = Condition(
    time_BD=jax.random.normal(keys[0], (2, 8)),
    text_BLD=jax.random.normal(keys[1], (2, 3, 6)),
    text_mask=None,
    context=None,
  )
  return condition, jax.random.normal(keys[2], (2, 4, 4, 4))


def test_experts_side_by_side_equal_experts_alone():
  spec, apply = functional(MidBlock(LEVEL))
  condition, _ = mid_block_inputs()
  keys = jax.random.split(jax.random.key(1), 3)
  x_EBHWC = jax.random.normal(keys[0], (2, 2, 4, 4, 4))
  params_E = jax.vmap(lambda key: init(spec, key))(keys[1:])

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
      {"addition_embed_type": "text_image", "widths": 3},
      r"addition_embed_type='text_image', widths=3: known are",
    ),
    (
      {"addition_embed_type": "text_time", "addition_time_embed_dim": 8},
      "projection_class_embeddings_input_dim=None",
    ),
    ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim=None"),
    ({"class_embed_type": "projection"}, "class_embed_type='projection'"),
    ({"cross_attention_norm": "layer_norm"}, "cross_attention_norm="),
    ({"dual_cross_attention": True}, "dual_cross_attention=True"),
    ({"mid_block_type": "UNetMidBlock1D"}, "mid_block_type='UNetMidBlock1D'"),
    (
      {"transformer_layers_per_block": [[1], [2]]},
      r"transformer_layers_per_block=\[\[1\], \[2\]\]: known are",
    ),
    (
      {
        "transformer_layers_per_block": [1, [2]],
        "reverse_transformer_layers_per_block": [[1], 1],
      },
      r"per_block=\[1, \[2\]\], reverse_trans.*=\[\[1\], 1\]: known are",
    ),
    ({"transformer_layers_per_block": [1]}, r"per_block=\[1\]: known are"),
    ({"transformer_layers_per_block": [1, []]}, r"per_block=\[1, \[\]\]: kn"),
    ({"transformer_layers_per_block": None}, "per_block=None: known are"),
    ({"reverse_transformer_layers_per_block": []}, r"block=1, .*=\[\]: known"),
    ({"transformer_layers_per_block": "two"}, "per_block='two': known are"),
    ({"transformer_layers_per_block": [1, -1]}, r"per_block=\[1, -1\]: known"),
    (
      {"block_out_channels": [5, 8], "norm_num_groups": 1},
      r"block_out_channels\[0\]=5 of a U-Net must be even: half",
    ),
    (
      {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 7,
        "projection_class_embeddings_input_dim": 48,
      },
      "addition_time_embed_dim=7 of a U-Net must be even",
    ),
    ({"freq_shift": 2}, r"freq_shift=2 .* below 2, half of block_out_chann"),
    (
      {"mid_block_only_cross_attention": "yes"},
      "mid_block_only_cross_attention='yes'",
    ),
    ({"down_block_types": ["DownBlock2D"]}, "down_block_types="),
    ({"up_block_types": ["UpBlock2D", "KUpBlock2D"]}, "KUpBlock2D"),
    (
      {
        "attention_head_dim": [2, 2],
        "up_block_types": ["UpBlock2D", "SimpleCrossAttnUpBlock2D"],
      },
      r"attention_head_dim=\[2, 2\]",
    ),
    (
      {"attention_head_dim": 3, "mid_block_type": SIMPLE_MID},
      r"\(the width of a head\) does not divide block_out_channels\[1\]=8",
    ),
    (
      {"addition_embed_type": "text"},
      "addition_embed_type_num_heads=64 does not divide 6",
    ),
    ({"act_fn": "tanh"}, "act_fn='tanh'"),
    ({"attention_head_dim": 3}, r"does not divide block_out_channels\[1\]=8"),
    ({"norm_num_groups": 3}, "norm_num_groups=3 does not divide"),
  ],
)
def test_configs_that_are_not_supported_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    declare_unet(TINY | change)


def test_a_list_of_only_cross_attention_says_nothing_about_the_middle():
  config = CASES["unet_if2"][0]
  key = "mid_block.attentions.0.to_k.weight"
  for only_cross, has_key in ((True, False), ([True, True], True)):
    change = {"only_cross_attention": only_cross}
    spec, _ = functional(declare_unet(config | change))
    assert (key in spec) == has_key
    change["mid_block_only_cross_attention"] = has_key  # the other way round
    spec, _ = functional(declare_unet(config | change))
    assert (key in spec) != has_key
    assert "down_blocks.1.attentions.0.to_k.weight" not in spec


@pytest.mark.parametrize(
  ("case", "shape", "added", "message"),
  [
    (
      "unet_sd1",
      (8, 8, 4),
      Added(class_labels_B=np.zeros(1)),
      "with nothing, not class_labels_B",
    ),
    ("unet_sdxl", (8, 8, 4), None, "with pooled_BD, time_ids_BI, not nothing"),
    ("unet_if2", (8, 8, 6), None, "with class_labels_B, not nothing"),
    (
      "unet_sdxl",
      (8, 8, 4),
      Added(pooled_BD=np.zeros((1, 6)), time_ids_BI=np.zeros((1, 5))),
      "width 6 and added.time_ids_BI with 5 numbers make 26, .* needs 30",
    ),
    ("unet_if1", (8, 7, 3), None, "8x7 px: this U-Net needs multiples of 2 px"),
  ],
)
def test_inputs_that_a_net_does_not_take(case, shape, added, message):
  config, _ = CASES[case]
  spec, apply = functional(declare_unet(config))
  width = config.get("encoder_hid_dim") or config["cross_attention_dim"]
  inputs = (
    {name: jnp.empty(p.shape) for name, p in spec.items()},
    jnp.empty((1, *shape)),
    jnp.zeros(1, int),
    jnp.empty((1, 5, width)),
  )
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda *args: apply(*args, added=added), *inputs)
