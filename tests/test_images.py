# SPDX-License-Identifier: Apache-2.0
"""Pictures in memory, and the sheets made of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from suti import images
from suti.io.image_files import load_image


def scene(width=96, height=80):
  """Red left, blue right, and a green bar on top: no two turns look alike."""
  image = np.zeros((height, width, 3), np.uint8)
  image[:, : width // 2] = (220, 30, 30)
  image[:, width // 2 :] = (30, 30, 220)
  image[: height // 5] = (30, 200, 30)
  return image


# --- Shapes and ranges -------------------------------------------------------


def test_the_centre_is_kept():
  image = np.zeros((100, 300, 3), np.uint8)
  image[:, 100:200] = 200
  square = images.square_crop_resize(image, 50)
  assert square.shape == (50, 50, 3)
  assert (square == 200).all()
  tall = images.square_crop_resize(np.swapaxes(image, 0, 1), 50)
  assert (tall == 200).all()
  same = images.square_crop_resize(image[:, 100:200], 100)
  np.testing.assert_array_equal(same, image[:, 100:200])


def test_shrinking_is_antialiased():
  stripes = np.zeros((256, 256, 3), np.uint8)
  stripes[:, ::2] = 255
  small = images.square_crop_resize(stripes, 64)
  assert np.abs(small.astype(int) - 127).max() < 20
  large = images.square_crop_resize(scene(64, 64), 256)
  assert large.shape == (256, 256, 3) and large.dtype == np.uint8


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_ranges_there_and_back(array):
  every_u8 = array(np.arange(256, dtype=np.uint8))
  pm1 = images.to_pm1(every_u8)
  assert pm1.dtype == np.float32 and isinstance(pm1, type(every_u8))
  assert float(pm1[0]) == -1.0 and float(pm1[255]) == 1.0
  back = images.to_u8(pm1)
  assert back.dtype == np.uint8
  np.testing.assert_array_equal(back, every_u8)
  wild = images.to_u8(array(np.float32([-9.0, 9.0])))
  np.testing.assert_array_equal(wild, [0, 255])


# --- Out ---------------------------------------------------------------------


def test_saved_pictures_come_back(tmp_path):
  path = tmp_path / "deep" / "a.png"
  images.save_png(path, scene())
  np.testing.assert_array_equal(load_image(path), scene())
  assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def dark(sheet):
  return (sheet.max(axis=2) < 100).any(axis=1)


def test_a_sheet_without_texts_is_pictures_on_white():
  one, two = scene(64, 64), scene(64, 64)[::-1]
  sheet = images.contact_sheet([[one, two], [two]], gap_px=4)
  assert sheet.shape == (2 * (64 + 4) + 4, 2 * (64 + 4) + 4, 3)
  np.testing.assert_array_equal(sheet[4:68, 4:68], one)
  np.testing.assert_array_equal(sheet[4:68, 72:136], two)
  np.testing.assert_array_equal(sheet[72:136, 4:68], two)
  assert (sheet[72:136, 72:] == 255).all()  # A row may be shorter.


def test_pictures_are_fitted_into_cells():
  wide = np.full((50, 100, 3), 7, np.uint8)
  sheet = images.contact_sheet([[wide]], size_px=200, gap_px=0)
  assert sheet.shape == (200, 200, 3)
  assert (sheet[50:150] == 7).all()
  assert (sheet[:50] == 255).all() and (sheet[150:] == 255).all()


def test_texts_stand_above_a_row_or_below_pictures():
  light = np.full((64, 64, 3), 200, np.uint8)
  bare = images.contact_sheet([[light, light]])
  above = images.contact_sheet([[light, light]], ["a red dog"])
  below = images.contact_sheet([[light, light]], [["", "a red dog"]])
  assert not dark(bare).any()
  assert above.shape[0] > bare.shape[0] and below.shape[0] > bare.shape[0]
  rows = np.flatnonzero(dark(above))
  assert rows.min() >= 0 and rows.max() < above.shape[0] - 64
  rows = np.flatnonzero(dark(below))
  assert rows.min() > 64
  # Under the second picture, not under the first.
  assert not dark(below[:, :70]).any()


def test_long_texts_are_wrapped_and_cut_inside_their_cell():
  light = np.full((96, 96, 3), 200, np.uint8)
  text = "a very long prompt about a dog " * 20
  short = images.contact_sheet([[light, light]], [["a dog", ""]])
  sheet = images.contact_sheet([[light, light]], [[text, ""]])
  assert short.shape[0] < sheet.shape[0] < 3 * short.shape[0]
  assert not dark(sheet[:, 104:]).any()
  images.contact_sheet([[light]], [["x" * 500]])
  images.contact_sheet([[light]], ["Ünïcödé — “quotes” 🐕"])
