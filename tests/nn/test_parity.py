# SPDX-License-Identifier: Apache-2.0
"""Our layers against torch's, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.models import t5, unet_embeddings, unet_layers, vit_blocks
from suti.nn import layers
from suti.nn.attention import attend
from suti.nn.param import functional
from tests.goldens import drawing

pytestmark = [
  pytest.mark.parity,
  # Not our code: what torch and its friends warn about when imported.
  pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def torch():
  return pytest.importorskip("torch", reason="torch is not installed: [parity]")


@pytest.fixture(scope="module")
def diffusers():
  return pytest.importorskip(
    "diffusers", reason="diffusers is not installed: [parity]"
  )


def assert_equal_to(
  theirs, module, x, torch, *, images=False, keywords=None, condition=()
):
  """Draws both modules' parameters, calls both, compares values and dx.

  Args:
    theirs, module: the publisher's layer and ours.
    x: their common input, an image NHWC if `images`.
    torch: the library.
    images: whether theirs wants the channels first.
    keywords, condition: further arguments, theirs by name and ours in order.
  """
  spec, apply = functional(module)
  drawn = {
    name: drawing.draw(name, tuple(v.shape))
    for name, v in theirs.state_dict().items()
  }
  assert drawn.keys() == spec.keys()
  theirs.load_state_dict({k: torch.from_numpy(v) for k, v in drawn.items()})
  params = {}
  for name, p in spec.items():
    order = range(len(p.shape))
    if p.torch is not None:
      published, own = (side.split() for side in p.torch.split("->"))
      order = [published.index(letter) for letter in own]
    params[name] = jnp.asarray(np.transpose(drawn[name], tuple(order)))

  given = torch.from_numpy(x).requires_grad_(x.dtype == np.float32)
  keywords = {
    k: torch.from_numpy(np.array(v)) for k, v in (keywords or {}).items()
  }
  expected = theirs(given.permute(0, 3, 1, 2) if images else given, **keywords)
  if images:
    expected = expected.permute(0, 2, 3, 1)
  found = jax.jit(apply)(params, x, *condition)
  np.testing.assert_allclose(
    found, expected.detach().numpy(), rtol=1e-5, atol=1e-5
  )
  if x.dtype == np.float32:
    weight = drawing.draw("cotangent", tuple(expected.shape))
    (expected * torch.from_numpy(weight)).sum().backward()
    dx = jax.jit(
      jax.grad(lambda x: (apply(params, x, *condition) * weight).sum())
    )(x)
    np.testing.assert_allclose(dx, given.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias, torch):
  x = drawing.draw("x", (2, 5, 12))
  theirs = torch.nn.Linear(12, 7, bias=bias)
  assert_equal_to(theirs, layers.Linear(12, 7, bias=bias), x, torch)


@pytest.mark.parametrize(
  ("kernel", "stride", "padding"),
  [(3, 1, 1), (3, 2, 1), (1, 1, 0), (4, 4, 0), (5, 1, 2)],
)
def test_conv(kernel, stride, padding, torch):
  x = drawing.draw("x", (2, 9, 10, 6))
  theirs = torch.nn.Conv2d(6, 8, kernel, stride=stride, padding=padding)
  module = layers.Conv2d(6, 8, kernel, stride=stride, padding=padding)
  assert_equal_to(theirs, module, x, torch, images=True)


def test_group_norm(torch):
  # Not a small spread about a large mean: torch's own error is 1e-3 there.
  x = 1 + 20 * drawing.draw("x", (2, 5, 6, 12))
  theirs = torch.nn.GroupNorm(4, 12, eps=1e-6)
  module = layers.GroupNorm(4, 12, eps=1e-6)
  assert_equal_to(theirs, module, x, torch, images=True)


def test_layer_norm(torch):
  x = 3 + drawing.draw("x", (2, 5, 12))
  theirs = torch.nn.LayerNorm(12, eps=1e-5)
  assert_equal_to(theirs, layers.LayerNorm(12, eps=1e-5), x, torch)


def test_rms_norm(torch):
  x = 3 + drawing.draw("x", (2, 5, 12))
  theirs = torch.nn.RMSNorm(12, eps=1e-6)
  assert_equal_to(theirs, layers.RMSNorm(12, eps=1e-6), x, torch)


def test_embed(torch):
  ids = np.array([[0, 3, 3], [8, 1, 2]], np.int32)
  assert_equal_to(torch.nn.Embedding(9, 4), layers.Embed(9, 4), ids, torch)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "quick_gelu", "silu"])
def test_activations(name, torch):
  transformers = pytest.importorskip("transformers")
  x = np.linspace(-6, 6, 101, dtype=np.float32)
  expected = transformers.activations.ACT2FN[name](torch.from_numpy(x))
  np.testing.assert_allclose(
    layers.ACTIVATIONS[name](x), expected.numpy(), rtol=1e-5, atol=1e-6
  )


def test_attend(torch):
  q, k, v = (
    drawing.draw(n, (2, s, 3, 8)) for n, s in zip("qkv", (5, 7, 7), strict=True)
  )
  mask = np.array([[True] * 7, [True] * 3 + [False] * 4])
  expected = torch.nn.functional.scaled_dot_product_attention(
    *(torch.from_numpy(t).transpose(1, 2) for t in (q, k, v)),
    attn_mask=torch.from_numpy(mask)[:, None, None],
  )
  found = attend(*map(jnp.asarray, (q, k, v)), mask[:, None, None])
  np.testing.assert_allclose(
    found, expected.transpose(1, 2).numpy(), rtol=1e-5, atol=1e-5
  )


def test_attend_with_a_bias(torch):
  q, k, v = (
    drawing.draw(n, (2, s, 3, 8)) for n, s in zip("qkv", (5, 7, 7), strict=True)
  )
  bias = drawing.draw("bias", (1, 3, 5, 7))
  expected = torch.nn.functional.scaled_dot_product_attention(
    *(torch.from_numpy(t).transpose(1, 2) for t in (q, k, v)),
    attn_mask=torch.from_numpy(bias),
    scale=1.0,
  )
  found = attend(*map(jnp.asarray, (q, k, v)), bias=bias, scale=1.0)
  np.testing.assert_allclose(
    found, expected.transpose(1, 2).numpy(), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
  "size", [(37, 37), (16, 16), (14, 32), (40, 9), (1, 90)]
)
def test_positions_of_other_grids(antialias, size, torch):
  table = 4 * drawing.draw("table", (1, 1 + 37 * 37, 6))
  square = torch.from_numpy(table[:, 1:].reshape(1, 37, 37, 6))
  expected = torch.nn.functional.interpolate(
    square.permute(0, 3, 1, 2),
    size=size,
    mode="bicubic",
    align_corners=False,
    antialias=antialias,
  ).permute(0, 2, 3, 1)
  found = vit_blocks.embed(
    jnp.zeros((1, *size, 6)),
    jnp.zeros((1, 1, 6)),
    jnp.asarray(table),
    antialias=antialias,
  )
  np.testing.assert_array_equal(found[:, 0], table[:, 0])
  np.testing.assert_allclose(
    found[:, 1:], expected.reshape(1, -1, 6), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(
  ("num_buckets", "max_distance"), [(32, 128), (16, 64), (8, 20), (12, 100)]
)
def test_buckets_of_distances(num_buckets, max_distance, torch):
  transformers = pytest.importorskip("transformers")
  distance = np.arange(-600, 601)
  attention = transformers.models.t5.modeling_t5.T5Attention
  expected = attention._relative_position_bucket(
    torch.from_numpy(distance),
    num_buckets=num_buckets,
    max_distance=max_distance,
  )
  found = t5._bucket(
    distance, num_buckets=num_buckets, max_distance=max_distance
  )
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("flip", "shift"), [(True, 0), (False, 1)])
def test_time_frequencies(flip, shift, torch, diffusers):
  from diffusers.models.embeddings import get_timestep_embedding

  t = np.array([0, 1, 500, 999], np.int32)
  expected = get_timestep_embedding(
    torch.from_numpy(t), 16, flip_sin_to_cos=flip, downscale_freq_shift=shift
  )
  # float32 angles of up to 999 are known to 6e-5.
  np.testing.assert_allclose(
    unet_embeddings.time_frequencies(
      jnp.asarray(t), 16, flip=flip, shift=shift
    ),
    expected.numpy(),
    atol=1e-4,
  )


def test_gated_feed_forward(torch, diffusers):
  x = drawing.draw("x", (2, 5, 12))
  from diffusers.models.attention import FeedForward

  theirs = FeedForward(12, activation_fn="geglu")
  assert_equal_to(theirs.eval(), unet_layers._FeedForward(12), x, torch)


# IF's and SDXL's layers.
LEVEL = unet_layers.Level(
  dim=16,
  num_layers=1,
  attends=True,
  num_heads=4,
  num_transformers=0,
  text_dim=64,
  time_dim=10,
  num_groups=4,
  eps=1e-5,
  act="gelu",
  linear_projection=False,
  simple=True,
  text_norm=True,
  scale_shift=True,
  scale=1.4,
)


def make_condition(mask=None):
  """Both sides' condition: a time, a text and perhaps a mask."""
  time_BD = drawing.draw("time", (2, LEVEL.time_dim))
  text_BLD = drawing.draw("text", (2, 5, LEVEL.text_dim))
  mask = None if mask is None else mask[:, None, None]
  return unet_layers.Condition(time_BD, text_BLD, mask, None)


@pytest.mark.parametrize("resample", [None, "double", "halve"])
@pytest.mark.parametrize("skip_time_act", [False, True])
def test_resnet_that_the_time_scales(resample, skip_time_act, torch, diffusers):
  from diffusers.models.resnet import ResnetBlock2D

  theirs = ResnetBlock2D(
    in_channels=8,
    out_channels=16,
    temb_channels=10,
    groups=4,
    eps=1e-5,
    non_linearity="gelu",
    skip_time_act=skip_time_act,
    time_embedding_norm="scale_shift",
    output_scale_factor=1.4,
    up=resample == "double",
    down=resample == "halve",
  )
  module = unet_layers.ResNet(
    LEVEL._replace(skip_time_act=skip_time_act),
    d_in=8,
    resample=resample and getattr(unet_layers, resample),
  )
  assert_equal_to(
    theirs.eval(),
    module,
    drawing.draw("x", (2, 6, 8, 8)),
    torch,
    images=True,
    keywords={"temb": make_condition().time_BD},
    condition=(make_condition(),),
  )


@pytest.mark.parametrize(
  ("only_cross", "norm", "masked"),
  [(False, "group_norm", True), (False, None, False), (True, None, False)],
)
def test_attention_with_added_keys(only_cross, norm, masked, torch, diffusers):
  from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
  )

  theirs = Attention(
    query_dim=16,
    cross_attention_dim=16,
    heads=4,
    dim_head=4,
    added_kv_proj_dim=64,
    norm_num_groups=4,
    bias=True,
    upcast_softmax=True,
    only_cross_attention=only_cross,
    cross_attention_norm=norm,
    processor=AttnAddedKVProcessor(),
  )
  condition = make_condition(
    np.arange(5) < np.array([[5], [2]]) if masked else None
  )
  arguments = {"encoder_hidden_states": condition.text_BLD}
  if masked:  # what the publisher's U-Net makes of a mask
    bias = np.where(condition.text_mask, 0, -10_000).astype(np.float32)
    arguments["attention_mask"] = bias[:, 0]
  module = unet_layers.AddedAttention(
    LEVEL._replace(only_cross=only_cross, text_norm=norm is not None)
  )
  assert_equal_to(
    theirs.eval(),
    module,
    drawing.draw("x", (2, 3, 4, 16)),
    torch,
    images=True,
    keywords=arguments,
    condition=(condition,),
  )


def test_text_pooled_by_attention(torch, diffusers):
  from diffusers.models.embeddings import TextTimeEmbedding

  assert_equal_to(
    TextTimeEmbedding(12, 20, num_heads=3),
    unet_embeddings.TextEmbedding(12, 20, num_heads=3),
    drawing.draw("x", (2, 5, 12)),
    torch,
  )


def test_sizes_beside_a_pooled_text(torch, diffusers):
  from diffusers.models.embeddings import TimestepEmbedding, Timesteps

  class Theirs(TimestepEmbedding):
    def forward(self, pooled, sizes):
      freqs = Timesteps(4, True, 0)(sizes.flatten()).reshape(len(pooled), -1)
      return super().forward(torch.cat([pooled, freqs], dim=-1))

  sizes = np.array([[64, 48, 0], [0, 1, 7]], np.int32)
  assert_equal_to(
    Theirs(6 + 3 * 4, 20),
    unet_embeddings.SizeEmbedding(
      6 + 3 * 4, 20, size_dim=4, flip=True, shift=0
    ),
    drawing.draw("pooled", (2, 6)),
    torch,
    keywords={"sizes": sizes},
    condition=(sizes,),
  )
