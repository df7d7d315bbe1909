# SPDX-License-Identifier: Apache-2.0
"""Pictures as people have them, good and bad; and the sheets made of them."""

import io
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageCms

from suti import images


def scene(width=96, height=80):
  """Red left, blue right, and a green bar on top: no two turns look alike."""
  image = np.zeros((height, width, 3), np.uint8)
  image[:, : width // 2] = (220, 30, 30)
  image[:, width // 2 :] = (30, 30, 220)
  image[: height // 5] = (30, 200, 30)
  return image


def packed(image, format="PNG", **options):
  buffer = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(buffer, format, **options)
  return buffer.getvalue()


def assert_close(one, two, tolerance):
  assert one.dtype == np.uint8
  assert one.shape == two.shape
  assert np.abs(one.astype(int) - two.astype(int)).mean() <= tolerance


# --- In ----------------------------------------------------------------------


@pytest.mark.parametrize(
  ("format", "options", "tolerance"),
  [
    ("PNG", {}, 0),
    ("JPEG", {"quality": 95}, 3),
    ("WEBP", {"lossless": True}, 0),
    ("WEBP", {"quality": 90}, 4),
    ("BMP", {}, 0),
    ("TIFF", {}, 0),
    ("GIF", {}, 3),
  ],
)
def test_formats(tmp_path, format, options, tolerance):
  content = packed(scene(), format, **options)
  assert_close(images.load_image(content), scene(), tolerance)
  path = tmp_path / "no_suffix"
  path.write_bytes(content)
  assert_close(images.load_image(path), scene(), tolerance)
  assert_close(images.load_image(str(path)), scene(), tolerance)


TURNS = {
  1: lambda x: x,
  2: lambda x: x[:, ::-1],
  3: lambda x: x[::-1, ::-1],
  4: lambda x: x[::-1],
  5: lambda x: x.transpose(1, 0, 2),
  6: lambda x: np.rot90(x, 1),
  7: lambda x: np.rot90(x.transpose(1, 0, 2), 2),
  8: lambda x: np.rot90(x, 3),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_pictures_stand_as_the_camera_was_held(orientation, format):
  exif = Image.Exif()
  exif[0x0112] = orientation
  # What a camera stores is the scene turned the other way.
  stored = np.ascontiguousarray(TURNS[orientation](scene()))
  content = packed(stored, format, exif=exif.tobytes())
  assert_close(images.load_image(content), scene(), 8)


def test_damaged_tags_do_not_cost_the_picture():
  content = packed(scene(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
  assert_close(images.load_image(content), scene(), 8)
  exif = Image.Exif()
  exif[0x0112] = 77
  content = packed(scene(), "PNG", exif=exif.tobytes())
  assert_close(images.load_image(content), scene(), 0)


def test_cmyk():
  image = Image.fromarray(scene()).convert("CMYK")
  content = packed(image, "JPEG", quality=95)
  assert Image.open(io.BytesIO(content)).mode == "CMYK"
  assert_close(images.load_image(content), scene(), 4)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey(mode):
  grey = Image.fromarray(scene()).convert("L")
  expected = np.array(grey)
  if mode == "1":
    grey, expected = grey.point(lambda v: 255 * (v > 100), "1"), None
  elif mode == "LA":
    grey = grey.convert("LA")
  loaded = images.load_image(packed(grey))
  assert loaded.shape == (80, 96, 3)
  assert (loaded[..., 0] == loaded[..., 2]).all()
  if expected is None:
    assert set(np.unique(loaded)) == {0, 255}
  else:
    np.testing.assert_array_equal(loaded[..., 1], expected)


def test_transparency_lies_on_white():
  image = np.dstack([scene(), np.full((80, 96), 255, np.uint8)])
  image[:, :48, 3] = 0
  image[:, 48:, 3] = 128
  for content in (
    packed(image),
    packed(image, "WEBP", lossless=True, exact=True),
    packed(image, "TIFF"),
  ):
    loaded = images.load_image(content)
    assert (loaded[:, :48] == 255).all()
    expected = scene()[:, 48:] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(loaded[:, 48:] - expected).max() <= 2


def test_palettes_with_and_without_transparency():
  palette = Image.fromarray(scene()).quantize(8)
  assert_close(images.load_image(packed(palette)), scene(), 3)
  hidden = int(np.array(palette)[70, 5])  # The index of the red half.
  for format in ("PNG", "GIF"):
    loaded = images.load_image(packed(palette, format, transparency=hidden))
    assert (loaded[70, 5] == 255).all()
    assert_close(loaded[:, 48:], scene()[:, 48:], 3)


def test_transparency_by_colour():
  content = packed(scene(), transparency=(220, 30, 30))
  loaded = images.load_image(content)
  assert (loaded[70, 5] == 255).all()
  assert tuple(loaded[70, 90]) == (30, 30, 220)


def test_sixteen_bits_keep_their_shades():
  ramp = np.linspace(0, 65535, 96).astype(np.uint16)
  grey = np.repeat(ramp[None], 80, axis=0)
  for format in ("PNG", "TIFF"):
    loaded = images.load_image(packed(Image.fromarray(grey), format))
    expected = np.round(grey / 257.0)
    np.testing.assert_allclose(loaded[..., 0], expected, atol=1)
  # Sixteen bits of colour, which Pillow cannot write: by hand.
  rows = np.repeat(
    (scene().astype(np.uint16) * 257).byteswap().reshape(80, -1), 1, axis=0
  )
  raw = b"".join(b"\x00" + row.tobytes() for row in rows)
  content = png_chunks(96, 80, depth=16, data=zlib.compress(raw))
  assert_close(images.load_image(content), scene(), 0)


def test_floats():
  ramp = np.linspace(0, 1, 96, dtype=np.float32)[None].repeat(80, axis=0)
  loaded = images.load_image(packed(Image.fromarray(ramp), "TIFF"))
  np.testing.assert_allclose(loaded[..., 0], ramp * 255, atol=1)


def test_colour_profiles_are_applied_and_bad_ones_ignored():
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  content = packed(scene(), icc_profile=profile)
  assert_close(images.load_image(content), scene(), 1)
  content = packed(scene(), icc_profile=b"not a profile" * 20)
  assert_close(images.load_image(content), scene(), 0)
  swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
  images.load_image(packed(scene(), icc_profile=swapped))


def test_of_several_frames_the_first():
  frames = [Image.fromarray(np.roll(scene(), 48 * n, axis=1)) for n in range(3)]
  for format in ("GIF", "WEBP", "TIFF", "MPO"):  # Phones write MPO, as .jpg.
    content = packed(frames[0], format, save_all=True, append_images=frames[1:])
    assert_close(images.load_image(content), scene(), 8)


def png_chunks(width, height, *, depth=8, data=b""):
  """A PNG by hand, whose header may say anything."""

  def chunk(name, body):
    check = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + check

  header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", data)
    + chunk(b"IEND", b"")
  )


PNG = packed(scene(512, 512))
JPEG = packed(np.random.default_rng(0).integers(
  0, 255, (256, 256, 3), dtype=np.uint8), "JPEG")  # fmt: skip


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"", "is empty (0 bytes)"),
    (b"\x00" * 100, "not a format that is known"),
    (b"<html>404 not found</html>", "not a format that is known"),
    (PNG[: len(PNG) // 2], "cannot be read as a picture"),
    (JPEG[: len(JPEG) // 2], "truncated"),
    (PNG[:30], "cannot be read as a picture"),
    (JPEG[:200], "cannot be read as a picture"),
    (PNG.replace(b"IDAT", b"XDAT"), "cannot be read as a picture"),
    (packed(scene(63, 200)), "is 63x200 px: give a picture of at least 64"),
    (packed(scene(200, 63)), "is 200x63 px"),
    (packed(scene(8001, 64)), "is 8001x64 px: give a picture of at most 8000"),
    (png_chunks(60000, 60000), "8000 px a side"),
    (png_chunks(2**31 - 1, 2**31 - 1), "8000 px a side"),
    (png_chunks(7000, 7000), "cannot be read as a picture"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a format"),
  ],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_pictures_are_one_line(tmp_path, content, words):
  path = tmp_path / "photo.png"
  path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    images.load_image(path)
  text = str(caught.value)
  assert text.startswith(str(path)) and words in text and "\n" not in text
  with pytest.raises(ValueError) as caught:
    images.load_image(content)
  assert str(caught.value).startswith("The picture ")


def test_the_extremes_are_taken():
  assert images.load_image(packed(scene(64, 64))).shape == (64, 64, 3)
  wide = images.load_image(packed(scene(8000, 64)))
  assert wide.shape == (64, 8000, 3)
  with pytest.raises(ValueError, match="at most 8000 px a side and 4096"):
    images.load_image(packed(scene(65, 64)), max_pixels=64 * 64)


def test_what_is_not_there_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"none\.png does not exist"):
    images.load_image(tmp_path / "none.png")
  with pytest.raises(ValueError, match="is a folder"):
    images.load_image(tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
  # A true one: 50 MB of zeros in 50 kB, behind a header of 20000 x 20000.
  content = png_chunks(20000, 20000, data=zlib.compress(bytes(50_000_000), 9))
  monkeypatch.setattr(
    Image.Image, "load", lambda self: pytest.fail("unpacked a bomb")
  )
  with pytest.raises(ValueError, match="8000 px a side"):
    images.load_image(content)


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
  np.testing.assert_array_equal(images.load_image(path), scene())
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
