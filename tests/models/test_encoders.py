# SPDX-License-Identifier: Apache-2.0
"""CLIP and DINO: what their outputs promise, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.models.clip import declare_clip, declare_clip_text
from suti.models.dino import declare_dino
from suti.nn.param import functional, init

TOWER = {
  "hidden_size": 8,
  "intermediate_size": 12,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
}
TEXT = TOWER | {
  "vocab_size": 20,
  "max_position_embeddings": 6,
  "eos_token_id": 19,
}
VISION = TOWER | {"image_size": 8, "patch_size": 4}
CLIP = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 5}


def ready(module):
  spec, apply = functional(module)
  return init(spec, jax.random.key(0)), jax.jit(apply, static_argnames="method")


@pytest.fixture(scope="module")
def clip():
  return ready(declare_clip(CLIP))


def test_embeddings_are_of_unit_length_in_float32(clip):
  params, apply = clip
  half = {name: value.astype(jnp.bfloat16) for name, value in params.items()}
  images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
  for given in (params, half):
    for found in (
      apply(given, images, method="encode_image"),
      apply(given, jnp.array([[1, 2, 19]]), method="encode_text"),
    ):
      assert found.dtype == jnp.float32
      assert found.shape[1] == 5
      np.testing.assert_allclose(jnp.linalg.norm(found, axis=-1), 1, rtol=1e-5)


def test_a_text_ends_at_its_first_end_token(clip):
  params, apply = clip
  ids = jnp.array([[1, 2, 19, 19, 19], [1, 2, 19, 7, 4]])
  found = apply(params, ids, method="encode_text")
  np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
  short = apply(params, ids[:1, :3], method="encode_text")
  np.testing.assert_allclose(found[:1], short, rtol=1e-5)
  other = apply(params, ids.at[0, 1].set(3), method="encode_text")
  assert abs(other[0] - found[0]).max() > 1e-3


def test_a_token_sees_none_after_it(clip):
  params, apply = clip
  ids = jnp.array([[1, 2, 3, 4, 19]])
  states = apply(params, ids, method="text_states")
  changed = apply(params, ids.at[0, 3].set(9), method="text_states")
  np.testing.assert_array_equal(states[:, :3], changed[:, :3])
  assert abs(states[:, 3:] - changed[:, 3:]).min(-1).max() > 0


def test_a_lone_text_encoder_is_the_tower_of_the_whole(clip):
  params, apply = clip
  spec, alone = functional(declare_clip_text(TEXT))
  assert set(spec) == {name for name in params if name.startswith("text_model")}
  ids = jnp.array([[1, 2, 19]])
  np.testing.assert_allclose(
    alone(params, ids), apply(params, ids, method="text_states"), rtol=1e-5
  )


def test_logits_start_at_the_published_scale(clip):
  params, apply = clip
  scale = apply(params, method="similarity_scale")
  np.testing.assert_allclose(scale, 1 / 0.07, rtol=1e-3)


def test_dino_takes_any_size_and_its_own_exactly():
  params, apply = ready(declare_dino(VISION))
  images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  assert apply(params, images).shape == (2, 1 + 4, 8)
  assert apply(params, images[:, :, :4]).shape == (2, 1 + 2, 8)
  # A table that is the same everywhere is the same at every size.
  name = "embeddings.position_embeddings"
  flat = params | {name: jnp.ones_like(params[name])}
  large = jnp.tile(images[:1, :4, :4], (1, 3, 3, 1))
  found = apply(flat, large)
  np.testing.assert_allclose(
    found[0, 1:], jnp.broadcast_to(found[0, 1], (9, 8)), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize(
  ("operate", "message"),
  [
    (
      lambda: declare_clip(CLIP | {"text_config": {"hidden_act": "sin"}}),
      "hidden_act='sin' of CLIP",
    ),
    (lambda: declare_dino({"hidden_act": "sin"}), "hidden_act='sin' of a ViT"),
  ],
)
def test_configs_that_are_refused(operate, message):
  with pytest.raises(ValueError, match=message):
    operate()


def test_inputs_that_are_refused(clip):
  params, apply = clip
  with pytest.raises(ValueError, match="images of 8 px, not 8x9"):
    apply(params, jnp.ones((1, 8, 9, 3)), method="encode_image")
  with pytest.raises(ValueError, match=r"7 tokens is longer than .* 6"):
    apply(params, jnp.ones((1, 7), int), method="text_states")
