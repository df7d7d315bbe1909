# SPDX-License-Identifier: Apache-2.0
"""The segmenter: its loss, its masks that move with pictures, its folder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.pretrain import segmenter as segmenter_config
from suti.evaluation.segmenter import load_segmenter, overlap
from suti.hf.weights import save
from suti.io.files import read_json, write_json
from suti.models.segmenter import declare_segmenter
from suti.nn.param import functional, init
from suti.pretrain import pictures, segmenter
from suti.pretrain.augment import augment, augment_both


def draw(shots, *, size_px):
  """A white square somewhere on black, and where it is."""
  images, masks = [], []
  for shot in shots:
    rng = np.random.default_rng((shot.subject, shot.seed))
    mask = np.zeros((size_px, size_px), bool)
    top, left = rng.integers(0, size_px // 2, 2)
    mask[top : top + size_px // 2, left : left + size_px // 2] = True
    images.append(np.where(mask[..., None], 255, 0).repeat(3, -1))
    masks.append(mask)
  return {"image": np.stack(images).astype(np.uint8), "mask": np.stack(masks)}


@pytest.fixture
def squares(monkeypatch):
  drawn = []

  def render_shots(shots, *, size_px):
    drawn.append(len(shots))
    return draw(shots, size_px=size_px)

  for module in (pictures, segmenter):
    monkeypatch.setattr(module, "render_shots", render_shots)
  return drawn


def test_the_loss_of_a_perfect_mask_is_none_and_of_its_opposite_much():
  inside = jnp.zeros((1, 4, 4)).at[:, :2].set(1.0)
  right = jnp.where(inside > 0, 20.0, -20.0)
  assert float(segmenter.mask_loss(right, inside)) < 1e-6
  # Cross entropy 20; of 8 and 8 pixels none in common: 1 - 1/17.
  wrong = float(segmenter.mask_loss(-right, inside))
  np.testing.assert_allclose(wrong, 20 + 1 - 1 / 17, rtol=1e-6)


def test_masks_move_with_their_pictures():
  images = np.zeros((8, 32, 32, 3), np.uint8)
  masks = np.zeros((8, 32, 32), bool)
  masks[:, 4:20, 2:14] = True
  images[masks] = 255

  @jax.jit
  def both(images, masks, key):
    return augment_both(images, masks, key), augment(images, key)

  (pixels, inside), alone = both(images, masks, jax.random.key(0))
  np.testing.assert_array_equal(pixels, alone)
  moved = []
  for picture, share in zip(pixels, inside, strict=True):
    seen = np.asarray(picture).mean(-1) > 0
    assert overlap(seen, np.asarray(share) > 0.5) > 0.9
    moved.append(overlap(seen, masks[0]))
  assert min(moved) < 0.5  # some are mirrored


def test_masks_are_rendered_with_their_pictures_and_once(squares, tmp_path):
  config = segmenter_config.get_config("tiny").pool
  pool = pictures.render_pool(config, tmp_path, size_px=8, masks=True)
  again = pictures.render_pool(config, tmp_path, size_px=8, masks=True)
  plain = pictures.render_pool(config, tmp_path, size_px=8)
  assert squares == [16]
  for each in (again, plain):
    np.testing.assert_array_equal(each.image_u8_NHWC, pool.image_u8_NHWC)
  np.testing.assert_array_equal(again.mask_NHW, pool.mask_NHW)
  np.testing.assert_array_equal(pool.mask_NHW, pool.image_u8_NHWC[..., 0] > 0)
  assert plain.mask_NHW is None


def test_it_learns_where_a_square_is(squares, tmp_path):
  """A few steps on pictures that make it easy; kept as a folder."""
  config = segmenter_config.get_config("tiny")
  config.update(
    size_px=16, batch_size=16, num_steps=40, learning_rate=3e-2,
    checkpoint_every=40, log_every=20,
  )  # fmt: skip
  config.model.update(image_size=16, widths=(4,))
  with jax.numpy_dtype_promotion("standard"):  # optax.adamw: float ** int
    summary = segmenter.run(config, tmp_path)
  assert summary["overlap"] > 0.9
  model = tmp_path / "segmenter" / "model"
  assert read_json(model / "training.json")["config"]["num_steps"] == 40
  # Pictures of any size, and masks of theirs.
  image = np.zeros((24, 48, 3), np.uint8)
  image[:12, 24:] = 255
  (mask, other), scores = load_segmenter(model)([image, image[::-1]])
  assert overlap(mask, image[..., 0] > 0) > 0.8
  assert overlap(other, image[::-1, :, 0] > 0) > 0.8
  assert all(0.5 < score <= 1 for score in scores)


def test_what_is_no_segmenter_is_one_line(tmp_path, tiny_identity):
  with pytest.raises(ValueError) as caught:
    load_segmenter(tiny_identity)
  assert str(caught.value) == (
    f"config.label.segmenter: {tiny_identity} is a ViTModel: expected "
    "Segmenter."
  )
  with pytest.raises(ValueError) as caught:
    declare_segmenter({"image_size": 18})
  assert str(caught.value) == (
    "image_size=18 is no multiple of 4, as 3 widths halve it: use a multiple, "
    "or fewer."
  )


def test_before_it_has_learned_it_finds_nothing(tmp_path):
  config = {"model_type": "segmenter", "image_size": 8, "widths": [4, 4, 8]}
  spec, _ = functional(declare_segmenter(config))
  write_json(tmp_path / "config.json", config)
  params = init(spec, jax.random.key(0))
  save(params, spec, tmp_path / "model.safetensors", dtype=jnp.float32)
  masks, scores = load_segmenter(tmp_path)([np.zeros((8, 8, 3), np.uint8)])
  assert not masks[0].any() and scores == [0.0]
