# SPDX-License-Identifier: Apache-2.0
"""A depth beside latents: as published, and only where a net sees one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.cli import text_only
from suti.images import save_png
from suti.pipeline import text_to_image
from suti.pipeline.depth_input import as_input
from suti.pipeline.text_encoders import open_text_encoders
from tests.commands import error_of
from tests.pipeline import tiny_pipelines

NEAR = np.random.default_rng(0).uniform(3, 9, (20, 31)).astype(np.float32)


def test_a_ramp_stays_a_ramp_from_minus_one_to_one():
  """Bicubic weights sum to one and keep lines; the ends repeat."""
  ramp = np.tile(np.arange(40.0), (8, 1))
  found = as_input(ramp, (4, 10))[..., 0]
  assert found.shape == (4, 10) and found.dtype == np.float32
  np.testing.assert_allclose(found[:, [0, -1]], [[-1, 1]] * 4, atol=1e-6)
  np.testing.assert_allclose(np.diff(found[:, 1:-1], n=2), 0, atol=1e-6)
  np.testing.assert_array_equal(found[0], found[3])
  with pytest.raises(ValueError, match="the same everywhere: give a picture"):
    as_input(np.full((8, 8), 3.0), (4, 4))


@pytest.mark.parity
def test_it_is_the_published_preparation():
  """As StableDiffusionDepth2ImgPipeline prepares a map that it is given."""
  import torch

  for shape in ((5, 8), (20, 31), (40, 64)):
    small = torch.nn.functional.interpolate(
      torch.tensor(NEAR)[None, None],
      size=shape,
      mode="bicubic",
      align_corners=False,
    )
    low, high = small.min(), small.max()
    expected = (2.0 * (small - low) / (high - low) - 1.0)[0, 0].numpy()
    np.testing.assert_allclose(
      as_input(NEAR, shape)[..., 0], expected, atol=2e-6
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  unet = tiny_pipelines.ONE_LEVEL["sd2"]
  return tiny_pipelines.write(
    "sd2", tmp_path_factory.mktemp("depth"), unet=unet | {"in_channels": 5}
  )


def test_a_net_for_depth_is_shown_it_behind_its_latents(folder, monkeypatch):
  stage = text_to_image.open_cascade_stage(folder)
  assert stage.sees_depth
  text, null = text_to_image.encode_prompts(
    open_text_encoders(folder, rows=4), ["a dog", "a cat"]
  )
  seen = []

  def advance(params, plan, slots, keys_B, conditions, guidance):
    seen.append(conditions)
    return slots

  stage = dataclasses.replace(stage, advance=advance)
  monkeypatch.setattr(
    type(stage.codec), "decode", lambda self, params, x: x, raising=False
  )
  text_to_image.draw(stage, text, null, seeds=[0, 1], near_HW=NEAR)
  side = stage.size_px // stage.codec.patch
  expected = as_input(NEAR, (side, side))
  for condition in seen[0]:  # with the text and without
    np.testing.assert_array_equal(
      condition["beside_BHWC"], np.stack([expected] * 2)
    )
  with pytest.raises(ValueError) as caught:
    text_to_image.draw(stage, text, null, seeds=[0, 1])
  assert str(caught.value) == (
    f"{folder / 'unet'} has an input more than its latents have channels, for "
    "a depth: give --depth (near_HW=), a picture in which near is bright."
  )
  blind = dataclasses.replace(stage, sees_depth=False)
  with pytest.raises(ValueError) as caught:
    text_to_image.draw(blind, text, null, seeds=[0, 1], near_HW=NEAR)
  assert str(caught.value) == (
    f"--depth (near_HW=): {folder / 'unet'} sees no depth beside its input: "
    "leave it out, or give a model such as Stable Diffusion 2's for depth."
  )


def test_what_is_beside_the_input_is_behind_its_channels():
  """One step of the sampler, of a net that says what it sees."""
  from suti.diffusion import samplers
  from suti.diffusion.scheduler_config import from_config

  shapes = []

  def apply(params, x_BHWC, t_B, **conditioning):
    shapes.append(x_BHWC.shape)
    return x_BHWC[..., :4] * 0 + x_BHWC[..., 4:]

  plan = from_config(
    {
      "_class_name": "DDIMScheduler",
      "num_train_timesteps": 1000,
      "beta_schedule": "linear",
      "beta_start": 1e-4,
      "beta_end": 0.02,
      "prediction_type": "sample",
      "clip_sample": False,
      "set_alpha_to_one": True,
    },
    num_steps=1,
  )
  advance = text_to_image._make_sampler(apply, predicts_variance=False)
  beside = jnp.full((1, 2, 2, 1), 0.25)
  slots = samplers.start(plan, jnp.zeros((1, 2, 2, 4)))
  keys_B = samplers.row_keys(jax.random.key(0), np.array([0]))
  slots = advance({}, plan, slots, keys_B, [{"beside_BHWC": beside}], 1.0)
  assert shapes == [(1, 2, 2, 5)]
  np.testing.assert_allclose(slots[0], 0.25, atol=1e-6)


def test_the_flag_reads_a_picture(tmp_path, capsys):
  image = np.zeros((64, 64, 3), np.uint8)
  image[:, 32:] = 200
  save_png(tmp_path / "near.png", image)
  near_HW = text_only._read_depth(str(tmp_path / "near.png"))
  assert near_HW[0, 0] == 0 and near_HW[0, 40] == 200
  said = error_of(
    capsys,
    *("generate", "--subject", tmp_path, "--prompt", "a dog"),
    *("--out", tmp_path / "out.png", "--depth", tmp_path / "near.png"),
  )
  assert said == (
    "Error: --depth goes with a text alone: leave it out, or leave out "
    "--subject."
  )
