# SPDX-License-Identifier: Apache-2.0
"""`suti generate` without a subject: pictures, LoRAs, and mistakes.

That the pictures are the publishers' is tests/pipeline/test_text_to_image.py's.
"""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from suti.cli.text_only import CELL_PX, read_lora, read_size
from suti.hf import tokenizer as tokenizers
from suti.hf.lora_export import save_lora
from suti.hf.model import open_model
from suti.io.files import read_json, write_json
from suti.nn.param import functional, init, without
from suti.nn.surgery import lora
from tests import tiny
from tests.commands import error_of, start
from tests.pipeline import tiny_pipelines

LAYERS = {
  "unet": r"attn\d\.to_(q|k|v|out\.0)$",
  "text_encoder": r"self_attn\.(q|v)_proj$",
}


PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("latent")
  return tiny.write_latent_backbone(folder, unet=tiny.ONE_LEVEL_UNET)


@pytest.fixture(scope="module")
def pixels(tiny_backbone):
  """A model of patches with the U-Net of `model`: it compiles faster."""
  return tiny_backbone


@pytest.fixture(scope="module")
def plain(pixels, tmp_path_factory):
  """What it samples without options."""
  return draw(pixels, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def updates(model):
  """{part: LoRA of it}, drawn at random."""
  found = {}
  for part, pattern in LAYERS.items():
    opened = open_model(model / part, weights=False)
    spec = functional(lora(opened.module, pattern, rank=2))[0]
    params = init(without(spec, opened.spec), jax.random.key(0))
    rng = np.random.default_rng(0)
    found[part] = {
      name: x if ".lora_A." in name else rng.normal(size=x.shape)
      for name, x in params.items()
    }
  return found


def argv(model, out, *more):
  values = {"model": model, "prompt": "a dog", "out": out}
  given = {name for name in more if str(name).startswith("--")}
  pairs = [(f"--{k}", v) for k, v in values.items() if f"--{k}" not in given]
  steps = () if "--steps" in given else ("--steps", 2)
  return ["generate", *(x for pair in pairs for x in pair), *steps, *more]


def draw(model, folder, *more) -> np.ndarray:
  """One picture."""
  out = folder / "x.png"
  out.unlink(missing_ok=True)
  assert start(*argv(model, out, *more)) == 0
  return read(out)


def read(path):
  with Image.open(path) as image:
    return np.asarray(image)


# --- Pictures ----------------------------------------------------------------


def test_one_picture_is_one_file(capsys, model, tmp_path):
  out = tmp_path / "new" / "dog.png"
  assert start(*argv(model, out)) == 0
  captured = capsys.readouterr()
  assert captured.out == f"Wrote {out}.\n"
  assert f"{model.name}: sampling  2/2" in captured.err, "progress shows"
  assert [path.name for path in out.parent.iterdir()] == ["dog.png"]
  assert read(out).shape == (tiny.SIZE_PX, tiny.SIZE_PX, 3)
  assert np.std(read(out)) > 0


def test_a_prompt_that_is_too_long_is_told_what_is_not_read(
  capsys, model, monkeypatch, tmp_path
):
  monkeypatch.setattr(tokenizers, "_named", set())
  prompt = "a dog " * 90 + "in the snow"
  assert start(*argv(model, tmp_path / "x.png", "--prompt", prompt)) == 0
  said = [x for x in capsys.readouterr().err.splitlines() if "is left out" in x]
  assert len(said) == 1


def test_words_that_the_model_never_met_are_named(
  capsys, model, monkeypatch, tmp_path
):
  """Of a model that has words.json; published ones have none."""
  monkeypatch.setattr(
    "suti.cli.text_only.sample_all", lambda *a, **kw: [PICTURE]
  )
  asked = argv(model, tmp_path / "x.png", "--prompt", "a dog at the seaside")
  assert start(*asked) == 0
  assert capsys.readouterr().err == ""
  write_json(model / "words.json", {"words": ["a", "at", "dog", "the"]})
  try:
    assert start(*asked) == 0
    said = capsys.readouterr().err
    assert start(*argv(model, tmp_path / "x.png")) == 0
  finally:
    (model / "words.json").unlink()
  assert said == (
    f"Note: {model.name} has never met 'seaside', a word that no caption of its"
    " training has: it may be ignored.\n"
  )
  assert capsys.readouterr().err == "", "it knows them all"


def test_several_pictures_and_the_sheet(capsys, model, tmp_path):
  alone = draw(model, tmp_path, "--seed", 8)
  capsys.readouterr()
  out = tmp_path / "dogs.png"
  assert start(*argv(model, out, "--num", 3, "--seed", 7)) == 0
  captured = capsys.readouterr()
  first = tmp_path / "dogs-0.png"
  assert captured.out == f"Wrote {out} and {first} to dogs-2.png.\n"
  assert "sampling 2 of 3  2/2" in captured.err
  pictures = [read(tmp_path / f"dogs-{i}.png") for i in range(3)]
  height, width, _ = read(out).shape
  assert width >= 3 * CELL_PX and height > CELL_PX
  # Picture i is that of seed + i, whatever is drawn beside it.
  np.testing.assert_array_equal(pictures[1], alone)
  assert (pictures[0] != pictures[1]).any()


def test_what_is_asked_for_shows_in_the_picture(pixels, plain, tmp_path):
  np.testing.assert_array_equal(plain, draw(pixels, tmp_path))
  for more in (
    ("--seed", 1),
    ("--prompt", "a red cat"),
    ("--negative", "a red cat"),
    ("--sampler", "euler"),
    ("--steps", 3),
  ):
    assert (draw(pixels, tmp_path, *more) != plain).any(), more
  assert draw(pixels, tmp_path, "--size", "24x18").shape == (18, 24, 3)


def test_without_guidance_nothing_is_kept_away(pixels, plain, tmp_path):
  one = draw(pixels, tmp_path, "--guidance", 1)
  assert (one != plain).any()
  np.testing.assert_array_equal(
    one, draw(pixels, tmp_path, "--guidance", 1, "--negative", "a red cat")
  )


def test_in_bfloat16_it_is_about_the_same(pixels, plain, tmp_path):
  rounded = draw(pixels, tmp_path, "--dtype", "bfloat16").astype(int)
  assert 0 < np.abs(plain - rounded).mean() < 8


def test_a_cascade_enlarges_in_the_proportions_that_were_asked_for(tmp_path):
  first = tiny_pipelines.write("if1", tmp_path / "if1")
  second = tiny_pipelines.write("if2", tmp_path / "if2")
  # What the first one's encoder said is enough.
  shutil.rmtree(second / "text_encoder")
  shutil.rmtree(second / "tokenizer")
  more = ("--enlarge", second, "--size", "16x8")
  assert draw(first, tmp_path, *more).shape == (16, 32, 3)


# --- LoRA --------------------------------------------------------------------


def test_a_lora_changes_the_picture_by_its_strength(
  pixels, plain, updates, tmp_path
):
  file = tmp_path / "expert.safetensors"
  save_lora(updates, file)

  def change(scale: str) -> float:
    drawn = draw(pixels, tmp_path, "--lora", f"{file}{scale}")
    return np.abs(drawn.astype(int) - plain).mean()

  assert change(":0") == 0 < change(":0.1") < change("")


def test_both_parts_of_a_lora_count(pixels, updates, tmp_path):
  pictures = []
  for parts in (["unet"], ["text_encoder"], ["unet", "text_encoder"]):
    file = tmp_path / f"{'-'.join(parts)}.safetensors"
    save_lora({part: updates[part] for part in parts}, file)
    pictures.append(draw(pixels, tmp_path, "--lora", file))
  one, other, both = pictures
  assert (one != other).any() and (both != one).any() and (both != other).any()
  # Two files of one part each are the same as one of both, however given.
  files = [tmp_path / f"{part}.safetensors" for part in LAYERS]
  for more in (
    ("--lora", *files),
    ("--lora", files[0], "--lora", files[1]),
  ):
    np.testing.assert_array_equal(draw(pixels, tmp_path, *more), both)


def test_two_loras_of_one_layer_add_up(pixels, updates, tmp_path):
  file = tmp_path / "expert.safetensors"
  save_lora(updates, file)
  once = draw(pixels, tmp_path, "--lora", f"{file}:0.2").astype(int)
  twice = draw(pixels, tmp_path, "--lora", f"{file}:0.15", f"{file}:0.05")
  # Merged one after the other, they may round otherwise.
  assert np.abs(once - twice).max() <= 1


def test_a_merged_model_draws_the_same(pixels, updates, tmp_path):
  """By other means: the update is added to the weights in the files."""
  import safetensors.numpy

  save_lora(updates, tmp_path / "expert.safetensors")
  merged = shutil.copytree(pixels, tmp_path / "merged")
  for part, update in updates.items():
    (file,) = (merged / part).glob("*.safetensors")
    tensors = safetensors.numpy.load_file(file)
    for name, down_IR in update.items():
      if not name.endswith(".lora_A.weight"):
        continue
      layer = name.removesuffix(".lora_A.weight")
      up_RO = update[f"{layer}.lora_B.weight"]
      change = (np.asarray(down_IR) @ up_RO).T.astype(np.float32)
      tensors[f"{layer}.weight"] += change
    safetensors.numpy.save_file(tensors, file)
  lora = ("--lora", tmp_path / "expert.safetensors")
  drawn = draw(pixels, tmp_path, *lora).astype(int)
  assert np.abs(drawn - draw(merged, tmp_path)).max() <= 1


def test_a_folder_of_peft_is_a_lora(pixels, updates, tmp_path):
  save_lora({"unet": updates["unet"]}, tmp_path / "peft", layout="peft")
  save_lora({"unet": updates["unet"]}, tmp_path / "one.safetensors")
  np.testing.assert_array_equal(
    draw(pixels, tmp_path, "--lora", f"{tmp_path / 'peft'}:0.5"),
    draw(pixels, tmp_path, "--lora", f"{tmp_path / 'one.safetensors'}:0.5"),
  )


def test_a_file_with_a_colon_in_its_name(tmp_path):
  file = tmp_path / "a:0.5"
  file.write_text("")
  assert read_lora(str(file)) == (file, 1.0)
  assert read_lora(f"{file}:0.25") == (file, 0.25)
  assert read_lora(f"{file}:-1") == (file, -1.0)


def test_a_lora_of_another_model(capsys, model, updates, tmp_path):
  def line(*files) -> str:
    out = tmp_path / "x.png"
    text = error_of(capsys, *argv(model, out, "--lora", *files))
    assert not out.exists()
    return text

  file = tmp_path / "expert.safetensors"
  other = {
    name.replace("attn1", "attn9"): x for name, x in updates["unet"].items()
  }
  save_lora({"unet": other}, file)
  assert f"Error: {file} is a LoRA of another model: 16 of its 32 layers" in (
    line(file)
  )
  wide = {
    name: np.ones((32, 2), np.float32) if ".attn2.to_k.lora_A" in name else x
    for name, x in updates["unet"].items()
  }
  save_lora({"unet": wide}, file)
  assert "is 32 to 8 wide, and the model's is 16 to 8. Give it the" in (
    line(file)
  )
  shutil.copy(model / "vae" / "diffusion_pytorch_model.safetensors", file)
  assert f"{file} holds no LoRA, but an AutoencoderKL: the layouts" in (
    line(file)
  )
  file.write_bytes(b"")
  assert f"{file} is not a whole safetensors file" in line(file)
  broken = dict(updates["unet"])
  name = next(iter(broken))
  broken[name] = np.full(broken[name].shape, np.nan, np.float32)
  save_lora({"unet": broken}, file)
  assert "has NaN or infinite values. Fetch or make it again." in line(file)
  pickle = tmp_path / "lora.bin"
  pickle.write_bytes(b"PK")
  assert "Pickles (.bin, .pt, .ckpt) can run code when opened" in line(pickle)
  empty = tmp_path / "empty"
  empty.mkdir()
  assert f"{empty} has 0 .safetensors files: give the LoRA's own" in line(empty)
  for text in (
    tmp_path / "none.safetensors",
    ":0.5",
    f"{file}:x",
    f"{file}:nan",
  ):
    assert line(text) == (
      f"Error: --lora={text}: there is no such file; give a .safetensors file, "
      "or ORG/NAME or ORG/NAME/FILE.safetensors of the Hugging Face hub, and "
      "after it :0.8 for a part of its strength."
    )


# --- Mistakes ----------------------------------------------------------------


MISTAKES = (
  (["--num", 0], "--num=0 must be between 1 and 64."),
  (["--num", 65], "--num=65 must be between 1 and 64."),
  (["--steps", 0], "--steps=0 must be between 1 and 1000."),
  (["--steps", 5000], "--steps=5000 must be between 1 and 1000."),
  (["--seed", -1], "--seed=-1 must be between 0 and 4294967232."),
  (["--guidance", "nan"], "--guidance=nan must be between 0 and 1000."),
  (["--guidance", -2], "--guidance=-2.0 must be between 0 and 1000."),
  (
    ["--prompt", " "],
    "The prompt is empty: say what to show, e.g. 'a dog in t",
  ),
  (["--out", "x.jpg"], "--out=x.jpg: expected the name of a PNG file; call it"),
  (["--sampler", "ddm"], "sampler='ddm' is unknown: use one of ddim, ddpm, dp"),
  (["--dtype", "float16"], "--dtype=float16: use float32 or bfloat16."),
  (["--size", "16"], "--size=16: give width and height in px, such as 768x512"),
  (["--size", "17x16"], "size=17x16 is not of whole positions of 2 px: use mu"),
  (["--size", "99999x8"], "--size=99999x8: give sides of 1 to 8192 px."),
  (["--steps", "two"], "argument --steps: invalid int value: 'two' (see suti"),
  (["--enlarge", "ENLARGES"], "takes a text alone: a cascade is a text-to-im"),
)


@pytest.mark.parametrize(("more", "text"), MISTAKES)
def test_a_wrong_argument_is_one_line(capsys, model, tmp_path, more, text):
  more = [model if x == "ENLARGES" else x for x in more]
  line = error_of(capsys, *argv(model, tmp_path / "x.png", *more))
  assert text in line
  assert not list(tmp_path.iterdir())


def test_a_subject_and_a_text_alone_are_told_apart(capsys, model, tmp_path):
  picture = tmp_path / "dog.png"
  Image.new("RGB", (64, 64)).save(picture)
  out = tmp_path / "x.png"
  for option in ("negative", "size", "sampler", "lora", "enlarge", "dtype"):
    line = error_of(
      capsys, *argv(model, out, "--subject", picture, f"--{option}", "x")
    )
    assert line == (
      f"Error: --{option} goes with a text alone: leave it out, or leave out "
      "--subject."
    )
  line = error_of(capsys, *argv(model, out, "--subject", picture))
  assert f"{model} has no apprentice.json: it is no apprentice. Give the " in (
    line
  )
  apprentice = tmp_path / "apprentice"
  write_json(apprentice / "apprentice.json", {"base": "world_base"})
  for name in (apprentice, "world_apprentice"):
    line = error_of(capsys, *argv(name, out))
    assert (
      "is an apprentice, which shows the subject of some pictures: give"
      in (line)
    )
  line = error_of(capsys, "generate", "--prompt", "a dog", "--out", out)
  assert line.startswith(
    "Error: --subject or --model is missing: give pictures"
  )


def test_damage_is_one_line(capsys, model, tmp_path):
  source = tmp_path / "source"

  def line(name, how) -> str:
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(model, source)
    file = source / name
    if callable(how):
      value = read_json(file)
      how(value)
      file.write_text(json.dumps(value))
    elif how is None:
      shutil.rmtree(file)
    else:
      file.write_bytes(how)
    return error_of(capsys, *argv(source, tmp_path / "x.png"))

  scheduler = "scheduler/scheduler_config.json"
  for name, how, text in (
    ("tokenizer", None, "No tokenizer in "),
    (
      "text_encoder",
      None,
      "has no text_encoder/config.json: expected a folder",
    ),
    ("scheduler", None, "has no scheduler/scheduler_config.json: expected a f"),
    ("tokenizer/tokenizer.json", b"{", "tokenizer cannot be read ("),
    ("tokenizer/tokenizer.json", b"{}", "tokenizer cannot be read ("),
    ("tokenizer/tokenizer_config.json", b"[]", "holds no JSON object"),
    (
      "tokenizer/tokenizer_config.json",
      lambda x: x.update(pad_token="<none>"),
      "has no token '<none>', with which its tokenizer_config.json pads",
    ),
    (scheduler, b"3", "holds no JSON object"),
    (
      scheduler,
      lambda x: x.update(_class_name="LMSDiscreteScheduler"),
      "own sampler is 'LMSDiscreteScheduler', which is not known here: give --",
    ),
    (
      scheduler,
      lambda x: x.update(beta_schedule="linear", beta_end=2),
      "to 2 a step: correct its beta_start and beta_end, which must lie",
    ),
    (
      scheduler,
      lambda x: x.update(num_train_timesteps="1000"),
      "num_train_timesteps='1000' of the scheduler config must be a whole num",
    ),
    (
      "model_index.json",
      lambda x: x.update(patch_size=2),
      "works on pictures of 3 channels, and patches of 2 px have 12",
    ),
    (
      "model_index.json",
      lambda x: x.update(patch_size="2"),
      "patch_size='2' of ",
    ),
    (
      "unet/config.json",
      lambda x: x.pop("sample_size"),
      "sample_size=None of a U-Net must be a whole number from 1",
    ),
    (
      "vae/config.json",
      lambda x: x.update(scaling_factor=0),
      "values that are NaN or infinite in float32: try --dtype float32",
    ),
  ):
    found = line(name, how)
    assert text in found, name
    assert not (tmp_path / "x.png").exists()


def test_parts_of_two_models_are_told_apart(capsys, model, tmp_path):
  source = shutil.copytree(model, tmp_path / "source")
  wide = tiny.UNET | {"cross_attention_dim": 24}
  other = tiny.write_backbone(tmp_path / "other", unet=wide)
  shutil.rmtree(source / "unet")
  shutil.copytree(other / "unet", source / "unet")
  line = error_of(capsys, *argv(source, tmp_path / "x.png"))
  assert line == (
    f"Error: {source} does not go with these text encoders: its unet/ takes "
    "texts 24 wide, they give 16. Give the parts of one model."
  )
  # A tokenizer that knows more words than the encoder has vectors.
  source = shutil.copytree(model, tmp_path / "second")
  config = read_json(source / "text_encoder" / "config.json")
  write_json(
    source / "text_encoder" / "config.json", config | {"vocab_size": 200}
  )
  spec = open_model(source / "text_encoder", weights=False).spec
  from suti.hf.weights import save

  params = init(spec, jax.random.key(0))
  save(params, spec, source / "text_encoder" / "model.safetensors")
  line = error_of(capsys, *argv(source, tmp_path / "x.png"))
  assert (
    "has more than the 200 tokens of the text encoder: they are of diff"
    in (line)
  )


@pytest.mark.parametrize(
  ("text", "size"), [("768x512", (512, 768)), ("16X24", (24, 16))]
)
def test_a_size_is_width_and_height(text, size):
  assert read_size(text) == size
