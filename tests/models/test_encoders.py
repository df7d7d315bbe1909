# SPDX-License-Identifier: Apache-2.0
"""The encoders of texts and images: what they promise, what they refuse.

That they equal the publishers' is in test_goldens.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.models.clip import (
  declare_clip,
  declare_clip_text,
  declare_clip_vision,
)
from suti.models.dino import declare_dino
from suti.models.dinov2 import declare_dinov2
from suti.models.heads import declare_heads
from suti.models.t5 import declare_t5
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
DINOV2 = VISION | {"image_size": 16, "mlp_ratio": 2}
REGISTERS = DINOV2 | {
  "model_type": "dinov2_with_registers",
  "num_register_tokens": 3,
}
T5 = {
  "vocab_size": 20,
  "d_model": 8,
  "d_kv": 4,
  "d_ff": 12,
  "num_layers": 2,
  "num_heads": 2,
  "feed_forward_proj": "gated-gelu",
}
IDS = jnp.array([[1, 2, 3, 19, 0]])
IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))


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


def test_a_lone_tower_is_the_tower_of_the_whole(clip):
  params, apply = clip
  width = {"projection_dim": 5}
  texts, text = functional(declare_clip_text(TEXT | width, projected=True))
  images, image = functional(
    declare_clip_vision(VISION | width, projected=True)
  )
  assert {*texts, *images, "logit_scale"} == set(params)
  states = apply(params, IDS, method="text_states")
  np.testing.assert_allclose(text(params, IDS), states, rtol=1e-5)
  _, text_BD = text(params, IDS, method="penultimate_states_and_embedding")
  image_BD = image(params, IMAGES, method="embed_image")
  for embedding, given, whole in (
    (text_BD, IDS, "encode_text"),
    (image_BD, IMAGES, "encode_image"),
  ):
    expected = apply(params, given, method=whole)
    assert abs(jnp.linalg.norm(embedding, axis=-1) - 1).min() > 0.01
    np.testing.assert_allclose(
      embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True),
      expected,
      rtol=1e-4,
      atol=1e-5,
    )


def test_states_beside_an_embedding_are_those_without():
  config = TEXT | {"architectures": ["CLIPTextModelWithProjection"]}
  params, apply = ready(declare_clip_text(config))
  states, _ = apply(params, IDS, method="penultimate_states_and_embedding")
  np.testing.assert_array_equal(
    states, apply(params, IDS, method="penultimate_states")
  )


def test_logits_start_at_the_published_scale(clip):
  params, _ = clip
  scale = np.exp(params["logit_scale"])
  np.testing.assert_allclose(scale, 1 / 0.07, rtol=1e-3)


@pytest.mark.parametrize(
  "module",
  [declare_dino(VISION), declare_dinov2(DINOV2), declare_dinov2(REGISTERS)],
)
def test_any_size_is_taken_and_the_own_one_exactly(module):
  params, apply = ready(module)
  others = 1 + getattr(module, "num_registers", 0)
  images = jnp.tile(IMAGES, (1, 2, 2, 1))
  assert apply(params, images).shape == (2, others + 16, 8)
  assert apply(params, images[:, :, :10]).shape == (2, others + 8, 8)
  # A table that is the same everywhere is the same at every size.
  name = "embeddings.position_embeddings"
  flat = params | {name: jnp.ones_like(params[name])}
  for tiles in (3, 7):
    same = jnp.tile(IMAGES[:1, :4, :4], (1, tiles, 1, 1))
    found = apply(flat, same)[0, others:]
    np.testing.assert_allclose(
      found,
      jnp.broadcast_to(found[0], (tiles, 8)),
      rtol=1e-4,
      atol=1e-5,
    )


def test_registers_are_neither_class_nor_patches():
  params, apply = ready(declare_dinov2(REGISTERS))
  tokens = apply(params, IMAGES)
  embedding, patches = apply(params, IMAGES, method="encode")
  np.testing.assert_array_equal(embedding, tokens[:, 0])
  np.testing.assert_array_equal(patches, tokens[:, 4:])
  moved = params | {
    "embeddings.register_tokens": -params["embeddings.register_tokens"]
  }
  assert abs(apply(moved, IMAGES)[:, 1:4] - tokens[:, 1:4]).max() > 0.1


def test_padding_does_not_change_a_text():
  params, apply = ready(declare_t5(T5))
  short = apply(params, IDS[:, :3])
  mask = jnp.arange(5)[None] < 3
  for padding in (0, 7):
    ids = IDS.at[:, 3:].set(padding)
    np.testing.assert_allclose(
      apply(params, ids, mask)[:, :3], short, rtol=1e-5, atol=1e-6
    )
  assert abs(apply(params, IDS)[:, :3] - short).max() > 1e-3


def test_texts_of_t5_depend_on_the_order_of_tokens():
  params, apply = ready(declare_t5(T5))
  there, back = apply(params, IDS), apply(params, IDS[:, ::-1])[:, ::-1]
  assert abs(there - back).max() > 1e-3
  # Without biases it is the same set of tokens.
  name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  flat = params | {name: jnp.ones_like(params[name])}
  np.testing.assert_allclose(
    apply(flat, IDS),
    apply(flat, IDS[:, ::-1])[:, ::-1],
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize(
  ("declare", "config", "given"),
  [
    (declare_clip_text, TEXT, IDS),
    (declare_clip_vision, VISION, IMAGES),
    (declare_dino, VISION, IMAGES),
    (declare_dinov2, DINOV2 | {"use_swiglu_ffn": True}, IMAGES),
    (declare_dinov2, REGISTERS, IMAGES),
    (declare_t5, T5, IDS),
  ],
)
def test_bfloat16_parameters_compute_in_bfloat16(declare, config, given):
  params, apply = ready(declare(config))
  half = {name: value.astype(jnp.bfloat16) for name, value in params.items()}
  found = apply(half, given)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    found.astype(jnp.float32), apply(params, given), rtol=0.1, atol=0.1
  )


def test_configs_of_a_tower_are_found_in_all_published_places():
  def act_of(module):
    return module.text_model.encoder.layers[0].mlp.act

  text = CLIP["text_config"] | {"hidden_act": "gelu"}
  both = CLIP | {"text_config": text}
  assert act_of(declare_clip(both)) == "gelu"
  old = text | {"hidden_act": "relu"}
  assert act_of(declare_clip(both | {"text_config_dict": old})) == "relu"
  del old["hidden_act"]  # all of it counts, what it does not say too
  assert act_of(declare_clip(both | {"text_config_dict": old})) == "quick_gelu"
  assert act_of(declare_clip_text(both | {"model_type": "clip"})) == "gelu"


def test_t5_reads_its_activation_where_it_is_written_out():
  config = T5 | {"feed_forward_proj": "gated-gelu"}

  def layer_of(more):
    block = declare_t5(config | more).encoder.block[0]
    return block.layer[1].DenseReluDense

  assert (layer_of({}).act, hasattr(layer_of({}), "wi_0")) == ("gelu_new", True)
  more = {"dense_act_fn": "gelu", "is_gated_act": False}
  assert (layer_of(more).act, hasattr(layer_of(more), "wi")) == ("gelu", True)


@pytest.mark.parametrize(
  ("operate", "message"),
  [
    (
      lambda: declare_clip(CLIP | {"text_config": {"hidden_act": "sin"}}),
      "hidden_act='sin' of CLIP",
    ),
    (lambda: declare_dino({"hidden_act": "sin"}), "hidden_act='sin' of a ViT"),
    (lambda: declare_dinov2({"hidden_act": "sin"}), "'sin' of DINOv2 is not"),
    (
      lambda: declare_t5({"dense_act_fn": "sin"}),
      "dense_act_fn='sin' of T5 is not one of gelu, ",
    ),
    (
      lambda: declare_t5({"quantization_config": {"bits": 8}}),
      r"quantization_config=\{'bits': 8\} of T5 is not supported: fetch the we",
    ),
    (
      lambda: declare_clip_text({"use_attention_mask": True}),
      "use_attention_mask=True of CLIP is not supported",
    ),
    (
      lambda: declare_t5({"relative_attention_num_buckets": 3}),
      "relative_attention_num_buckets=3 of T5 must be from 4, and a quarter",
    ),
    (
      lambda: declare_t5({"relative_attention_max_distance": 8}),
      "buckets=32 of T5 must be .* below relative_attention_max_distance=8",
    ),
    (
      lambda: declare_heads({"hidden_size": 8, "heads": {"class": "many"}}),
      r"hidden_size=8 and heads=\{'class': 'many'\} of heads must be a width",
    ),
    (lambda: declare_heads({}), "hidden_size=None and heads=None of heads"),
    (
      lambda: declare_t5({"feed_forward_proj": "gated-sin"}),
      "feed_forward_proj='gated-sin' of T5 is not .* after 'gated-'",
    ),
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


@pytest.mark.parametrize(
  ("declare", "given", "method", "what"),
  [
    (
      declare_clip_text,
      IDS,
      "penultimate_states_and_embedding",
      "text encoder .* CLIPTextModelWith",
    ),
    (
      declare_clip_vision,
      IMAGES,
      "embed_image",
      "image .* CLIPVisionModelWith",
    ),
  ],
)
def test_an_embedding_needs_a_projection(declare, given, method, what):
  config = TEXT if declare is declare_clip_text else VISION
  params, apply = ready(declare(config))
  with pytest.raises(ValueError, match=f"{what}Projection in the arch"):
    apply(params, given, method=method)
