# SPDX-License-Identifier: Apache-2.0
"""Text-to-image: equal to the published pipelines, and what is refused.

The publishers' pictures are stored (`tests/goldens/make_pipelines.py`); with
the marker `parity` they are sampled anew.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from suti.config.samplers import PUBLISHED
from suti.hf.convert import convert
from suti.hf.lora import load_lora
from suti.hf.lora_export import save_lora
from suti.hf.model import open_model
from suti.io.files import read_json, write_json
from suti.nn.param import functional, init, without
from suti.nn.surgery import lora, merge
from suti.pipeline import text_to_image
from suti.pipeline.backbone import describe_backbone, own_size
from suti.pipeline.codec import open_codec
from suti.pipeline.text_encoders import open_text_encoders
from tests.goldens import make_pipelines as goldens
from tests.pipeline import tiny_pipelines


@pytest.fixture(scope="module", params=tiny_pipelines.PIPELINES)
def pipeline(request, tmp_path_factory):
  """The name of a pipeline, and its folder."""
  folder = tmp_path_factory.mktemp(request.param)
  return request.param, tiny_pipelines.write(request.param, folder)


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
  """A stage of Stable Diffusion, and its text encoders."""
  folder = tiny_pipelines.write(
    "sd2", tmp_path_factory.mktemp("sd"), unet=tiny_pipelines.ONE_LEVEL["sd2"]
  )
  stage = text_to_image.open_cascade_stage(folder)
  return stage, open_text_encoders(folder, rows=4)


def draw(name, folder, *, change=None):
  stage = text_to_image.open_cascade_stage(folder, change=change)
  call = goldens.CALLS[name]
  text, null = text_to_image.encode_prompts(
    open_text_encoders(folder, rows=4, change=change),
    goldens.PROMPTS,
    negative=call.get("negative"),
    zero_null=stage.zero_null,
  )
  return text_to_image.draw(
    stage,
    text,
    null,
    seeds=goldens.SEEDS,
    size=call.get("size"),
    steps=goldens.STEPS,
    small_pm1=goldens.SMALL_PM1 if name == "if2" else None,
  )


def assert_alike(drawn, expected):
  # The whole range is 2; a step of an 8-bit picture is 0.008.
  drawn, expected = (np.clip(np.asarray(x), -1, 1) for x in (drawn, expected))
  np.testing.assert_allclose(drawn, expected, atol=1e-3)


# --- The publishers' pictures ------------------------------------------------


def test_pictures_are_the_publishers(pipeline):
  name, folder = pipeline
  stored = safetensors.numpy.load_file(goldens.FILE)
  np.testing.assert_allclose(
    goldens.noise(name)["start"],
    stored[f"{name}.noise"],
    atol=1e-6,
    err_msg="jax draws other numbers: run tests/goldens/make_pipelines.py",
  )
  assert_alike(draw(name, folder), stored[name])


@pytest.fixture
def publishers():
  for needed in ("torch", "diffusers", "accelerate", "peft"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: [parity]")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_a_converted_model_samples_in_its_publishers_pipeline(
  pipeline, publishers, tmp_path
):
  name, folder = pipeline
  out = tmp_path / "out"
  convert(folder, out, max_shard_bytes=20_000, complete=True)
  assert len(list((out / "unet").glob("*.safetensors"))) > 1
  assert_alike(draw(name, folder), goldens.theirs(name, out))


def low_rank(folder, path):
  """Writes a LoRA of a U-Net and a text encoder, as an expert of ours has."""
  updates = {}
  for part, pattern in (
    ("unet", r"attn\d\.to_(q|k|v|out\.0)$"),
    ("text_encoder", r"self_attn\.(q|v)_proj$"),
  ):
    model = open_model(folder / part)
    spec, _ = functional(lora(model.module, pattern, rank=2))
    new = init(without(spec, model.spec), jax.random.key(7))
    updates[part] = {
      name: x if "lora_A" in name else x + 0.3 for name, x in new.items()
    }
  save_lora(updates, path)
  return updates


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_an_expert_samples_the_same_with_peft(publishers, tmp_path):
  folder = tiny_pipelines.write("sd1", tmp_path / "sd1")
  file = tmp_path / "expert.safetensors"
  updates = low_rank(folder, file)

  def change(part, params):
    return merge(params, updates[part]) if part in updates else params

  ours = draw("sd1", folder, change=change)
  theirs = goldens.theirs(
    "sd1", folder, change=lambda p: p.load_lora_weights(str(file))
  )
  assert np.abs(np.asarray(ours - draw("sd1", folder))).max() > 0.1
  assert_alike(ours, theirs)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_an_expert_of_peft_samples_the_same_here(publishers, tmp_path):
  import peft
  import torch

  folder = tiny_pipelines.write("sd1", tmp_path / "sd1")

  def give_expert(pipeline):
    config = peft.LoraConfig(
      r=2,
      lora_alpha=3,
      target_modules=["to_q", "to_v"],
      init_lora_weights=False,
    )
    torch.manual_seed(0)
    pipeline.unet.add_adapter(config)
    pipeline.save_lora_weights(
      tmp_path / "expert",
      unet_lora_layers=peft.get_peft_model_state_dict(pipeline.unet),
      unet_lora_adapter_metadata=config.to_dict(),
    )

  theirs = goldens.theirs("sd1", folder, change=give_expert)
  spec = open_model(folder / "unet", weights=False).spec
  update = load_lora(tmp_path / "expert", {"unet": spec})["unet"]

  def change(part, params):
    return merge(params, update) if part == "unet" else params

  ours = draw("sd1", folder, change=change)
  assert np.abs(np.asarray(ours - draw("sd1", folder))).max() > 0.01
  assert_alike(ours, theirs)


# --- What is promised --------------------------------------------------------


def test_an_image_depends_on_its_seed_not_its_batch(sd):
  stage, encode = sd
  text, null = text_to_image.encode_prompts(encode, ["a dog", "a cat"])
  both = text_to_image.draw(stage, text, null, seeds=[5, 9], steps=2)
  row = jax.tree.map(lambda x: x[1:], (text, null))
  alone = text_to_image.draw(stage, *row, seeds=[9], steps=2)
  np.testing.assert_allclose(alone, both[1:], atol=1e-5)


@pytest.mark.parametrize("sampler", PUBLISHED)
def test_pieces_are_the_whole_with_every_sampler(sd, sampler):
  stage, encode = sd
  text, null = text_to_image.encode_prompts(encode, ["a dog"])
  seen = []

  def watch(pieces):
    for piece in pieces:
      seen.append(piece.num_evaluations)
      yield piece

  options = {"seeds": [1], "steps": 6, "sampler": sampler}
  whole = text_to_image.draw(stage, text, null, **options)
  pieces = text_to_image.draw(stage, text, null, **options, watch=watch)
  assert len(seen) > 1 and len(set(seen)) == 1
  # Two programs, which may round otherwise; other noise would be off by 0.1.
  np.testing.assert_allclose(pieces, whole, atol=1e-4)


def test_weights_guidance_and_plans_are_arguments_of_one_program(sd):
  stage, encode = sd
  text, null = text_to_image.encode_prompts(encode, ["a dog"])
  text_to_image.draw(stage, text, null, seeds=[1], steps=3, guidance=2.0)
  before = stage.advance._cache_size()
  for guidance, sampler in ((3.0, None), (7.5, "ddim")):
    text_to_image.draw(
      stage,
      text,
      null,
      seeds=[2],
      steps=3,
      guidance=guidance,
      sampler=sampler,
    )
  assert stage.advance._cache_size() == before


def test_without_guidance_the_net_is_called_once(sd):
  stage, encode = sd
  text, null = text_to_image.encode_prompts(encode, ["a dog"])
  other = jax.tree.map(np.zeros_like, null)
  one, *others = (
    text_to_image.draw(stage, text, x, seeds=[1], steps=2, guidance=weight)
    # 0 is what the cards of distilled models say.
    for x, weight in ((null, 1.0), (other, 1.0), (null, 0.0))
  )
  for drawn in others:
    np.testing.assert_array_equal(one, drawn)


def test_bfloat16_weights_sample_about_the_same(sd):
  stage, encode = sd
  half = text_to_image.open_cascade_stage(stage.folder, dtype=jnp.bfloat16)
  text, null = text_to_image.encode_prompts(encode, ["a dog"])
  options = {"seeds": [1], "steps": 3, "guidance": 2.0}
  exact = text_to_image.draw(stage, text, null, **options)
  drawn = text_to_image.draw(half, text, null, **options)
  assert drawn.dtype == jnp.float32
  assert 0 < np.abs(np.asarray(drawn - exact)).mean() < 0.05


def test_nets_of_2022_sample_at_the_size_they_were_trained_on(tmp_path):
  folder = tiny_pipelines.write("sd1", tmp_path)
  config = read_json(folder / "unet" / "config.json")
  codec = open_codec(folder)
  for version, said, size_px in (
    ("0.3.0", 32, 128),
    ("0.8.0.dev0", 96, 192),
    ("0.9.0", 32, 64),
    ("0.30.0", 32, 64),
  ):
    changed = {"_diffusers_version": version, "sample_size": said}
    write_json(folder / "unet" / "config.json", config | changed)
    unet = open_model(folder / "unet", weights=False)
    assert own_size(unet, codec) == size_px, version


def test_latents_are_normalised_as_the_pipeline_of_a_folder_does(
  tmp_path, capsys
):
  folder = tiny_pipelines.write("sd1", tmp_path)
  vae, index = folder / "vae" / "config.json", folder / "model_index.json"
  config, names = read_json(vae), read_json(index)
  bare = open_codec(folder)
  image_BHWC = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3))
  image_BHWC = image_BHWC.astype(np.float32)
  plain_BHWC = bare.encode(bare.params, image_BHWC) / 0.18215
  mean = np.array([-1.6, 0.9, 0.2, 3.0], np.float32)
  std = np.array([8.4, 5.8, 6.1, 4.4], np.float32)
  both = {"latents_mean": mean.tolist(), "latents_std": std.tolist()}
  scaled = plain_BHWC * 0.18215
  normal = (plain_BHWC - mean) / std * 0.18215
  shifted = (plain_BHWC - 0.1) * 0.18215
  for pipeline, conditioning, expected, said in (
    ("StableDiffusionPipeline", both, scaled, "latents_mean, latents_std are"),
    ("StableDiffusionPipeline", {"shift_factor": 0.1}, scaled, "shift_fa"),
    ("StableDiffusionXLPipeline", both, normal, ""),
    ("StableDiffusionXLPipeline", {"latents_std": [2.0] * 4}, scaled, "std is"),
    ("LatentDiffusion", both, normal, ""),
    ("LatentDiffusion", {"shift_factor": 0.1}, shifted, ""),
  ):
    write_json(vae, config | conditioning)
    write_json(index, names | {"_class_name": pipeline})
    codec = open_codec(folder)
    x_BHWC = codec.encode(codec.params, image_BHWC)
    np.testing.assert_allclose(x_BHWC, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
      codec.decode(codec.params, x_BHWC),
      bare.decode(bare.params, scaled),
      atol=1e-4,
    )
    heard = capsys.readouterr().err
    assert (said in heard and "passed over" in heard) if said else not heard
  for wrong, message in (
    (
      {"latents_mean": [0.1]},
      "latents_mean of .* has 1 numbers: it must have ",
    ),
    ({"latents_std": [1.0, 0, 1, 1]}, "latents_std of an autoencoder has a 0"),
    ({"latents_std": "one"}, "latents_std='one' of .* must be a list"),
  ):
    write_json(vae, config | both | wrong)
    with pytest.raises(ValueError, match=message):
      open_codec(folder)
  write_json(vae, config | both | {"shift_factor": 0.1})
  with pytest.raises(ValueError, match=r"shift_factor=0\.1 beside latents_me"):
    open_codec(folder)


# --- What is refused ---------------------------------------------------------


def test_a_part_that_is_missing_is_named(tmp_path):
  folder = tiny_pipelines.write("sdxl", tmp_path)
  (folder / "vae").rename(tmp_path / "elsewhere")
  line = f"{folder} has no folder 'vae', which its model_index.json names"
  with pytest.raises(ValueError, match=line):
    text_to_image.open_cascade_stage(folder)
  with pytest.raises(ValueError, match=line):
    describe_backbone(folder)
  index = read_json(folder / "model_index.json")
  write_json(folder / "model_index.json", index | {"vae": [None, None]})
  line = "has no vae/, and its U-Net has in_channels=4, as nets of latents have"
  with pytest.raises(ValueError, match=line):
    text_to_image.open_cascade_stage(folder)
  with pytest.raises(ValueError, match=line):
    describe_backbone(folder)
  (tmp_path / "elsewhere").rename(folder / "vae")
  (folder / "text_encoder_2").rename(tmp_path / "elsewhere")
  with pytest.raises(ValueError, match="has no folder 'text_encoder_2'"):
    describe_backbone(folder)


def test_what_does_not_fit_is_one_line(sd, tmp_path):
  stage, encode = sd
  text, null = text_to_image.encode_prompts(encode, ["a dog"])

  def refuse(message, **options):
    with pytest.raises(ValueError, match=message):
      text_to_image.draw(stage, text, null, seeds=[1], **options)

  refuse("size=15x16 is not of whole positions of 2 px", size=(16, 15))
  refuse("sampler='heun' is unknown: use one of ddim,", sampler="heun")
  refuse("takes a text alone", small_pm1=goldens.SMALL_PM1)
  folder = tiny_pipelines.write("sd1", tmp_path / "sd1")
  config = read_json(folder / "unet" / "config.json")
  shapes = {"in_channels": 9, "block_out_channels": [8, 16]}
  write_json(folder / "unet" / "config.json", config | shapes)
  with pytest.raises(ValueError, match=r"not hold this model|in_channels=9"):
    text_to_image.open_cascade_stage(folder)
