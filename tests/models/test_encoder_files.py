# SPDX-License-Identifier: Apache-2.0
"""Files of the encoders as they are published, in every layout there is."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from suti.hf.layout import published_shape
from suti.hf.matching import rename
from suti.hf.weights import load, save
from suti.models import clip, dino, dinov2, t5
from suti.nn.param import functional, init
from tests.goldens import drawing
from tests.goldens.families import dino as dino_family
from tests.models.test_goldens import index

TOWER = {
  "vocab_size": 20,
  "hidden_size": 8,
  "intermediate_size": 12,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "image_size": 8,
  "patch_size": 4,
}
T5 = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2}


def drawn(module, folder):
  """A model's description, its parameters, and the tensors of its file."""
  spec, _ = functional(module)
  params = init(spec, jax.random.key(0))
  save(params, spec, folder / "drawn.safetensors")
  stored = safetensors.numpy.load_file(folder / "drawn.safetensors")
  return spec, params, stored


def assert_read(spec, params, stored, renames, folder):
  """That a file of these tensors is read as these parameters."""
  path = folder / "stored.safetensors"
  safetensors.numpy.save_file(stored, path)
  found = load(spec, path, renames=renames)
  assert found.keys() == params.keys()
  for name, value in params.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("prefix", ["", "text_model.", "vision_model."])
@pytest.mark.parametrize("projected", [True, False])
def test_a_lone_tower_of_clip_may_lack_its_prefix(tmp_path, prefix, projected):
  for module, renames, own in (
    (clip.declare_clip_text, clip.TEXT_RENAMES, "text_model."),
    (clip.declare_clip_vision, clip.VISION_RENAMES, "vision_model."),
  ):
    if prefix in ("", own):
      model = drawn(module(TOWER, projected=projected), tmp_path)
      spec, params, stored = model
      stored = {n.replace(own, prefix): value for n, value in stored.items()}
      # Older files have constants, too.
      stored[f"{prefix}embeddings.position_ids"] = np.arange(5)[None]
      assert_read(spec, params, stored, renames, tmp_path)


def hub_names(config):
  """Names in torch.hub's and timm's files, and the parts of one tensor."""
  yield "cls_token", ["embeddings.cls_token"]
  yield "pos_embed", ["embeddings.position_embeddings"]
  layers = {
    f"blocks.{i}.{theirs}": [f"encoder.layer.{i}.{name}" for name in names]
    for i in range(config.get("num_hidden_layers", 12))
    for theirs, names in {
      "norm1": ["layernorm_before"],
      "attn.qkv": [
        f"attention.attention.{x}" for x in ("query", "key", "value")
      ],
      "attn.proj": ["attention.output.dense"],
      "norm2": ["layernorm_after"],
      "mlp.fc1": ["intermediate.dense"],
      "mlp.fc2": ["output.dense"],
    }.items()
  }
  layers["patch_embed.proj"] = ["embeddings.patch_embeddings.projection"]
  layers["norm"] = ["layernorm"]
  for theirs, names in layers.items():
    for leaf in ("weight", "bias"):
      yield f"{theirs}.{leaf}", [f"{name}.{leaf}" for name in names]


def parts(stored):
  """What one stored name holds, by the table of the module."""
  return rename(stored, dino.RENAMES)


@pytest.mark.parametrize("model", ["dino-vits16", "dino-vitb8"])
def test_names_of_torch_hub_become_the_published_ones(model):
  config = dino_family.PUBLISHED[model]
  names = dict(hub_names(config))
  assert {name: parts(name) for name in names} == names
  found = [part for name in names for part in parts(name)]
  assert sorted(found) == sorted(index("dino")[model])
  # Names that are published already stay.
  assert all(parts(name) == [name] for name in index("dino")[model])


def test_torch_hub_and_hugging_face_layouts_are_one_model(tmp_path):
  config, _ = dino_family.CASES["dino"]
  spec, _ = functional(dino.declare_dino(config))
  weights = drawing.weights({n: published_shape(p) for n, p in spec.items()})
  hub = {
    theirs: np.concatenate([weights[name] for name in names])
    for theirs, names in hub_names(config)
  }
  # A pooler that nothing uses, and a head of the training.
  extra = {"pooler.dense.weight": np.ones(3), "head.weight": np.ones(3)}
  params = load_as_published(spec, weights, tmp_path)
  for stored in (weights | extra, hub):
    assert_read(spec, params, stored, dino.RENAMES, tmp_path)


def load_as_published(spec, weights, folder):
  safetensors.numpy.save_file(weights, folder / "published.safetensors")
  return load(spec, folder / "published.safetensors")


@pytest.mark.parametrize("registers", [True, False])
def test_dinov2_is_read_from_a_classifier_too(tmp_path, registers):
  kind = "dinov2_with_registers" if registers else "dinov2"
  module = dinov2.declare_dinov2(TOWER | {"model_type": kind})
  spec, params, stored = drawn(module, tmp_path)
  assert ("embeddings.register_tokens" in spec) == registers
  assert_read(spec, params, stored, dinov2.RENAMES, tmp_path)
  stored = {f"{kind}.{name}": value for name, value in stored.items()}
  stored["classifier.weight"] = np.ones((3, 16), np.float32)
  assert_read(spec, params, stored, dinov2.RENAMES, tmp_path)


def test_t5_is_read_with_its_table_twice_and_from_a_whole_model(tmp_path):
  spec, params, stored = drawn(t5.declare_t5(T5), tmp_path)
  assert_read(spec, params, stored, t5.RENAMES, tmp_path)
  stored["encoder.embed_tokens.weight"] = stored["shared.weight"]
  assert_read(spec, params, stored, t5.RENAMES, tmp_path)
  stored["decoder.embed_tokens.weight"] = stored["shared.weight"]
  stored["lm_head.weight"] = stored["shared.weight"]
  stored["decoder.final_layer_norm.weight"] = np.ones(8, np.float32)
  assert_read(spec, params, stored, t5.RENAMES, tmp_path)
