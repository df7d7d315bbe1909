# SPDX-License-Identifier: Apache-2.0
"""Folders of models: which one a name means, and what one must hold."""

import shutil

import jax
import numpy as np
import pytest

from experts.farm.waves import describe_wave, wave_data
from suti.hf.find import PRETRAINED, find_model
from suti.io.files import read_json, write_json
from suti.pipeline import backbone, text_encoders
from tests.experts import inputs
from tests.pipeline import tiny_pipelines


@pytest.fixture(scope="module", params=["sdxl", "if1"])
def published(request, tmp_path_factory):
  """A folder of another family than Stable Diffusion's, and it opened."""
  place = tmp_path_factory.mktemp(request.param)
  folder = tiny_pipelines.write(request.param, place)
  return folder, backbone.load_backbone(folder)


def test_a_folder_is_never_taken_for_a_shipped_model(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine").mkdir()
  assert find_model("mine").resolve() == tmp_path / "mine"
  assert find_model(".").resolve() == tmp_path
  shipped = find_model("world_base")
  assert shipped == PRETRAINED / "world_base"


@pytest.mark.parametrize("part", ["unet", "scheduler", "text_encoder"])
def test_a_missing_part_is_named(tiny_backbone, tmp_path, part):
  folder = tmp_path / "base"
  shutil.copytree(tiny_backbone, folder)
  shutil.rmtree(folder / part)
  with pytest.raises(ValueError, match=f"has no {part}/"):
    backbone.load_backbone(folder)


def test_a_text_encoder_of_another_kind_is_named(tiny_backbone, tmp_path):
  folder = tmp_path / "base"
  shutil.copytree(tiny_backbone, folder)
  config = folder / "text_encoder" / "config.json"
  write_json(config, read_json(config) | {"model_type": "gpt2"})
  with pytest.raises(ValueError, match="is a gpt2: expected CLIPTextModel or"):
    backbone.load_backbone(folder)


def test_forgotten_texts_are_encoded_again(tiny_backbone, monkeypatch):
  texts = ["a dog", "a cat", "a red dog", "a dog"]
  before, *_ = text_encoders.open_text_encoders(tiny_backbone)(texts)
  monkeypatch.setattr(text_encoders, "_KEPT", 1)
  encode_text = text_encoders.open_text_encoders(tiny_backbone)
  for text, state_LD in zip(texts, before, strict=True):
    np.testing.assert_array_equal(encode_text([text]).states_BLD[0], state_LD)
  np.testing.assert_array_equal(encode_text(texts).states_BLD, before)


# --- What SDXL and IF have beside Stable Diffusion ---------------------------


def test_the_null_text_is_the_publishers(published):
  folder, opened = published
  conditioning, null = opened.encode_text([""]), opened.null_text()
  assert conditioning.keys() == null.keys()
  if "sdxl" in folder.name:
    for name in ("text_BLD", "pooled_BD"):
      assert conditioning[name].any() and not null[name].any()
    # Nothing of a text is said; of a size there is.
    np.testing.assert_array_equal(
      null["time_ids_BI"], conditioning["time_ids_BI"]
    )
    np.testing.assert_array_equal(null["time_ids_BI"], [[16, 16, 0, 0, 16, 16]])
  else:
    jax.tree.map(np.testing.assert_array_equal, null, conditioning)


def test_a_null_text_of_zeros_is_a_choice_of_the_folder(tmp_path):
  folder = tiny_pipelines.write("sdxl", tmp_path)
  index = read_json(folder / "model_index.json")
  index["force_zeros_for_empty_prompt"] = False
  write_json(folder / "model_index.json", index)
  opened = backbone.describe_backbone(folder)
  assert not opened.zero_null


def test_what_is_described_has_the_shapes_of_what_is_opened(
  published, tmp_path
):
  """Without weights and tokenizers: what a program is compiled for."""
  folder, opened = published
  bare = shutil.copytree(folder, tmp_path / "bare")
  for path in [*bare.rglob("*.safetensors"), *bare.glob("tokenizer*")]:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  described = backbone.describe_backbone(bare)

  def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), tree)

  assert shapes(described.params) == shapes(opened.params)
  assert shapes(described.codec.params) == shapes(opened.codec.params)
  assert shapes(described.null_text()) == shapes(opened.null_text())
  clusters = inputs.make_clusters(2, size_px=opened.size_px)
  data = wave_data(clusters, opened, num_pictures=5, seed=0)
  assert shapes(data) == shapes(
    describe_wave(described, num_experts=2, num_pictures=5)
  )


def test_texts_of_another_model_are_named(published, tmp_path):
  folder, _ = published
  other = shutil.copytree(folder, tmp_path / "other")
  config = read_json(other / "text_encoder" / "config.json")
  wider = {"d_model": 12} if "if1" in folder.name else {"hidden_size": 20}
  write_json(other / "text_encoder" / "config.json", config | wider)
  with pytest.raises(ValueError, match="does not go with these text encoders"):
    backbone.load_backbone(other)


def test_nets_of_another_use_are_refused_in_one_line(tmp_path):
  folder = tiny_pipelines.write("if2", tmp_path / "if2")
  with pytest.raises(ValueError) as caught:
    backbone.load_backbone(folder)
  assert str(caught.value) == (
    f"{folder / 'unet'} has class_embed_type='timestep', in_channels=6, "
    "out_channels=6: the stages train nets of text and pictures of 3 channels "
    "alone, as Stable Diffusion, SDXL and the first stage of IF are; nets that "
    "enlarge, inpaint or read depth are not."
  )


def test_pictures_are_encoded_alone_or_in_blocks(published, monkeypatch):
  _, opened = published
  (cluster,) = inputs.make_clusters(1, size_px=opened.size_px)
  whole = opened.encode_pictures(cluster.images)
  monkeypatch.setattr(backbone, "_PIXELS_PER_CALL", opened.size_px**2)
  alone = opened.encode_pictures(cluster.images)
  np.testing.assert_allclose(whole, alone, atol=1e-5)
  assert whole.shape == (len(cluster.images), *opened.latent_shape)


def test_encoders_kept_on_the_host_say_the_same(published):
  folder, opened = published
  host = text_encoders.open_text_encoders(folder, on_host=True)
  texts = ["a dog", "a red teapot"]
  jax.tree.map(np.testing.assert_array_equal, host(texts), opened.encode(texts))
