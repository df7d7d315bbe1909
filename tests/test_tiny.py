# SPDX-License-Identifier: Apache-2.0
"""The tiny models that other tests stand on open as the real ones do."""

import jax
import jax.numpy as jnp
import numpy as np

from suti.evaluation.scores import load_scorer
from suti.nn.param import functional
from suti.pipeline.backbone import load_backbone
from tests import tiny


def test_the_backbone_opens_and_predicts(tiny_backbone):
  backbone = load_backbone(tiny_backbone)
  assert backbone.size_px == tiny.SIZE_PX
  assert backbone.latent_shape == (8, 8, 12)
  conditioning = backbone.encode_text(["a dog in the snow", ""])
  assert not np.array_equal(*conditioning["text_BLD"])
  _, apply = functional(backbone.unet)
  x_BHWC = jnp.ones((2, 8, 8, 12))
  out_BHWC = jax.jit(apply)(
    backbone.params, x_BHWC, jnp.array([1, 500]), **conditioning
  )
  assert out_BHWC.shape == x_BHWC.shape
  assert np.isfinite(out_BHWC).all() and np.std(out_BHWC) > 0


def test_the_judges_open_and_tell_pictures_apart(tiny_clip, tiny_identity):
  scorer = load_scorer(clip=tiny_clip, identity=tiny_identity)
  rng = np.random.default_rng(0)
  images = list(rng.integers(0, 256, (3, 16, 16, 3), np.uint8))
  for unit_BD in (
    scorer.clip_images(images),
    scorer.identity(images),
    scorer.clip_texts(["a dog", "a cat", "a red teapot"]),
  ):
    np.testing.assert_allclose(np.linalg.norm(unit_BD, axis=-1), 1, rtol=1e-5)
    assert np.abs(unit_BD[0] - unit_BD[1]).max() > 1e-4


def test_two_writings_are_equal(tmp_path, tiny_backbone):
  again = tiny.write_backbone(tmp_path, unet=tiny.ONE_LEVEL_UNET)
  for path in sorted(again.rglob("*.*")):
    other = tiny_backbone / path.relative_to(again)
    assert path.read_bytes() == other.read_bytes(), path.name
