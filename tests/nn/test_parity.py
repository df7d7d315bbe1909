# SPDX-License-Identifier: Apache-2.0
"""Our layers against torch's, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.models import unet, unet_layers
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


def assert_equal_to(theirs, module, x, torch, *, images=False):
  """Draws both modules' parameters, calls both, compares values and dx."""
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
  expected = theirs(given.permute(0, 3, 1, 2) if images else given)
  if images:
    expected = expected.permute(0, 2, 3, 1)
  found = jax.jit(apply)(params, x)
  np.testing.assert_allclose(
    found, expected.detach().numpy(), rtol=1e-5, atol=1e-5
  )
  if x.dtype == np.float32:
    weight = drawing.draw("cotangent", tuple(expected.shape))
    (expected * torch.from_numpy(weight)).sum().backward()
    dx = jax.jit(jax.grad(lambda x: (apply(params, x) * weight).sum()))(x)
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


@pytest.mark.parametrize(("flip", "shift"), [(True, 0), (False, 1)])
def test_time_frequencies(flip, shift, torch, diffusers):
  from diffusers.models.embeddings import get_timestep_embedding

  t = np.array([0, 1, 500, 999], np.int32)
  expected = get_timestep_embedding(
    torch.from_numpy(t), 16, flip_sin_to_cos=flip, downscale_freq_shift=shift
  )
  # float32 angles of up to 999 are known to 6e-5.
  np.testing.assert_allclose(
    unet.time_frequencies(jnp.asarray(t), 16, flip=flip, shift=shift),
    expected.numpy(),
    atol=1e-4,
  )


def test_gated_feed_forward(torch, diffusers):
  x = drawing.draw("x", (2, 5, 12))
  from diffusers.models.attention import FeedForward

  theirs = FeedForward(12, activation_fn="geglu")
  assert_equal_to(theirs.eval(), unet_layers._FeedForward(12), x, torch)
