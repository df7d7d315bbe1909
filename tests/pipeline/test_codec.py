# SPDX-License-Identifier: Apache-2.0
"""Pictures that are decoded in parts: the same, in the memory of a part."""

import jax
import numpy as np
import pytest

from suti.pipeline import codec as codecs
from tests.tiny import SIZE_PX, write_latent_backbone


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
  folder = write_latent_backbone(tmp_path_factory.mktemp("latent") / "base")
  return codecs.open_codec(folder)


def latents(codec, num, *, size_px=SIZE_PX):
  side = size_px // codec.patch
  shape = (num, side, side, codec.channels)
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def compiled(codec, x_BHWC):
  def decode(params, x_BHWC):
    return codecs.decode_in_parts(codec, params, x_BHWC)

  return jax.jit(decode).lower(codec.params, x_BHWC).compile()


def test_in_parts_it_is_the_same(codec, monkeypatch):
  """Seven pictures, three in a batch: three batches, two rows of padding."""
  x_BHWC = latents(codec, 7)
  whole = np.asarray(codec.decode(codec.params, x_BHWC))
  whole_batch = compiled(codec, x_BHWC)
  assert "while" not in whole_batch.as_text()
  np.testing.assert_array_equal(whole_batch(codec.params, x_BHWC), whole)
  monkeypatch.setattr(codecs, "_PIXELS_PER_CALL", 3 * SIZE_PX**2)
  parts = compiled(codec, x_BHWC)
  assert "while" in parts.as_text()
  np.testing.assert_allclose(
    parts(codec.params, x_BHWC), whole, rtol=0, atol=1e-5
  )


def test_many_take_no_more_than_a_part(codec, monkeypatch):
  def held(num):
    x_BHWC = latents(codec, num, size_px=4 * SIZE_PX)
    return compiled(codec, x_BHWC).memory_analysis().temp_size_in_bytes

  assert held(8) > 1.9 * held(4)
  monkeypatch.setattr(codecs, "_PIXELS_PER_CALL", 4 * (4 * SIZE_PX) ** 2)
  assert held(16) < 1.1 * held(4)


def test_pixels_are_put_in_order_in_one_step(monkeypatch):
  monkeypatch.setattr(codecs, "_PIXELS_PER_CALL", 1)
  codec = codecs.pixels(2)
  x_BHWC = latents(codec, 5)
  program = jax.make_jaxpr(
    lambda x: codecs.decode_in_parts(codec, codec.params, x)
  )(x_BHWC)
  assert str(program) == str(
    jax.make_jaxpr(lambda x: codec.decode(codec.params, x))(x_BHWC)
  )
