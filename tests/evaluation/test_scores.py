# SPDX-License-Identifier: Apache-2.0
"""The judges: every published encoder that papers judge by."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from suti.evaluation.scores import load_scorer, mean_over_pairs
from suti.hf.image_processor import make_pixel_reader
from suti.hf.tokenizer import load_tokenizer
from suti.hf.weights import load
from suti.io.files import read_json, write_json
from suti.models.clip import declare_clip
from suti.models.dino import declare_dino
from suti.models.dinov2 import declare_dinov2
from suti.nn.param import functional
from tests import tiny
from tests.hf.test_image_processor import PUBLISHED as PIXELS
from tests.hf.test_image_processor import picture, theirs
from tests.models.test_encoder_files import hub_names

TEXTS = ["a photo of a dog", "a red teapot in the snow", "a cat"]
PICTURES = [picture(30, 41), picture(20, 20), picture(33, 19)]
DINO = {
  "architectures": ["ViTModel"],
  "model_type": "vit",
  "hidden_size": 16,
  "intermediate_size": 32,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "image_size": 16,
  "patch_size": 8,
}
# A larger square of positions than pictures have, as the published ones.
DINOV2 = {
  "architectures": ["Dinov2Model"],
  "model_type": "dinov2",
  "hidden_size": 16,
  "mlp_ratio": 2,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "image_size": 24,
  "patch_size": 4,
}
REGISTERS = DINOV2 | {
  "architectures": ["Dinov2WithRegistersModel"],
  "model_type": "dinov2_with_registers",
  "num_register_tokens": 3,
}
BIT = PIXELS["dinov2-small"] | {
  "crop_size": {"height": 16, "width": 16},
  "size": {"shortest_edge": 18},
}
# Name -> config, declaration, how pictures are shown.
IDENTITIES = {
  "dino": (DINO, declare_dino, PIXELS["dino-vits16"] | {"size": 16}),
  "dinov2": (DINOV2, declare_dinov2, BIT),
  "dinov2 with registers": (REGISTERS, declare_dinov2, BIT),
}


def clip_like(patches: int, width: int):
  """The config of a CLIP of so many patches a side, and of its pictures."""
  vision = {"image_size": 4 * patches, "patch_size": 4, "hidden_size": width}
  config = tiny.CLIP | {"architectures": ["CLIPModel"]}
  config |= {"vision_config": tiny.CLIP["vision_config"] | vision}
  side = 4 * patches
  return config, PIXELS["clip-vit-base-patch32"] | {
    "size": side,
    "crop_size": side,
  }


# As ViT-B/32 and ViT-L/14 at 336 px differ: in patches, width and pixels.
CLIPS = {"small": clip_like(2, 16), "large": clip_like(5, 24)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Published folders of all kinds, by their names above."""
  root = tmp_path_factory.mktemp("judges")
  found = {
    name: tiny.write_encoder(root / name, config, pixels=pixels)
    for name, (config, _, pixels) in IDENTITIES.items()
  } | {
    name: tiny.write_clip(root / name, config=config, pixels=pixels)
    for name, (config, pixels) in CLIPS.items()
  }
  # The same DINO as torch.hub has it, the parts of its tensors joined.
  hub = tiny.write_encoder(
    root / "torch hub", DINO, pixels=IDENTITIES["dino"][2]
  )
  stored = safetensors.numpy.load_file(found["dino"] / "model.safetensors")
  safetensors.numpy.save_file(
    {
      theirs_name: np.concatenate([stored[name] for name in names])
      for theirs_name, names in hub_names(DINO)
    },
    hub / "model.safetensors",
  )
  return found | {"torch hub": hub}


@pytest.fixture(scope="module")
def scorer(folders):
  """Opens judges by their names, each once."""
  opened = {}

  def find(clip="small", identity="dino"):
    if (clip, identity) not in opened:
      opened[clip, identity] = load_scorer(
        clip=folders[clip], identity=folders[identity]
      )
    return opened[clip, identity]

  return find


def as_unit(x_BD):
  return x_BD / np.linalg.norm(x_BD, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_is_the_class_token_of_unit_length(name, folders, scorer):
  config, declare, pixels = IDENTITIES[name]
  spec, apply = functional(declare(config))
  params = load(spec, folders[name])
  tokens_BSD = apply(params, make_pixel_reader(pixels)(PICTURES))
  np.testing.assert_allclose(
    scorer(identity=name).identity(PICTURES),
    as_unit(tokens_BSD[:, 0]),
    atol=1e-6,
  )


def test_a_dino_of_torch_hub_is_the_one_of_hugging_face(scorer):
  np.testing.assert_array_equal(
    scorer(identity="torch hub").identity(PICTURES),
    scorer(identity="dino").identity(PICTURES),
  )


@pytest.mark.parametrize("name", CLIPS)
def test_clip_judges_pictures_and_texts(name, folders, scorer):
  config, pixels = CLIPS[name]
  spec, apply = functional(declare_clip(config))
  params = load(spec, folders[name])
  ids_BL = load_tokenizer(
    folders[name], max_length=tiny.TEXT["max_position_embeddings"]
  )(TEXTS)
  for found, given, method in (
    (
      scorer(clip=name).clip_images(PICTURES),
      make_pixel_reader(pixels)(PICTURES),
      "encode_image",
    ),
    (scorer(clip=name).clip_texts(TEXTS), jnp.asarray(ids_BL), "encode_text"),
  ):
    expected = apply(params, given, method=method)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_any_number_is_embedded_and_each_picture_alone(scorer):
  judges = scorer()
  many = [picture(20 + i, 30) for i in range(70)]
  for embed in (judges.clip_images, judges.identity):
    found = embed(many)
    assert len(found) == 70
    np.testing.assert_allclose(found[68:69], embed(many[68:69]), atol=1e-6)
    assert np.abs(found[0] - found[68]).max() > 1e-3


@pytest.mark.parametrize("which", ["clip", "identity"])
def test_a_judge_sees_pictures_as_its_folder_says(
  which, folders, scorer, tmp_path
):
  """Each its own: another mean in one file changes that judge alone."""
  source = folders["small" if which == "clip" else "dino"]
  other = tmp_path / "other"
  other.mkdir()
  for file in source.iterdir():
    (other / file.name).symlink_to(file)
  name = "preprocessor_config.json"
  (other / name).unlink()
  write_json(other / name, read_json(source / name) | {"image_mean": [0.9] * 3})
  both = {"clip": folders["small"], "identity": folders["dino"]}
  changed = load_scorer(**both | {which: other})
  for field in ("clip_images", "identity"):
    before, after = (getattr(x, field)(PICTURES) for x in (scorer(), changed))
    difference = np.abs(before - after).max()
    if field.startswith(which):
      assert difference > 1e-3
    else:
      assert difference == 0


@pytest.mark.parametrize(
  ("clip", "identity", "message"),
  [
    ("dino", "dino", r"config\.clip: .*dino is a ViTModel: expected CLIPModel"),
    (
      "small",
      "small",
      r"config\.identity: .*small is a CLIPModel: expected ViTModel or "
      r"Dinov2Model or Dinov2WithRegistersModel\.$",
    ),
    ("nothing", "dino", r"config\.clip: .* has no config\.json"),
    (
      "small",
      "blind",
      r"config\.identity: .* has no preprocessor_config\.json",
    ),
    ("small", "other", r"config\.identity: .* does not hold this model: "),
    ("mute", "dino", "No tokenizer in .*mute: expected tokenizer.json"),
    ("no/where", "dino", "No model '.*where': it is neither a folder nor"),
  ],
)
def test_what_is_no_judge_is_one_line(
  clip, identity, message, folders, tmp_path
):
  for name, source, absent in (
    ("nothing", "small", "config.json"),
    ("blind", "dino", "preprocessor_config.json"),
    ("other", "dino", ""),
    ("mute", "small", "tokenizer.json"),
  ):
    (tmp_path / name).mkdir()
    for file in folders[source].iterdir():
      if file.name != absent:
        (tmp_path / name / file.name).symlink_to(file)
  config = tmp_path / "other" / "config.json"
  config.unlink()
  write_json(config, DINO | {"hidden_size": 32})
  places = folders | {path.name: path for path in tmp_path.iterdir()}
  with pytest.raises(ValueError, match=message) as caught:
    load_scorer(
      clip=places.get(clip, tmp_path / clip), identity=places[identity]
    )
  assert "\n" not in str(caught.value)


# --- Against transformers ----------------------------------------------------


def their_pixels(folder):
  """Pictures as the publisher's processor of the folder has them."""
  import torch

  processor = theirs(read_json(folder / "preprocessor_config.json"))
  images = [Image.fromarray(image_u8) for image_u8 in PICTURES]
  pixels = processor(images, return_tensors="np")["pixel_values"]
  return torch.from_numpy(pixels)


def their_class_tokens(folder):
  import transformers

  name = read_json(folder / "config.json")["architectures"][0]
  options = {"add_pooling_layer": False} if name == "ViTModel" else {}
  model = getattr(transformers, name).from_pretrained(folder, **options)
  return model.eval()(their_pixels(folder)).last_hidden_state[:, 0].numpy()


def their_clip(folder):
  """Embeddings of the pictures and of the texts."""
  import transformers

  model = transformers.CLIPModel.from_pretrained(folder).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  ids = tokenizer(TEXTS, padding="max_length", return_tensors="pt")
  out = model(input_ids=ids["input_ids"], pixel_values=their_pixels(folder))
  return as_unit(out.image_embeds.numpy()), as_unit(out.text_embeds.numpy())


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("identity", IDENTITIES)
def test_scores_are_those_of_the_published_models(
  clip, identity, folders, scorer, record_property
):
  torch = pytest.importorskip("torch", reason="not installed: [parity]")
  with torch.no_grad():
    images_BD, texts_BD = their_clip(folders[clip])
    tokens_BD = as_unit(their_class_tokens(folders[identity]))
  judges = scorer(clip, identity)
  found = scores(
    judges.clip_images(PICTURES),
    judges.clip_texts(TEXTS),
    judges.identity(PICTURES),
  )
  expected = scores(images_BD, texts_BD, tokens_BD)
  error = max(abs(found[name] - expected[name]) for name in expected)
  record_property("largest_error", float(error))
  assert error < 1e-4


def scores(images_BD, texts_BD, tokens_BD):
  """Of the first picture as if it were drawn, the others being real."""
  return {
    "CLIP-T": np.sum(images_BD * texts_BD, axis=-1).mean(),
    "CLIP-I": mean_over_pairs(images_BD[:1], images_BD[1:]),
    "DINO": mean_over_pairs(tokens_BD[:1], tokens_BD[1:]),
  }
