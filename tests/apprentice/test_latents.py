# SPDX-License-Identifier: Apache-2.0
"""Latents of the examples' pictures: the same, once, whole or not at all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import apprentice.train
from apprentice.data import batches
from apprentice.fields import to_latents
from apprentice.latents import encode_examples
from apprentice.methods.suti import METHOD
from suti.pipeline.backbone import Backbone, load_backbone
from suti.runtime.log import read_log
from tests.apprentice import inputs
from tests.tiny import SIZE_PX, SMALLEST_UNET, write_latent_backbone

NUM = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("latent") / "base"
  return write_latent_backbone(path, unet=SMALLEST_UNET)


@pytest.fixture(scope="module")
def backbone(folder):
  return load_backbone(folder)


@pytest.fixture(scope="module")
def examples():
  return inputs.draw_examples(NUM)


def encode(backbone, image_u8_HWC):
  x_BHWC = jnp.asarray(image_u8_HWC[None], jnp.float32) / 127.5 - 1
  return np.asarray(backbone.to_latent(x_BHWC)[0])


def test_every_picture_is_its_latent(backbone, examples, tmp_path):
  latents = encode_examples(examples, backbone, tmp_path / "latents")
  assert len(latents) == NUM
  for ours, example in zip(latents, examples, strict=True):
    assert ours.prompt == example.prompt
    assert ours.captions == example.captions
    pairs = zip(
      (ours.image, *ours.demonstrations),
      (example.image, *example.demonstrations),
      strict=True,
    )
    for latent_HWC, image_u8_HWC in pairs:
      # float16 has 11 bits.
      np.testing.assert_allclose(
        latent_HWC, encode(backbone, image_u8_HWC), rtol=1e-3, atol=1e-3
      )


def test_a_picture_of_two_examples_is_encoded_once(
  backbone, examples, tmp_path
):
  twice = [*examples, dataclasses.replace(examples[0], prompt="a wet dog")]
  latents = encode_examples(twice, backbone, tmp_path / "latents")
  distinct = {
    image.tobytes() for e in examples for image in (e.image, *e.demonstrations)
  }
  size = np.prod(backbone.latent_shape) * 2
  stored = (tmp_path / "latents" / "latents.bin").stat().st_size
  assert stored == len(distinct) * size
  np.testing.assert_array_equal(latents[NUM].image, latents[0].image)
  assert latents[NUM].prompt == "a wet dog"


def test_what_is_there_is_not_encoded_again(
  backbone, examples, tmp_path, monkeypatch
):
  first = encode_examples(examples, backbone, tmp_path / "latents")
  monkeypatch.setattr(Backbone, "encode_pictures", None)
  again = encode_examples(examples, backbone, tmp_path / "latents")
  np.testing.assert_array_equal(again[3].image, first[3].image)


def test_a_stop_leaves_nothing_half_written(
  backbone, examples, tmp_path, monkeypatch
):
  def stop(backbone, images_u8, **_):
    raise KeyboardInterrupt

  monkeypatch.setattr(Backbone, "encode_pictures", stop)
  with pytest.raises(KeyboardInterrupt):
    encode_examples(examples, backbone, tmp_path / "latents")
  assert not list(tmp_path.iterdir())


def test_batches_are_those_of_the_pictures(backbone, examples, tmp_path):
  latents = encode_examples(examples, backbone, tmp_path / "latents")
  options = {
    "fields": METHOD.fields(None),
    "encode_text": backbone.encode_text,
    "size_px": SIZE_PX,
    "batch_size": 4,
    "num_demonstrations": 6,  # two are missing: blanks
  }
  ours = next(batches([latents], **options))
  others = next(batches([examples], **options))
  assert ours["demonstrations"].dtype == ours["image"].dtype == np.float16
  ours, others = (
    to_latents(backbone, backbone.codec.params, batch, dtype=jnp.float32)
    for batch in (ours, others)
  )
  shown = others["demonstration_mask"][..., None, None, None]
  assert ours["image"].dtype == np.float32
  for batch in (ours, others):
    batch["demonstrations"] = np.where(shown, batch["demonstrations"], 0)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), ours, others
  )


def test_training_is_the_same_with_and_without(folder, tmp_path):
  losses = []
  for cached in (True, False):
    workdir = tmp_path / str(cached)
    inputs.write_pack(workdir)
    config = inputs.make_config(
      folder,
      num_devices=1,
      num_steps=4,
      log_every=1,
      checkpoint_every=2,
      cache_latents=cached,
    ).unlock()
    config.method.trainable = r"\.adapter\."  # fewer compile faster
    with inputs.on_devices(1):
      apprentice.train.run(config, workdir)
    train = workdir / "apprentice" / "train"
    losses.append(
      [
        line.get("loss", line.get("validation_loss"))
        for line in read_log(train)
      ]
    )
    assert not (train / "latents").exists()
  np.testing.assert_allclose(*losses, rtol=1e-3)
