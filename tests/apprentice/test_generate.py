# SPDX-License-Identifier: Apache-2.0
"""Drawing: what a picture depends on, guidance, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from apprentice import generate as drawing
from apprentice.generate import generate, subject_text
from apprentice.model import declare, load_apprentice, save_apprentice
from suti.pipeline.backbone import load_backbone
from tests.apprentice import inputs

SAMPLING = {
  "num_steps": 3,
  "guidance": 3.0,
  "sampler": "ddpm",
  "percentile": 99.5,
  "num_demonstrations": 3,
  "max_demonstrations": 10,
  "guidance_mode": "joint",
  "text_guidance": None,
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


def test_a_picture_is_its_seeds_whatever_stands_beside_it(apprentice, pictures):
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
  """Draws in a mode with weights, from the same noise."""
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
    for mode in ("joint", "two")
  }

  def draw(mode, text, subject):
    return np.asarray(
      compiled[mode](
        apprentice.params,
        apprentice.backbone.codec.params,
        batch,
        null,
        np.arange(2, dtype=np.uint32),
        np.asarray([text, subject], np.float32),
      )
    )

  return draw


def test_two_equal_weights_are_the_joint_one(parts):
  np.testing.assert_allclose(
    parts("two", 3.0, 3.0), parts("joint", 0.0, 3.0), atol=1e-5
  )


def test_each_weight_has_an_effect_of_its_own(parts):
  usual = parts("two", 2.0, 2.0)
  assert np.abs(parts("two", 3.0, 2.0) - usual).max() > 1e-4
  assert np.abs(parts("two", 2.0, 3.0) - usual).max() > 1e-4


def test_weights_of_guidance():
  np.testing.assert_array_equal(drawing.weights({"guidance": 4.0}), [4, 4])
  both = {"guidance": 4.0, "text_guidance": 2.0}
  np.testing.assert_array_equal(drawing.weights(both), [2, 4])


def test_what_a_prompt_is_about():
  assert subject_text("a dog wearing a red hat") == "a dog"
  assert subject_text("A cube shaped stuffed animal") == "a stuffed animal"
  assert subject_text("a cat beside a dog") == "a cat"
  assert subject_text("two Cats in Paris") == "a cat"
  assert subject_text("something else") == ""


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"prompt": "  "}, "The prompt is empty"),
    ({"num": 0}, "num=0: expected 1 or more"),
    ({"steps": 0}, "steps=0: expected 1 or more"),
    ({"captions": ["a dog"]}, "1 captions for 3 pictures"),
    ({"images": 11}, "11 pictures of the subject were given; .* at most 10"),
  ],
)
def test_what_is_refused(apprentice, pictures, options, message):
  options = {"images": 3, "prompt": "a dog"} | options
  images = [pictures[0]] * options.pop("images")
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
