# SPDX-License-Identifier: Apache-2.0
"""Files that the installed transformers and diffusers write, opened here.

Small random models, whole and in shards, schedulers, tokenizers and processors
are saved by their own library, and what ours makes of the files is compared.
"""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from suti.config.samplers import PUBLISHED
from suti.diffusion.scheduler_config import from_config
from suti.hf.image_processor import load_pixel_reader
from suti.hf.model import open_model
from suti.hf.tokenizer import load_tokenizer
from suti.io.files import read_json
from tests.diffusion import ours as our_samplers
from tests.goldens import sampler_cases, theirs
from tests.goldens.families import CASES

pytestmark = [
  pytest.mark.parity,
  # Not our code: what torch and its friends warn about when imported.
  pytest.mark.filterwarnings("ignore"),
]
MODELS = (
  "unet_sd1",
  "unet_sdxl",
  "unet_if1",
  "unet_nested",
  "vae",
  "vae_gelu",
  "clip",
  "clip_text",
  "clip_text_projected",
  "clip_vision",
  "clip_vision_projected",
  "dino",
  "dinov2",
  "dinov2_registers",
  "t5",
  "t5_relu",
)
TEXTS = ["a photo of a dog", "A red Teapot, on the beach!", "", "dog " * 90]


@pytest.fixture(scope="module", autouse=True)
def _publishers():
  for name in ("torch", "diffusers", "transformers"):
    pytest.importorskip(name, reason=f"{name} is not installed: [parity]")


# --- Models ------------------------------------------------------------------


@pytest.mark.parametrize("case", MODELS)
def test_a_model_whole_and_in_shards(case, tmp_path):
  import torch

  torch.manual_seed(0)
  family = CASES[case]
  published = family.build(family.CASES[case][0])
  published.save_pretrained(tmp_path / "whole")
  published.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
  assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
  model, again = (open_model(tmp_path / name) for name in ("whole", "shards"))
  for name, value in model.params.items():
    np.testing.assert_array_equal(again.params[name], value)
  values = family.inputs(case)
  found = family.call(model.spec, model.apply)(model.params, **values)
  expected = family.run(published, theirs.tensors(values))
  for name in expected:
    if not name.startswith("gradient."):
      np.testing.assert_allclose(
        found[name], expected[name], rtol=1e-4, atol=1e-4, err_msg=name
      )


# --- Schedulers --------------------------------------------------------------


def saved_scheduler(folder, name, origin):
  """The config of a scheduler that was made from another's, and it."""
  import diffusers

  first = getattr(diffusers, origin).from_config(
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
  )
  first.save_pretrained(folder / "first")
  # As it is read from a file: what a class made by itself does not count.
  first = getattr(diffusers, origin).from_pretrained(folder / "first")
  second = getattr(diffusers, name).from_config(first.config)
  second.save_pretrained(folder / "second")
  configs = [
    read_json(folder / part / "scheduler_config.json")
    for part in ("first", "second")
  ]
  return configs, second


@pytest.mark.parametrize("name", PUBLISHED.values())
def test_a_scheduler_made_of_any_other(name, tmp_path):
  """Its own file, and the other's with our choice of another sampler."""
  others = (*PUBLISHED.values(), "LCMScheduler", "HeunDiscreteScheduler")
  for origin, num_steps in itertools.product(others, (9, 20)):
    (first, second), scheduler = saved_scheduler(tmp_path, name, origin)
    scheduler.set_timesteps(num_steps)
    expected = scheduler.timesteps.numpy()
    for config in (first | {"_class_name": name}, second):
      plan = from_config(config, num_steps=num_steps)
      # PNDM asks the net at one time twice, which both count.
      np.testing.assert_allclose(
        plan.t_N, expected, atol=1e-3, err_msg=f"{origin} {num_steps}"
      )


@pytest.mark.parametrize("name", PUBLISHED.values())
def test_every_step_of_a_saved_scheduler(name, tmp_path, monkeypatch):
  from tests.goldens import make_samplers

  (_, config), _ = saved_scheduler(tmp_path, name, "EulerDiscreteScheduler")
  monkeypatch.setitem(sampler_cases.CASES, "saved", (config, 7))
  np.testing.assert_allclose(
    our_samplers.run("saved", monkeypatch),
    make_samplers.run("saved"),
    rtol=0,
    atol=1e-4,
  )


# --- Pictures ----------------------------------------------------------------


def pictures():
  rng = np.random.RandomState(0)
  return [
    rng.randint(0, 256, (*size, 3)).astype(np.uint8)
    for size in ((48, 64), (65, 40), (50, 50))
  ]


@pytest.mark.parametrize("kind", ["CLIP", "ViT", "Bit"])
def test_an_image_processor(kind, tmp_path):
  import transformers

  sizes = {"size": {"height": 40, "width": 40}}
  if kind != "ViT":
    sizes = {"size": {"shortest_edge": 40}, "crop_size": 32}
  processor = getattr(transformers, f"{kind}ImageProcessorPil")(**sizes)
  processor.save_pretrained(tmp_path)
  compare_pixels(tmp_path, processor)


@pytest.mark.parametrize("nested", [False, True])
def test_a_processor_of_texts_and_pictures(nested, tmp_path):
  """In whichever file the library puts what is said of pictures."""
  import transformers

  pixels = transformers.CLIPImageProcessorPil(
    size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
  )
  tokenizer = clip_tokenizer(tmp_path)
  processor = transformers.CLIPProcessor(pixels, tokenizer)
  if nested:
    processor.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "processor_config.json").is_file()
    assert not (tmp_path / "saved" / "preprocessor_config.json").exists()
  else:
    pixels.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
  compare_pixels(tmp_path / "saved", pixels)
  compare_ids(tmp_path / "saved", tokenizer)


def compare_pixels(folder, processor):
  read = load_pixel_reader(folder)
  for image_u8 in pictures():
    expected = processor(Image.fromarray(image_u8), return_tensors="np")
    np.testing.assert_array_equal(
      read([image_u8]), expected["pixel_values"].transpose(0, 2, 3, 1)
    )


# --- Texts -------------------------------------------------------------------


def clip_tokenizer(folder):
  """A CLIP's tokenizer of letters and a few merges, by its own class."""
  import transformers

  letters = [chr(x) for x in range(33, 127)]
  words = ["do", "dog</w>", "ph", "pho", "ea", "ch</w>"]
  tokens = [*letters, *(f"{x}</w>" for x in letters), *words]
  tokens += ["<|startoftext|>", "<|endoftext|>"]
  (folder / "vocab.json").write_text(
    json.dumps({token: i for i, token in enumerate(tokens)})
  )
  (folder / "merges.txt").write_text(
    "#version: 0.2\nd o\ndo g</w>\np h\nph o\ne a\nc h</w>\n"
  )
  return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def compare_ids(folder, tokenizer):
  expected = tokenizer(
    TEXTS,
    padding="max_length",
    truncation=True,
    max_length=77,
    return_tensors="np",
  )
  ids_BL, mask_BL = load_tokenizer(folder, max_length=77).with_mask(TEXTS)
  np.testing.assert_array_equal(ids_BL, expected["input_ids"])
  np.testing.assert_array_equal(mask_BL, expected["attention_mask"])


def test_a_tokenizer_of_clip(tmp_path):
  tokenizer = clip_tokenizer(tmp_path)
  tokenizer.save_pretrained(tmp_path / "saved")
  compare_ids(tmp_path / "saved", tokenizer)
  # As files were before: vocab.json and merges.txt, and whose they are.
  assert not (tmp_path / "tokenizer.json").exists()
  config = tmp_path / "saved" / "tokenizer_config.json"
  (tmp_path / config.name).write_bytes(config.read_bytes())
  compare_ids(tmp_path, tokenizer)


def test_a_tokenizer_of_t5(tmp_path):
  import transformers

  letters = [chr(x) for x in range(33, 127)]
  pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁dog", "▁photo", *letters]
  tokenizer = transformers.T5Tokenizer(
    vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)]
  )
  tokenizer.save_pretrained(tmp_path)
  compare_ids(tmp_path, tokenizer)
