# SPDX-License-Identifier: Apache-2.0
"""Demonstration attention: a set, masked, silent when there is nothing."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from apprentice.methods import suti
from suti.models.unet import declare_unet
from suti.nn.notes import listening
from suti.nn.param import functional, init
from suti.nn.surgery import listen

# B batch, K demonstrations, H W C latent, L text tokens, D width.

B, K, SIDE, C, L, D = 2, 3, 4, 6, 5, 8
UNET = {
  "in_channels": C,
  "out_channels": C,
  "block_out_channels": (8, 16),
  "layers_per_block": 1,
  "down_block_types": ("CrossAttnDownBlock2D",) * 2,
  "up_block_types": ("CrossAttnUpBlock2D",) * 2,
  "norm_num_groups": 4,
  "cross_attention_dim": D,
  "attention_head_dim": 2,
}
CONFIG = {
  "sites": r"transformer_blocks\.\d+$",
  "features": "encoder",
  "positions": False,
  "num_heads": 2,
  "feed_forward": 0,
  "encoder_gradient": True,
}


def declare(**config):
  """A declared apprentice over a tiny U-Net: (backbone, spec, apply)."""
  backbone = types.SimpleNamespace(unet=declare_unet(UNET), unet_config=UNET)
  module = suti.declare(backbone, ConfigDict(CONFIG | config))
  return backbone, *functional(module)


def draw_params(spec):
  """Random parameters, as after training; NumPy compiles nothing."""
  rng = np.random.default_rng(1)
  return {
    name: rng.normal(size=p.shape, scale=0.3).astype(np.float32)
    for name, p in spec.items()
  }


@pytest.fixture(
  scope="module",
  params=[("encoder", False), ("self_attention", False), ("encoder", True)],
  ids=["encoder", "self_attention", "positions"],
)
def model(request):
  """Jitted encode and denoise; new layers' outputs are not zero any more."""
  features, positions = request.param
  backbone, spec, apply = declare(features=features, positions=positions)
  params = draw_params(spec)
  encode = jax.jit(lambda params, batch: suti.encode(apply, params, batch))
  denoise = jax.jit(
    lambda params, x, t, text, context: suti.METHOD.denoise(
      apply, params, x, t, text, context
    )
  )
  return types.SimpleNamespace(
    features=features,
    backbone=backbone,
    spec=spec,
    apply=apply,
    params=params,
    encode=encode,
    denoise=denoise,
  )


def draw_inputs(num=K):
  """(x, t, text) of the target and the batch of `num` demonstrations."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  target = (
    normal(B, SIDE, SIDE, C),
    np.asarray([7, 600], np.int32),
    {"text_BLD": normal(B, L, D)},
  )
  batch = {
    "demonstrations": normal(B, num, SIDE, SIDE, C),
    "demonstration_mask": np.ones((B, num), bool),
    "demonstration_text": {"text_BLD": normal(B, num, L, D)},
  }
  return target, batch


def predict(model, target, batch):
  return np.asarray(
    model.denoise(model.params, *target, model.encode(model.params, batch))
  )


def test_adapters_stand_where_the_sites_say(model):
  base, _ = functional(model.backbone.unet)
  new = {name.split(".adapter.")[0] for name in model.spec if name not in base}
  assert new == {
    "down_blocks.0.attentions.0.transformer_blocks.0",
    "down_blocks.1.attentions.0.transformer_blocks.0",
    "mid_block.attentions.0.transformer_blocks.0",
    *(
      f"up_blocks.{i}.attentions.{j}.transformer_blocks.0"
      for i in range(2)
      for j in range(2)
    ),
  }
  _, spec, _ = declare(sites=r"mid_block.*transformer_blocks")
  assert {n for n in spec if ".adapter." in n} == {
    f"mid_block.attentions.0.transformer_blocks.0.adapter.{leaf}"
    for leaf in (
      "norm.weight",
      "norm.bias",
      "source_norms.0.weight",
      "source_norms.0.bias",
      "to_q.weight",
      "to_k.0.weight",
      "to_v.0.weight",
      "to_out.weight",
    )
  }


def test_an_up_block_reads_every_feature_of_its_resolution():
  path = "up_blocks.{}.attentions.0.transformer_blocks.0.adapter.to_k"
  _, spec, _ = declare()
  shapes = {n: p.shape for n, p in spec.items() if ".to_k." in n}
  # down_blocks.1 and mid_block at the lowest resolution, then down_blocks.0.
  assert shapes[path.format(0) + ".0.weight"] == (16, 16)
  assert shapes[path.format(0) + ".1.weight"] == (16, 16)
  assert shapes[path.format(1) + ".0.weight"] == (8, 8)
  assert path.format(1) + ".1.weight" not in shapes


def test_demonstrations_matter_to_their_own_row_alone(model):
  target, batch = draw_inputs()
  before = predict(model, target, batch)
  batch["demonstrations"][0, 1] += 1.0
  after = predict(model, target, batch)
  assert np.abs(after[0] - before[0]).max() > 1e-4
  np.testing.assert_array_equal(after[1], before[1])


def test_captions_matter(model):
  target, batch = draw_inputs()
  before = predict(model, target, batch)
  batch["demonstration_text"]["text_BLD"][0, 0] += 1.0
  assert np.abs(predict(model, target, batch)[0] - before[0]).max() > 1e-5


def test_order_does_not_matter(model):
  target, batch = draw_inputs()
  order = np.asarray([2, 0, 1])
  shuffled = jax.tree.map(lambda x: x[:, order], batch)
  np.testing.assert_allclose(
    predict(model, target, batch), predict(model, target, shuffled), atol=2e-6
  )


def test_what_is_masked_does_not_matter(model):
  target, batch = draw_inputs()
  batch["demonstration_mask"][:, 2] = False
  masked = predict(model, target, batch)
  # Whatever is in the place of a missing demonstration, to the last bit.
  batch["demonstrations"][:, 2] = 9.0
  batch["demonstration_text"]["text_BLD"][:, 2] = -9.0
  np.testing.assert_array_equal(predict(model, target, batch), masked)
  # And as if the place were not there.
  shorter = jax.tree.map(lambda x: x[:, :2], batch)
  np.testing.assert_allclose(predict(model, target, shorter), masked, atol=2e-6)


@pytest.fixture(scope="module", params=[0, 4], ids=["attention", "and ff"])
def alone(request):
  """One new layer by itself: (spec, output of (params, mask))."""
  layer = suti.DemonstrationAttention(
    8,
    site="here",
    sources={"a": 8, "b": 16},
    num_heads=2,
    feed_forward=request.param,
  )
  spec, apply = functional(layer)
  rng = np.random.default_rng(2)
  features = {
    name: rng.normal(size=(B * K, 2, 2, width)).astype(np.float32)
    for name, width in (("a", 8), ("b", 16))
  }
  x_BSD = rng.normal(size=(B, 4, 8)).astype(np.float32)

  @jax.jit
  def run(params, mask_BK):
    sites = {"here": apply(params, features, num=K, method="project")}
    return apply(params, x_BSD, {"sites": sites, "mask": mask_BK})

  return spec, run


def test_nothing_shown_adds_exactly_nothing(alone):
  """Even after training: no bias behind the attention, a mask on the rest."""
  spec, run = alone
  params = draw_params(spec)
  mask = np.asarray([[True, False, True], [False, False, False]])
  y_BSD = np.asarray(run(params, mask))
  assert y_BSD[0].any()
  assert not y_BSD[1].any()


def test_an_untrained_layer_adds_exactly_nothing(alone):
  spec, run = alone
  params = init(spec, jax.random.key(0))
  assert not np.asarray(run(params, np.ones((B, K), bool))).any()


def test_nothing_shown_teaches_nothing_and_harms_nothing(alone):
  spec, run = alone
  params = draw_params(spec)

  def loss(params, mask):
    return jnp.square(run(params, mask) - 1.0).mean()

  grad = jax.jit(jax.grad(loss))
  for value in grad(params, np.zeros((B, K), bool)).values():
    assert not np.asarray(value).any()
  for name, value in grad(params, np.ones((B, K), bool)).items():
    assert np.isfinite(value).all() and np.asarray(value).any(), name


@pytest.mark.parametrize("how", ["no demonstration", "all masked"])
def test_a_model_shown_nothing_is_its_base(model, how):
  target, batch = draw_inputs(num=0 if how == "no demonstration" else K)
  batch["demonstration_mask"][:] = False
  context = model.encode(model.params, batch)
  assert (context is None) == (how == "no demonstration")
  ours = model.denoise(model.params, *target, context)
  np.testing.assert_allclose(ours, base_of(model, target), atol=1e-5)


def base_of(model, target):
  _, apply = functional(model.backbone.unet)
  x, t, text = target
  return jax.jit(apply)(model.params, x, t, **text)


def test_keys_and_values_are_made_once_an_image(model):
  """A context is enough to denoise at any step; nothing is encoded again."""
  target, batch = draw_inputs()
  context = model.encode(model.params, batch)
  assert set(context) == {"mask", "sites"}
  k_BLND, v_BLND = context["sites"][
    "up_blocks.0.attentions.0.transformer_blocks.0"
  ]
  # Of 2 x 2 positions; the middle lies at this resolution too.
  sources = {"encoder": 2, "self_attention": 1}[model.features]
  tokens = sources * K * (SIDE // 2) ** 2
  assert k_BLND.shape[:2] == v_BLND.shape[:2] == (B, tokens)

  def compute(params, x, t, text, batch):
    context = suti.encode(model.apply, params, batch)
    return suti.METHOD.denoise(model.apply, params, x, t, text, context)

  np.testing.assert_allclose(
    predict(model, target, batch),
    jax.jit(compute)(model.params, *target, batch),
    atol=2e-6,
  )


def test_a_layer_starts_with_the_keys_of_its_blocks_self_attention():
  """What the base sees of the demonstrations themselves, at step 0."""
  backbone, spec, apply = declare(features="self_attention")
  params = draw_params(spec)
  started = suti.start(
    ConfigDict(CONFIG | {"features": "self_attention"}), params
  )
  new = {name.partition(".adapter.")[2] for name in started}
  assert new == {
    *("norm.weight", "norm.bias"),
    *("to_q.weight", "to_k.0.weight", "to_v.0.weight"),
  }
  params |= started
  _, batch = draw_inputs()
  context = suti.encode(apply, params, batch)
  path = "up_blocks.1.attentions.1.transformer_blocks.0"

  _, base = functional(listen(backbone.unet, re.escape(path)))
  rows = jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[2:]),
    (batch["demonstrations"], batch["demonstration_text"]),
  )
  with listening() as notes:
    base(params, rows[0], np.zeros(B * K, np.int32), **rows[1])
  for made, name in zip(context["sites"][path], "kv", strict=True):
    want = notes[path] @ params[f"{path}.attn1.to_{name}.weight"]
    np.testing.assert_allclose(
      made.reshape(B * K, -1, 8), want, atol=1e-5, err_msg=name
    )


def test_weights_are_noted_for_who_listens(model):
  """Of all heads and places; what is masked has none."""
  target, batch = draw_inputs()
  batch["demonstration_mask"][0, 1:] = False
  context = suti.encode(model.apply, model.params, batch)
  x, t, text = target
  with listening() as notes:
    model.apply(model.params, x, t, **text, context=context)
  site = "up_blocks.1.attentions.0.transformer_blocks.0"
  weights_BNSL = np.asarray(notes[f"{site}.adapter"])
  assert weights_BNSL.shape[2:] == (SIDE**2, K * SIDE**2)
  np.testing.assert_allclose(weights_BNSL.sum(-1), 1.0, atol=1e-5)
  assert not weights_BNSL[0, :, :, SIDE**2 :].any()


def test_random_projections_start_as_they_are_drawn():
  _, spec, _ = declare()
  assert suti.start(ConfigDict(CONFIG), draw_params(spec)) == {}


def test_a_place_is_nearest_to_itself():
  """Queries and keys start alike: without content, one looks where one is."""
  config = CONFIG | {"positions": True}
  _, spec, _ = declare(positions=True)
  params = init(spec, jax.random.key(0))
  params |= suti.start(ConfigDict(config), params)
  site = "mid_block.attentions.0.transformer_blocks.0.adapter"
  place_q, place_k = (
    params[f"{site}.place_{x}.proj.weight"] for x in ("q", "k")
  )
  np.testing.assert_array_equal(place_q, place_k)
  place, apply = functional(suti._Place(64))
  weights = init(place, jax.random.key(1))
  at_SD = np.asarray(apply(weights, np.zeros((1, 16, 64), np.float32)))
  logits_SS = at_SD @ at_SD.T
  np.testing.assert_array_equal(logits_SS.argmax(-1), np.arange(16))
  corner, beside, across = logits_SS[0, [0, 1, 15]]
  assert corner > beside > across


@pytest.mark.parametrize(
  "kinds",
  [
    {"only_cross_attention": True},
    {
      "down_block_types": ("SimpleCrossAttnDownBlock2D",) * 2,
      "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 2,
      "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
      "cross_attention_dim": 32,
    },
  ],
  ids=["only cross", "IF"],
)
def test_without_a_self_attention_there_are_no_features_of_it(kinds):
  config = UNET | kinds
  backbone = types.SimpleNamespace(
    unet=declare_unet(config), unet_config=config
  )
  method = CONFIG | {"sites": "attentions", "features": "self_attention"}
  with pytest.raises(ValueError, match="has no attention of pixels alone; use"):
    suti.declare(backbone, ConfigDict(method))


def test_features_are_named():
  with pytest.raises(ValueError, match="features='both': expected one of enc"):
    declare(features="both")


def test_ten_demonstrations_do(model):
  target, batch = draw_inputs(num=10)
  assert np.isfinite(predict(model, target, batch)).all()


@pytest.mark.parametrize("encoder_gradient", [True, False])
def test_encoder_gradient_is_a_choice(encoder_gradient):
  """Whether the demonstrations' way through the encoder is learnt from."""
  _, spec, apply = declare(encoder_gradient=encoder_gradient)
  params = draw_params(spec)
  _, batch = draw_inputs()

  def loss(params):
    context = suti.encode(apply, params, batch)
    return sum(jnp.square(k).sum() for k, _ in context["sites"].values())

  grads = jax.jit(jax.grad(loss))(params)
  assert np.asarray(grads["conv_in.weight"]).any() == encoder_gradient
  site = "mid_block.attentions.0.transformer_blocks.0.adapter.to_k.0.weight"
  assert np.asarray(grads[site]).any()


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match=r"config\.method\.num_heads=3 does not"):
    declare(num_heads=3)


def test_a_feed_forward_is_as_wide_as_the_config_says():
  path = "mid_block.attentions.0.transformer_blocks.0.adapter.ff.up.weight"
  _, spec, _ = declare(feed_forward=4)
  assert spec[path].shape == (16, 64)
  assert not any(
    ".ff." in name.partition("adapter")[2] for name in declare()[1]
  )


@pytest.mark.parametrize("value", [-1, 2.0, True])
def test_a_feed_forward_is_an_integer(value):
  with pytest.raises(
    ValueError, match=rf"feed_forward={value}: expected an integer of at least"
  ):
    declare(feed_forward=value)


@pytest.mark.parametrize("name", CONFIG)
def test_a_field_that_is_missing_is_named(name):
  config = ConfigDict({k: v for k, v in CONFIG.items() if k != name})
  with pytest.raises(ValueError, match=rf"config\.method\.{name} is missing"):
    suti.declare(None, config)


def test_sites_must_exist():
  with pytest.raises(ValueError, match="matches no block"):
    declare(sites="attention_in_the_sky")
