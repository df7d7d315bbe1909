# SPDX-License-Identifier: Apache-2.0
"""Generation: what an image depends on, guidance, and what is refused."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest

from apprentice import generate as drawing
from apprentice.model import declare, load_apprentice, save_apprentice
from suti.io.files import read_json, write_json
from suti.pipeline.backbone import load_backbone
from tests.apprentice import inputs


def generate(apprentice, images, prompt, *, captions=None, **options):
  """All pictures captioned "a dog", where a test does not say otherwise."""
  if captions is None:
    captions = ["a dog"] * len(images)
  return drawing.generate(
    apprentice, images, prompt, captions=captions, **options
  )


SAMPLING = {
  "num_steps": 3,
  "guidance": 3.0,
  "sampler": "ddpm",
  "percentile": 99.5,
  "num_demonstrations": 3,
  "max_demonstrations": 10,
  "guidance_mode": "joint",
  "text_guidance": None,
  "guidance_ramp": 0.0,
  "text_guidance_ramp": 0.0,
  "agnostic": 0.0,
  "agnostic_above": 0.8,
  "subject_scale": 1.0,
  "guidance_until": 0.0,
}


@pytest.fixture(scope="module")
def apprentice(tiny_backbone):
  """A tiny apprentice whose new layers are not silent."""
  backbone = load_backbone(tiny_backbone)
  config = inputs.make_config(tiny_backbone).method
  declared = declare(backbone, name="suti", config=config)
  rng = np.random.default_rng(0)
  params = backbone.params | {
    name: rng.normal(size=p.shape, scale=0.5).astype(np.float32)
    for name, p in declared.spec.items()
    if name not in backbone.params
  }
  return dataclasses.replace(declared, params=params, sampling=SAMPLING)


@pytest.fixture(scope="module")
def pictures():
  return inputs.draw_examples(1)[0].demonstrations


def test_pictures_of_the_right_kind(apprentice, pictures):
  images = generate(apprentice, pictures[:3], "a dog in the snow", num=2)
  assert len(images) == 2
  for image in images:
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
  assert (images[0] != images[1]).any()


def test_an_image_depends_on_its_seed_not_its_batch(apprentice, pictures):
  first = generate(apprentice, pictures[:3], "a dog", num=2, seed=5)
  second = generate(apprentice, pictures[:3], "a dog", num=2, seed=6)
  # Seed 6 is the second picture of the first call and the first of the second.
  np.testing.assert_array_equal(first[1], second[0])
  assert (first[0] != second[1]).any()


def test_prompt_and_subject_decide(apprentice, pictures):
  def draw(images, prompt, **options):
    return generate(apprentice, images, prompt, num=2, **options)[0]

  usual = draw(pictures[:3], "a dog")
  np.testing.assert_array_equal(usual, draw(pictures[:3], "a dog"))
  assert (usual != draw(pictures[:3], "a cat on the beach")).any()
  assert (usual != draw(pictures[1:], "a dog")).any()
  assert (usual != draw(pictures[:2], "a dog")).any()
  assert (usual != draw(pictures[:3], "a dog", guidance=1.0)).any()
  assert (
    usual != draw(pictures[:3], "a dog", captions=["a cat in the snow"] * 3)
  ).any()
  apart = {"guidance_mode": "two", "text_guidance": 1.0}
  assert (usual != draw(pictures[:3], "a dog", **apart)).any()


def test_order_of_pictures_does_not_matter(apprentice, pictures):
  one = generate(apprentice, pictures[:3], "a dog", num=2)
  other = generate(apprentice, pictures[2::-1], "a dog", num=2)
  # Sums in another order: at most a rounding apart.
  difference = np.abs(np.asarray(one, int) - np.asarray(other, int))
  assert difference.max() <= 1


def test_without_pictures_it_is_the_base(apprentice):
  """All demonstrations masked, against the base's own program."""
  ours = generate(apprentice, [], "a dog", num=2)
  silent = dataclasses.replace(
    apprentice,
    params={
      name: array * (0.0 if name.endswith("adapter.to_out.weight") else 1.0)
      for name, array in apprentice.params.items()
    },
  )
  base = generate(silent, [], "a dog", num=2)
  np.testing.assert_array_equal(ours, base)


def test_photos_of_any_size_are_taken(apprentice):
  rng = np.random.default_rng(1)
  photos = [
    rng.integers(0, 256, shape, np.uint8)
    for shape in ((300, 90, 3), (64, 64, 3), (17, 40, 3))
  ]
  assert len(generate(apprentice, photos, "a dog", num=2)) == 2


@pytest.fixture(scope="module")
def parts(apprentice, pictures):
  """Samples in a mode with weights, from the same noise."""
  batch = drawing.make_batch(
    apprentice,
    [("a dog in the snow", pictures[:3], inputs.TEXTS[:3])] * 2,
    num_demonstrations=3,
  )
  null = apprentice.backbone.null_text()
  compiled = {
    mode: jax.jit(
      drawing.make_sample_fn(
        apprentice,
        SAMPLING | {"guidance_mode": mode, "num_steps": 1, "percentile": None},
      )
    )
    for mode in ("joint", "two", "interleaved")
  }

  def draw(mode, text, subject):
    return np.asarray(
      compiled[mode](
        apprentice.params,
        apprentice.backbone.codec.params,
        batch,
        null,
        np.arange(2, dtype=np.uint32),
        drawing.weights(
          SAMPLING | {"guidance": subject, "text_guidance": text}
        ),
      )
    )

  return draw


def test_the_base_may_go_on_without_the_pictures(apprentice, pictures):
  """Here from the first step on: then nobody looks at them."""
  sampling = SAMPLING | {
    "num_steps": 1,
    "percentile": None,
    "guidance_until": 1.0,
  }
  sample = jax.jit(drawing.make_sample_fn(apprentice, sampling))

  def draw(shown):
    batch = drawing.make_batch(
      apprentice,
      [("a dog in the snow", shown, inputs.TEXTS[:3])] * 2,
      num_demonstrations=3,
    )
    return np.asarray(
      sample(
        apprentice.params,
        apprentice.backbone.codec.params,
        batch,
        apprentice.backbone.null_text(),
        np.arange(2, dtype=np.uint32),
        drawing.weights(sampling),
      )
    )

  np.testing.assert_array_equal(draw(pictures[:3]), draw(pictures[1:4]))


def test_two_equal_weights_are_the_joint_one(parts):
  np.testing.assert_allclose(
    parts("two", 3.0, 3.0), parts("joint", 0.0, 3.0), atol=1e-5
  )


def test_each_weight_has_an_effect_of_its_own(parts):
  usual = parts("two", 2.0, 2.0)
  assert np.abs(parts("two", 3.0, 2.0) - usual).max() > 1e-4
  assert np.abs(parts("two", 2.0, 3.0) - usual).max() > 1e-4


def test_the_first_of_interleaved_steps_guides_by_text(parts):
  usual = parts("interleaved", 2.0, 2.0)
  np.testing.assert_array_equal(parts("interleaved", 2.0, 5.0), usual)
  assert np.abs(parts("interleaved", 3.0, 2.0) - usual).max() > 1e-4


def test_weights_of_guidance():
  one = drawing.weights(SAMPLING | {"guidance": 4.0})
  assert (one["text"], one["subject"]) == (4, 4)
  both = drawing.weights(SAMPLING | {"guidance": 4.0, "text_guidance": 2.0})
  assert (both["text"], both["subject"]) == (2, 4)
  assert {x.dtype for x in both.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"prompt": "  "}, "The prompt is empty"),
    ({"num": 0}, "num=0: expected 1 or more"),
    ({"seed": -1}, "seed=-1: expected 0 to 42949672"),
    ({"steps": 0}, "steps=0: expected 1 or more"),
    ({"captions": ["a dog"]}, "1 captions for 3 pictures"),
    (
      {"guidance_mode": "too"},
      "guidance_mode='too': expected one of joint, two, normalised, "
      r"interleaved, agnostic, independent\. Did you mean 'two'",
    ),
    (
      {"subject_scale": 0.5},
      "subject_scale=0.5: the method 'suti' has no such weight",
    ),
    (
      {"text_guidance": 2.0},
      "text_guidance=2.0: guidance_mode 'joint' has one weight, guidance, of ",
    ),
    ({"subject_scale": float("nan")}, "subject_scale=nan: expected 0, without"),
    ({"images": 11}, "11 pictures of the subject were given; .* at most 10"),
  ],
)
def test_what_is_refused(apprentice, pictures, options, message):
  options = {"images": 3, "prompt": "a dog"} | options
  images = [pictures[0]] * options.pop("images")
  # Whether or not a program of these settings was made before.
  settings = drawing._compiled(apprentice, SAMPLING)
  assert settings is drawing._compiled(apprentice, SAMPLING)
  with pytest.raises(ValueError, match=message):
    generate(apprentice, images, options.pop("prompt"), **options)


def test_a_folder_without_the_frozen_parts_takes_its_bases(
  apprentice, tmp_path
):
  save_apprentice(apprentice, tmp_path / "small", with_base=False)
  assert {p.name for p in (tmp_path / "small").iterdir()} == {
    "apprentice.json",
    "unet",
  }
  again = load_apprentice(tmp_path / "small")
  text, expected = (
    x.backbone.encode_text(["a dog"])["text_BLD"] for x in (again, apprentice)
  )
  np.testing.assert_array_equal(text, expected)
  assert dict(again.sampling) == SAMPLING


def test_a_copy_of_a_copy_names_the_base(apprentice, tmp_path):
  save_apprentice(apprentice, tmp_path / "whole")
  save_apprentice(
    load_apprentice(tmp_path / "whole"), tmp_path / "small", with_base=False
  )
  assert load_apprentice(tmp_path / "small").backbone.name == (
    apprentice.backbone.name
  )


def copy_of_base(apprentice, folder):
  """An apprentice on a copy of its base, which a test may spoil."""
  shutil.copytree(apprentice.backbone.folder, folder)
  backbone = dataclasses.replace(apprentice.backbone, folder=folder)
  return dataclasses.replace(apprentice, backbone=backbone)


def test_named_parts_are_copied_and_what_lies_beside_them_is_not(
  apprentice, tmp_path
):
  moved = copy_of_base(apprentice, tmp_path / "base")
  base = tmp_path / "base"
  for name in ("safety_checker", ".git", "notes"):
    (base / name).mkdir()
    (base / name / "config.json").write_text("{}")
  (base / "secret.txt").write_text("of nobody else")
  (base / "notes" / "link").symlink_to("/etc/hostname")  # it is not read
  save_apprentice(moved, tmp_path / "plain")
  parts = {p.name for p in (tmp_path / "plain").iterdir()} - {"apprentice.json"}
  assert parts == {p.name for p in apprentice.backbone.folder.iterdir()} - {
    "README.md"
  }
  for file in apprentice.backbone.folder.rglob("*"):
    inside = file.relative_to(apprentice.backbone.folder)
    if file.is_file() and inside.parts[0] != "unet":
      copied = tmp_path / "plain" / inside
      assert copied.read_bytes() == file.read_bytes()

  index = read_json(base / "model_index.json")
  named = {"unet": ["diffusers", "UNet2DConditionModel"]}
  checker = {"safety_checker": ["stable_diffusion", "SafetyChecker"]}
  write_json(base / "model_index.json", index | named | checker)
  save_apprentice(moved, tmp_path / "named")
  assert read_json(tmp_path / "named" / "model_index.json") == (
    index | named | {"safety_checker": [None, None]}
  )


@pytest.mark.parametrize(
  "name", ["text_encoder/note.txt", "tokenizer", "model_index.json"]
)
def test_a_link_that_leads_out_of_the_base_is_not_copied(
  apprentice, tmp_path, name
):
  moved = copy_of_base(apprentice, tmp_path / "base")
  place, aside = tmp_path / "base" / name, tmp_path / "aside"
  if place.exists():
    place.rename(aside)
  else:
    aside.write_text("secret")
  place.symlink_to(aside)
  with pytest.raises(ValueError) as caught:
    save_apprentice(moved, tmp_path / "out")
  assert str(caught.value) == (
    f"{place} is a link that leads out of {tmp_path / 'base'}: put what it "
    "leads to there if it belongs to the model, or remove it."
  )
  assert not (tmp_path / "out").exists()
  save_apprentice(moved, tmp_path / "out", with_base=False)  # copies nothing


def test_a_base_in_the_hubs_cache_is_links_and_is_copied(apprentice, tmp_path):
  """Its files lie in blobs/, and snapshots/ link to them."""
  base = tmp_path / "models--org--name" / "snapshots" / "abc"
  blobs = tmp_path / "models--org--name" / "blobs"
  blobs.mkdir(parents=True)
  moved = copy_of_base(apprentice, base)
  for number, file in enumerate([f for f in base.rglob("*") if f.is_file()]):
    file.rename(blobs / str(number))
    file.symlink_to(os.path.relpath(blobs / str(number), file.parent))
  save_apprentice(moved, tmp_path / "out")
  assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
  again = load_apprentice(tmp_path / "out")
  assert again.backbone.encode_text(["a dog"]).keys()


def test_half_precision_in_the_file_alone(apprentice, tmp_path):
  save_apprentice(apprentice, tmp_path / "half", dtype="float16")
  again = load_apprentice(tmp_path / "half")
  for name, array in apprentice.params.items():
    assert again.params[name].dtype == np.float32
    np.testing.assert_allclose(again.params[name], array, rtol=1e-3, atol=1e-6)


def test_a_backbone_is_no_apprentice(tiny_backbone):
  with pytest.raises(ValueError, match=r"has no apprentice\.json"):
    load_apprentice(tiny_backbone)


def test_no_such_model():
  with pytest.raises(ValueError, match="No model 'world_aprentice'"):
    load_apprentice("world_aprentice")
