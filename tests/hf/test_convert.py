# SPDX-License-Identifier: Apache-2.0
"""Published folders written anew: the same numbers, current names, whole."""

import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from suti.hf import convert as module
from suti.hf.convert import LEFT_OUT, TEXTS, convert
from suti.hf.model import open_model
from suti.io.files import read_json, write_json
from suti.io.processes import this_process
from tests import tiny

MODELS = ("text_encoder", "unet", "vae")
UNET = "diffusion_pytorch_model.safetensors"
SMALL = 50_000  # bytes of a shard; the U-Net has 264 kB


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """A latent model that model_index.json says little of, as ours are."""
  return tiny.write_latent_backbone(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  """The same as its publisher's folders are, with much beside it."""
  folder = tiny.write_latent_backbone(tmp_path_factory.mktemp("published"))
  write_json(
    folder / "model_index.json",
    {
      "_class_name": "StableDiffusionPipeline",
      "_diffusers_version": "0.6.0",
      "feature_extractor": ["transformers", "CLIPImageProcessor"],
      "requires_safety_checker": True,
      "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
      "scheduler": ["diffusers", "DDIMScheduler"],
      "text_encoder": ["transformers", "CLIPTextModel"],
      "tokenizer": ["transformers", "CLIPTokenizer"],
      "unet": ["diffusers", "UNet2DConditionModel"],
      "vae": ["diffusers", "AutoencoderKL"],
    },
  )
  for name, text in (
    ("README.md", "# A card"),
    ("LICENSE", "A licence"),
    ("v1-5.ckpt", "a pickle"),
    ("tokenizer/special_tokens_map.json", "{}"),
    ("feature_extractor/preprocessor_config.json", "{}"),
    ("safety_checker/pytorch_model.bin", "a pickle"),
    ("unet/diffusion_pytorch_model.bin", "a pickle"),
    (".git/config", "of git"),
    ("samples/a.png", "a picture"),
    ("vae_1_0/config.json", "{}"),
  ):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
  # As published: its config is a CLIP's in all but the class.
  config = tiny.CLIP | {"architectures": ["StableDiffusionSafetyChecker"]}
  write_json(folder / "safety_checker" / "config.json", config)
  return folder


def contents(folder):
  """{path: bytes} of all files."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def copy(folder, to):
  shutil.copytree(folder, to)
  return to


def tensors(file):
  return safetensors.numpy.load_file(file)


def refusal(source, out, **options):
  with pytest.raises(ValueError) as error:
    convert(source, out, **options)
  text = str(error.value)
  assert "\n" not in text
  assert not out.exists()
  assert not list(out.parent.glob(f".{out.name}*")), "half of a folder is left"
  return text


# --- What comes out ----------------------------------------------------------


def test_a_folder_in_its_current_form_stays_as_it_is(plain, tmp_path):
  parts = convert(plain, tmp_path / "out")
  assert contents(tmp_path / "out") == contents(plain)
  found = {part.name: part for part in parts}
  unet = found["unet"]
  assert unet.kind == "UNet2DConditionModel"
  assert unet.num_parameters == sum(
    x.size for x in tensors(plain / "unet" / UNET).values()
  )
  assert (unet.num_files, unet.num_bytes) == (
    1,
    (plain / "unet" / UNET).stat().st_size,
  )
  tokenizer = found["tokenizer"]
  assert (tokenizer.kind, tokenizer.num_files) == (TEXTS, 2)


def test_what_is_read_is_kept_and_what_is_left_out_is_said(published, tmp_path):
  out = tmp_path / "out"
  kinds = {part.name: part.kind for part in convert(published, out)}
  left_out = {name for name, kind in kinds.items() if kind == LEFT_OUT}
  assert left_out == {"safety_checker", "samples", "vae_1_0"}
  assert kinds[""] == kinds["feature_extractor"] == TEXTS
  before = contents(published)
  after = contents(out)
  gone = {re.sub(r"/.*", "/", name) for name in before.keys() - after.keys()}
  assert gone == {
    ".git/",
    "safety_checker/",
    "samples/",
    "unet/",
    "v1-5.ckpt",
  } | {"vae_1_0/"}
  index = json.loads(after.pop("model_index.json"))
  assert all(after[name] == before[name] for name in after)
  index_then = read_json(published / "model_index.json")
  assert index == index_then | {"safety_checker": [None, None]}


def test_a_folder_without_an_index_gets_one(published, tmp_path):
  source = copy(published, tmp_path / "source")
  index_then = read_json(source / "model_index.json")
  for name in ("model_index.json", "vae_1_0"):
    path = source / name
    path.unlink() if path.is_file() else shutil.rmtree(path)
  parts = convert(source, tmp_path / "out")
  assert {part.name for part in parts if part.kind == LEFT_OUT} == {
    "feature_extractor",
    "safety_checker",
    "samples",
  }
  index = read_json(tmp_path / "out" / "model_index.json")
  parts = ("scheduler", "text_encoder", "unet", "vae")
  assert {n: index[n] for n in parts} == {n: index_then[n] for n in parts}
  assert index["_class_name"] == "StableDiffusionPipeline"
  assert index["tokenizer"] == ["transformers", "PreTrainedTokenizerFast"]
  assert index["requires_safety_checker"] is False
  again = convert(tmp_path / "out", tmp_path / "again")
  assert contents(tmp_path / "again") == contents(tmp_path / "out")
  assert not [part for part in again if part.kind == LEFT_OUT]


@pytest.mark.parametrize("write", [tiny.write_clip, tiny.write_encoder])
def test_a_lone_model(write, tmp_path):
  source = write(tmp_path / "source")
  (part,) = convert(source, tmp_path / "out")
  assert part.name == ""
  assert part.kind == open_model(source, weights=False).kind
  assert contents(tmp_path / "out") == contents(source)


def test_torch_hubs_names_become_the_published_ones(tmp_path):
  plain = tiny.write_encoder(tmp_path / "plain")
  source = copy(plain, tmp_path / "source")
  file = source / "model.safetensors"
  old = tensors(file)
  new = {}
  for name, value in old.items():
    for pattern, to in (
      (r"^embeddings\.cls_token$", "cls_token"),
      (r"^embeddings\.position_embeddings$", "pos_embed"),
      (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
      (r"^encoder\.layer", "blocks"),
      (r"layernorm_before", "norm1"),
      (r"layernorm_after", "norm2"),
      (r"attention\.output\.dense", "attn.proj"),
      (r"intermediate\.dense", "mlp.fc1"),
      (r"output\.dense", "mlp.fc2"),
      (r"^layernorm\.", "norm."),
    ):
      name = re.sub(pattern, to, name)
    new[name] = value
  for kind in ("weight", "bias"):
    layer = "blocks.0.attention.attention"
    qkv = [new.pop(f"{layer}.{x}.{kind}") for x in ("query", "key", "value")]
    new[f"blocks.0.attn.qkv.{kind}"] = np.concatenate(qkv)
  safetensors.numpy.save_file(new, file)
  convert(source, tmp_path / "out")
  assert contents(tmp_path / "out") == contents(plain)


def test_old_names_of_an_autoencoder_become_the_current_ones(plain, tmp_path):
  source = copy(plain, tmp_path / "source")
  file = source / "vae" / UNET
  attention = r"(\.attentions\.\d+)\."
  old = {}
  for name, value in tensors(file).items():
    for new, before in (
      ("to_q", "query"),
      ("to_k", "key"),
      ("to_v", "value"),
      (r"to_out\.0", "proj_attn"),
    ):
      name = re.sub(attention + new, rf"\1.{before}", name)
    old[name] = value
  assert any(".proj_attn." in name for name in old)
  safetensors.numpy.save_file(old, file)
  convert(source, tmp_path / "out")
  assert contents(tmp_path / "out") == contents(plain)


def test_variants_beside_the_plain_model_are_left_out(plain, tmp_path):
  source = copy(plain, tmp_path / "source")
  half = {
    k: v.astype(np.float16) for k, v in tensors(plain / "unet" / UNET).items()
  }
  safetensors.numpy.save_file(
    half, source / "unet" / "diffusion_pytorch_model.fp16.safetensors"
  )
  index = {"metadata": {}, "weight_map": {}}
  name = "diffusion_pytorch_model.safetensors.index.fp16.json"
  write_json(source / "unet" / name, index)
  convert(source, tmp_path / "out")
  assert contents(tmp_path / "out") == contents(plain)


def test_a_lone_variant_becomes_the_plain_model(plain, tmp_path):
  source = copy(plain, tmp_path / "source")
  (source / "unet" / UNET).rename(
    source / "unet" / "diffusion_pytorch_model.fp16.safetensors"
  )
  convert(source, tmp_path / "out")
  assert contents(tmp_path / "out") == contents(plain)


def test_shards_come_together_and_part_again(plain, tmp_path):
  many, again, one = (tmp_path / name for name in ("many", "again", "one"))
  parts = convert(plain, many, max_shard_bytes=SMALL)
  (unet,) = [part for part in parts if part.name == "unet"]
  files = sorted((many / "unet").glob("*.safetensors"))
  assert unet.num_files == len(files) > 3
  assert files[0].name.startswith("diffusion_pytorch_model-00001-of-0000")
  assert all(file.stat().st_size < SMALL + 20_000 for file in files)
  assert (many / "unet" / f"{UNET}.index.json").is_file()
  convert(many, again, max_shard_bytes=SMALL)
  assert contents(again) == contents(many)
  convert(many, one)
  assert contents(one) == contents(plain)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_another_dtype(plain, tmp_path, dtype):
  source = copy(plain, tmp_path / "source")
  config = read_json(source / "text_encoder" / "config.json")
  stated = config | {"torch_dtype": "float32", "dtype": "float32"}
  write_json(source / "text_encoder" / "config.json", stated)
  out, again = tmp_path / "out", tmp_path / "again"
  convert(source, out, dtype=dtype)
  name = jnp.dtype(dtype).name
  assert read_json(out / "text_encoder" / "config.json") == (
    config | {"torch_dtype": name, "dtype": name}
  )
  for part in MODELS:
    before = open_model(source / part, dtype=dtype).params
    after = open_model(out / part, dtype=None).params
    for key, value in after.items():
      assert value.dtype == dtype
      np.testing.assert_array_equal(value, before[key])
  convert(out, again)
  assert contents(again) == contents(out)


# --- For diffusers -----------------------------------------------------------


@pytest.fixture(scope="module")
def unshifted(plain, tmp_path_factory):
  """The same without what no pipeline of diffusers reads."""
  folder = copy(plain, tmp_path_factory.mktemp("unshifted") / "model")
  file = folder / "vae" / "config.json"
  write_json(file, read_json(file) | {"shift_factor": None})
  return folder


def test_for_diffusers_all_parts_are_named(unshifted, tmp_path):
  convert(unshifted, tmp_path / "out", complete=True)
  assert read_json(tmp_path / "out" / "model_index.json") == {
    "_class_name": "StableDiffusionPipeline",
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
  }


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # of diffusers, about its own configs
def test_the_result_opens_in_diffusers(unshifted, tmp_path):
  from diffusers import DiffusionPipeline

  convert(unshifted, tmp_path / "out", complete=True, max_shard_bytes=SMALL)
  pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
  assert type(pipeline).__name__ == "StableDiffusionPipeline"
  for part in MODELS:
    theirs = getattr(pipeline, part).state_dict()
    ours = tensors(next((unshifted / part).glob("*.safetensors")))
    common = ours.keys() & theirs.keys()
    # Newer libraries drop the first part of a text encoder's names.
    theirs |= {f"text_model.{name}": x for name, x in theirs.items()}
    assert common or part == "text_encoder"
    for name, value in ours.items():
      np.testing.assert_array_equal(theirs[name].numpy(), value)
  picture = pipeline("a dog", num_inference_steps=2, output_type="np")
  assert np.std(picture.images) > 0


def test_what_diffusers_has_no_pipeline_for(tiny_backbone, plain, tmp_path):
  out = tmp_path / "out"
  assert refusal(tiny_backbone, out, complete=True) == (
    f"{tiny_backbone} works on patches of 2 px (patch_size of its "
    "model_index.json), for which diffusers has no pipeline: convert its unet/ "
    "alone, or leave --to out."
  )
  assert refusal(plain, out, complete=True).startswith(
    f"{plain / 'vae' / 'config.json'} has shift_factor=0.1, which "
    "StableDiffusionPipeline of diffusers does not read"
  )
  source = copy(plain, tmp_path / "source")
  shutil.rmtree(source / "vae")
  text = refusal(source, out, complete=True)
  assert "is of CLIPTextModel, UNet2DConditionModel, for which diff" in text
  convert(tiny_backbone, out)
  assert contents(out) == contents(tiny_backbone)


def test_an_apprentice_stays_what_it_is(plain, tmp_path):
  source = copy(plain, tmp_path / "source")
  write_json(source / "apprentice.json", {})
  for complete in (True, False):
    assert (
      "is an apprentice, whose layers for demonstrations exist nowhere"
      in (refusal(source, tmp_path / "out", complete=complete))
    )


# --- Where it may be written -------------------------------------------------


def test_nothing_is_written_over(plain, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  convert(plain, out)  # empty, it is as good as none
  before = contents(out)
  link = tmp_path / "link"
  link.symlink_to(tmp_path / "nowhere")
  for place in (out, plain, out / "model_index.json", link):
    with pytest.raises(ValueError, match="is already there: give the name of"):
      convert(plain, place)
  assert contents(out) == before


def test_nothing_is_written_into_what_is_read(plain, tmp_path, monkeypatch):
  before = contents(plain)
  monkeypatch.chdir(plain)
  for place in (plain / "new", plain / "unet" / "deep" / "new"):
    with pytest.raises(ValueError, match=r"lies inside of .*, which is read"):
      convert(plain, place)
  with pytest.raises(ValueError, match="lies inside of"):
    convert(plain, plain / ".." / plain.name / "new")
  assert contents(plain) == before


def test_a_place_that_cannot_be_made(plain, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="file, which is no folder or not yours"):
    convert(plain, tmp_path / "file" / "new")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_stopped_half_way_it_leaves_nothing(plain, tmp_path, monkeypatch, stop):
  rewrite, seen = module.rewrite, []

  def until_the_second(spec, source, path, **options):
    rewrite(spec, source, path, **options)
    seen.append(path)
    if len(seen) == 2:
      raise stop

  monkeypatch.setattr(module, "rewrite", until_the_second)
  with pytest.raises(stop):
    convert(plain, tmp_path / "out")
  assert seen[0].name == "model.safetensors"
  assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_goes_with_the_next(plain, tmp_path):
  here = this_process().rpartition("-")[0]
  nobody = tmp_path / f".out.{here}-999999999.suti-part"
  somebody = tmp_path / f".out.{here}-1.suti-part"
  for folder in (nobody, somebody):
    (folder / "unet").mkdir(parents=True)
  convert(plain, tmp_path / "out")
  assert not nobody.exists()
  assert somebody.exists(), "that process lives"


# --- What is refused ---------------------------------------------------------


def test_a_part_that_the_index_names_must_be_there(published, tmp_path):
  for name in ("vae", "scheduler", "tokenizer"):
    source = copy(published, tmp_path / name)
    shutil.rmtree(source / name)
    assert refusal(source, tmp_path / "out") == (
      f"{source} has no folder {name!r}, which its model_index.json names as a "
      "part: fetch the rest of the model."
    )


@pytest.mark.parametrize("name", ["../plain", "unet/../vae", "/etc", "..", "."])
def test_an_index_cannot_name_parts_elsewhere(published, tmp_path, name):
  source = copy(published, tmp_path / "source")
  copy(published / "vae", tmp_path / "plain")
  index = read_json(source / "model_index.json")
  index[name] = ["diffusers", "AutoencoderKL"]
  write_json(source / "model_index.json", index)
  assert "as a part: fetch the rest" in refusal(source, tmp_path / "out")


@pytest.mark.parametrize(
  "name", ["README.md", "tokenizer/tokenizer.json", "unet/config.json", "vae"]
)
def test_a_link_to_another_place_is_not_followed(published, tmp_path, name):
  source = copy(published, tmp_path / "source")
  (source / name).rename(tmp_path / "elsewhere")
  (source / name).symlink_to(tmp_path / "elsewhere")
  text = refusal(source, tmp_path / "out")
  assert f"is a link that leads out of {source}: put the file itself" in text


def test_links_within_the_hubs_cache_are(plain, tmp_path):
  snapshot = tmp_path / "models--x--y" / "snapshots" / "abc"
  for name, content in contents(plain).items():
    blob = tmp_path / "models--x--y" / "blobs" / name.replace("/", "-")
    blob.parent.mkdir(exist_ok=True, parents=True)
    blob.write_bytes(content)
    (snapshot / name).parent.mkdir(exist_ok=True, parents=True)
    (snapshot / name).symlink_to(blob)
  convert(snapshot, tmp_path / "out")
  assert contents(tmp_path / "out") == contents(plain)
  assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_a_part_of_another_kind_is_not_left_out_in_silence(plain, tmp_path):
  source = copy(plain, tmp_path / "source")
  folder = source / "transformer"
  write_json(folder / "config.json", {"_class_name": "FluxTransformer2DModel"})
  text = refusal(source, tmp_path / "out")
  assert f"{folder} is a FluxTransformer2DModel: expected UNet2D" in text
  (folder / "config.json").unlink()
  shutil.copy(source / "vae" / UNET, folder)
  text = refusal(source, tmp_path / "out")
  assert f"{folder} has no config.json and holds an AutoencoderKL" in text


def test_weights_that_do_not_fit_or_are_damaged(plain, tmp_path):
  source = copy(plain, tmp_path / "source")
  file = source / "vae" / UNET
  values = tensors(file)
  values["decoder.conv_in.bias"][2] = np.nan
  safetensors.numpy.save_file(values, file)
  assert refusal(source, tmp_path / "out") == (
    f"{file} cannot be taken over: 1 values of 'decoder.conv_in.bias' are NaN, "
    "infinite or too large for float32; fetch or make it again, or choose a "
    "wider dtype."
  )
  values["decoder.conv_in.bias"][2] = 1e6
  safetensors.numpy.save_file(values, file)
  text = refusal(source, tmp_path / "out", dtype=jnp.float16)
  assert "1 values of 'decoder.conv_in.bias' are NaN, infinite or too" in text
  convert(source, tmp_path / "out", dtype=jnp.bfloat16)
  del values["decoder.conv_in.bias"]
  safetensors.numpy.save_file(values, file)
  assert "does not hold this model: 1 of the model's" in (
    refusal(source, tmp_path / "again")
  )
