# SPDX-License-Identifier: Apache-2.0
"""Pictures in files as people have them, good, large and bad."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from suti.io import image_files
from suti.io.image_files import load_image


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
    ("AVIF", {"quality": 90}, 4),
  ],
)
def test_formats(tmp_path, format, options, tolerance):
  content = packed(scene(), format, **options)
  assert_close(load_image(content), scene(), tolerance)
  path = tmp_path / "no_suffix"
  path.write_bytes(content)
  assert_close(load_image(path), scene(), tolerance)
  assert_close(load_image(str(path)), scene(), tolerance)


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
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_pictures_stand_as_the_camera_was_held(orientation, format):
  exif = Image.Exif()
  exif[0x0112] = orientation
  # What a camera stores is the scene turned the other way.
  stored = np.ascontiguousarray(TURNS[orientation](scene()))
  content = packed(stored, format, exif=exif.tobytes())
  assert_close(load_image(content), scene(), 8)


def test_damaged_tags_do_not_cost_the_picture():
  content = packed(scene(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
  assert_close(load_image(content), scene(), 8)
  exif = Image.Exif()
  exif[0x0112] = 77
  content = packed(scene(), "PNG", exif=exif.tobytes())
  assert_close(load_image(content), scene(), 0)


def test_cmyk():
  image = Image.fromarray(scene()).convert("CMYK")
  content = packed(image, "JPEG", quality=95)
  assert Image.open(io.BytesIO(content)).mode == "CMYK"
  assert_close(load_image(content), scene(), 4)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey(mode):
  grey = Image.fromarray(scene()).convert("L")
  expected = np.array(grey)
  if mode == "1":
    grey, expected = grey.point(lambda v: 255 * (v > 100), "1"), None
  elif mode == "LA":
    grey = grey.convert("LA")
  loaded = load_image(packed(grey))
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
    loaded = load_image(content)
    assert (loaded[:, :48] == 255).all()
    expected = scene()[:, 48:] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(loaded[:, 48:] - expected).max() <= 2


def test_palettes_with_and_without_transparency():
  palette = Image.fromarray(scene()).quantize(8)
  assert_close(load_image(packed(palette)), scene(), 3)
  hidden = int(np.array(palette)[70, 5])  # The index of the red half.
  for format in ("PNG", "GIF"):
    loaded = load_image(packed(palette, format, transparency=hidden))
    assert (loaded[70, 5] == 255).all()
    assert_close(loaded[:, 48:], scene()[:, 48:], 3)


def test_transparency_by_colour():
  content = packed(scene(), transparency=(220, 30, 30))
  loaded = load_image(content)
  assert (loaded[70, 5] == 255).all()
  assert tuple(loaded[70, 90]) == (30, 30, 220)


def test_sixteen_bits_keep_their_shades():
  ramp = np.linspace(0, 65535, 96).astype(np.uint16)
  grey = np.repeat(ramp[None], 80, axis=0)
  for format in ("PNG", "TIFF"):
    loaded = load_image(packed(Image.fromarray(grey), format))
    expected = np.round(grey / 257.0)
    np.testing.assert_allclose(loaded[..., 0], expected, atol=1)
  # Sixteen bits of colour, which Pillow cannot write: by hand.
  rows = np.repeat(
    (scene().astype(np.uint16) * 257).byteswap().reshape(80, -1), 1, axis=0
  )
  raw = b"".join(b"\x00" + row.tobytes() for row in rows)
  content = png_chunks(96, 80, depth=16, data=zlib.compress(raw))
  assert_close(load_image(content), scene(), 0)


def test_floats():
  ramp = np.linspace(0, 1, 96, dtype=np.float32)[None].repeat(80, axis=0)
  loaded = load_image(packed(Image.fromarray(ramp), "TIFF"))
  np.testing.assert_allclose(loaded[..., 0], ramp * 255, atol=1)


def test_colour_profiles_are_applied_and_bad_ones_ignored():
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  content = packed(scene(), icc_profile=profile)
  assert_close(load_image(content), scene(), 1)
  content = packed(scene(), icc_profile=b"not a profile" * 20)
  assert_close(load_image(content), scene(), 0)
  swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
  load_image(packed(scene(), icc_profile=swapped))


def test_of_several_frames_the_first():
  frames = [Image.fromarray(np.roll(scene(), 48 * n, axis=1)) for n in range(3)]
  for format in ("GIF", "WEBP", "TIFF", "MPO"):  # Phones write MPO, as .jpg.
    content = packed(frames[0], format, save_all=True, append_images=frames[1:])
    assert_close(load_image(content), scene(), 8)


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
    (b"<html>404 not found</html>", "(HTML, which is not read here)"),
    (PNG[: len(PNG) // 2], "cannot be read as a picture"),
    (JPEG[: len(JPEG) // 2], "truncated"),
    (PNG[:30], "cannot be read as a picture"),
    (JPEG[:200], "cannot be read as a picture"),
    (PNG.replace(b"IDAT", b"XDAT"), "cannot be read as a picture"),
    (packed(scene(63, 200)), "is 63x200 px: give a picture of at least 64"),
    (packed(scene(200, 63)), "is 200x63 px"),
    (png_chunks(65536, 64), "is 65536x64 px: give a picture of at most 65535"),
    (png_chunks(20000, 20000), "is 20000x20000 px: give a picture of at most"),
    (png_chunks(60000, 60000), "declares too many pixels: give a picture of"),
    (png_chunks(2**31 - 1, 2**31 - 1), "at most 65535 px a side and 250000000"),
    (b"\xff\x0a" + bytes(100), "(JPEG XL, which is not read here)"),
    (b"\0\0\0\x18ftypqt  " + bytes(90), "(video, which is not read here)"),
    (png_chunks(7000, 7000), "cannot be read as a picture"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a format"),
  ],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_pictures_are_one_line(tmp_path, content, words):
  path = tmp_path / "photo.png"
  path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    load_image(path)
  text = str(caught.value)
  assert text.startswith(str(path)) and words in text and "\n" not in text
  with pytest.raises(ValueError) as caught:
    load_image(content)
  assert str(caught.value).startswith("The picture ")


def test_the_extremes_are_taken():
  assert load_image(packed(scene(64, 64))).shape == (64, 64, 3)
  wide = load_image(packed(scene(65535, 64)))
  assert wide.shape == (64, 65535, 3)


def test_what_is_not_there_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"none\.png does not exist"):
    load_image(tmp_path / "none.png")
  with pytest.raises(ValueError, match="is a folder"):
    load_image(tmp_path)


def test_a_name_that_no_disk_takes_is_one_line(tmp_path):
  with pytest.raises(ValueError, match=r"cannot be read \(File name too long"):
    load_image(tmp_path / ("x" * 5000 + ".png"))


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
  # A true one: 50 MB of zeros in 50 kB, behind a header of 20000 x 20000.
  content = png_chunks(20000, 20000, data=zlib.compress(bytes(50_000_000), 9))
  monkeypatch.setattr(
    Image.Image, "load", lambda self: pytest.fail("unpacked a bomb")
  )
  with pytest.raises(
    ValueError, match="at most 65535 px a side and 250000000 pix"
  ):
    load_image(content)


# --- HEIC --------------------------------------------------------------------


def heic(image=None, **options):
  pillow_heif = pytest.importorskip("pillow_heif")
  pillow_heif.register_heif_opener()
  return packed(scene() if image is None else image, "HEIF", **options)


def test_heic_is_read_whatever_its_name(tmp_path):
  path = tmp_path / "IMG_0001.JPG"  # as mail programs rename it
  path.write_bytes(heic(quality=90))
  assert_close(load_image(path), scene(), 4)


@pytest.mark.parametrize("orientation", TURNS)
def test_heic_orientation_is_applied(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  stored = np.ascontiguousarray(TURNS[orientation](scene()))
  content = heic(stored, quality=90, exif=exif.tobytes())
  assert_close(load_image(content), scene(), 8)


def test_damaged_heic_and_avif_are_called_so():
  avif = packed(scene(), "AVIF")
  for content, kind in ((heic(), "HEIC"), (avif, "AVIF")):
    with pytest.raises(ValueError, match=rf"\({kind}, but damaged\)"):
      load_image(content[:24] + bytes(200))


def test_a_large_heic_is_reduced(monkeypatch):
  content = heic(scene(192, 160), quality=95)
  monkeypatch.setattr(image_files, "FULL_PIXELS", 96 * 80)
  assert_close(load_image(content), scene(), 8)


def test_without_its_package_heic_is_refused_by_name(tmp_path, monkeypatch):
  path = tmp_path / "a.heic"
  path.write_bytes(heic())
  monkeypatch.setattr(image_files, "_opens_heif", lambda: False)
  with pytest.raises(ValueError) as caught:
    load_image(path)
  assert str(caught.value) == (
    f"{path} is a HEIC picture: pip install pillow-heif, or convert to JPEG."
  )
  assert ".heic" not in image_files.suffixes()
  (tmp_path / "b.jpg").write_bytes(packed(scene(), "JPEG"))
  pictures, skipped = image_files.list_pictures(tmp_path)
  assert [file.name for file in pictures] == ["b.jpg"]
  assert image_files.describe_skipped(skipped, root=tmp_path) == (
    "1 file is not read: 1 .heic (a.heic; pip install pillow-heif, or convert "
    "to JPEG)."
  )


def test_the_absence_of_a_package_is_seen(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
  assert not image_files._opens_heif.__wrapped__()


# --- Folders -----------------------------------------------------------------


def test_files_that_are_not_read_are_counted_by_kind(tmp_path):
  for name in (
    "a.JPG",
    "b.jfif",
    "c.avif",
    "d.Tiff",
    "e.mpo",
    "f.jpe",
    "g.mov",
    "h.mov",
    "notes.txt",
    "LICENSE",
    "._a.JPG",
    ".DS_Store",
    "Thumbs.db",
  ):
    (tmp_path / name).touch()
  (tmp_path / "deeper.png").mkdir()
  pictures, skipped = image_files.list_pictures(tmp_path)
  assert [file.name[0] for file in pictures] == list("abcdef")
  assert image_files.describe_skipped(skipped, root=tmp_path.parent) == (
    f"5 files are not read: 2 .mov ({tmp_path.name}/g.mov, ...; video), "
    f"1 .txt ({tmp_path.name}/notes.txt), 1 hidden ({tmp_path.name}/._a.JPG), "
    f"1 no suffix ({tmp_path.name}/LICENSE)."
  )
  assert image_files.describe_skipped({}, root=tmp_path) == ""


def test_the_line_on_skipped_files_is_bounded(tmp_path):
  kinds = {f".x{i:02d}": [tmp_path / f"a.x{i:02d}"] for i in range(50)}
  line = image_files.describe_skipped(kinds, root=tmp_path)
  assert line.startswith("50 files are not read: 1 .x00 (a.x00), ")
  assert line.endswith("1 .x07 (a.x07), 42 of 42 other kinds.")


# --- Large pictures ----------------------------------------------------------


LARGE = [
  ("JPEG", "RGB", {"quality": 95}, 2),
  ("JPEG", "RGB", {"quality": 95, "progressive": True}, 2),
  ("JPEG", "CMYK", {"quality": 95}, 2),
  ("JPEG", "L", {"quality": 95}, 2),
  ("PNG", "RGB", {}, 2),
  ("PNG", "RGBA", {}, 2),
  ("PNG", "LA", {}, 2),
  ("PNG", "P", {}, 2),
  ("PNG", "1", {}, 2),
  ("PNG", "I;16", {}, 2),
  ("TIFF", "F", {}, 2),
  ("WEBP", "RGB", {"lossless": True}, 2),
  ("AVIF", "RGB", {"quality": 95}, 2),
]


@pytest.mark.parametrize(("format", "mode", "options", "factor"), LARGE)
def test_large_pictures_are_reduced_and_look_the_same(
  format, mode, options, factor, monkeypatch
):
  image = Image.fromarray(scene(160, 128))
  if mode == "I;16":
    image = Image.fromarray(np.asarray(image.convert("L")) * np.uint16(257))
  else:
    image = image.quantize(8) if mode == "P" else image.convert(mode)
  content = packed(image, format, **options)
  whole = load_image(content)
  assert whole.shape == (128, 160, 3)
  monkeypatch.setattr(image_files, "FULL_PIXELS", 160 * 128 // 4)
  reduced = load_image(content)
  assert reduced.shape == (128 // factor, 160 // factor, 3)
  expected = np.asarray(Image.fromarray(whole).reduce(factor))
  assert_close(reduced, expected, 4)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_reduced_pictures_stand_as_the_camera_was_held(
  orientation, format, monkeypatch
):
  exif = Image.Exif()
  exif[0x0112] = orientation
  stored = np.ascontiguousarray(TURNS[orientation](scene(192, 160)))
  content = packed(stored, format, exif=exif.tobytes(), quality=95)
  monkeypatch.setattr(image_files, "FULL_PIXELS", 96 * 80)
  assert_close(load_image(content), scene(), 8)


def test_factors_are_whole_and_bands_meet(monkeypatch):
  """Three does not divide the sides, nor does a band of the rows."""
  image = np.random.default_rng(0).integers(0, 256, (203, 301, 3), np.uint8)
  expected = np.asarray(Image.fromarray(image).reduce(3))
  monkeypatch.setattr(image_files, "FULL_PIXELS", 8000)
  np.testing.assert_array_equal(load_image(packed(image)), expected)


def test_of_a_large_phone_picture_with_a_second_frame_the_first(monkeypatch):
  frames = [Image.fromarray(np.roll(scene(192, 160), 96 * n, axis=1)) for n in
            range(2)]  # fmt: skip
  content = packed(frames[0], "MPO", save_all=True, append_images=frames[1:])
  monkeypatch.setattr(image_files, "FULL_PIXELS", 96 * 80)
  assert_close(load_image(content), scene(), 8)


def test_a_phone_s_largest_picture_in_bounded_memory(tmp_path):
  """200 megapixels, above the limit of Pillow's own, in a quarter of the room.

  A process of its own: the peak of this one is of other tests.
  """
  path = tmp_path / "large.jpg"
  Image.new("RGB", (16320, 12240), (200, 30, 30)).save(path, quality=50)
  script = (
    "import resource, sys\n"
    "from suti.io.image_files import load_image\n"
    "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    "shape = load_image(sys.argv[1]).shape\n"
    "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    "print(*shape, (after - before) // 1024)\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", script, str(path)],
    capture_output=True,
    text=True,
    check=True,
  )
  height, width, _, mib = map(int, result.stdout.split())
  assert (height, width) == (3060, 4080)
  assert mib < 200, "decoded whole it is 800"


def test_a_file_of_gigabytes_is_one_line(tmp_path):
  path = tmp_path / "sparse.png"
  with path.open("wb") as file:
    file.write(PNG)
    file.truncate(5 * 2**30)
  with pytest.raises(ValueError) as caught:
    load_image(path)
  assert str(caught.value) == (
    f"{path} has 5.0 GiB: give a JPEG, PNG or WebP file of at most 1 GiB."
  )
  with path.open("wb") as file:
    file.truncate(2**29)  # of zeros, and not read
  with pytest.raises(ValueError, match="not a format that is known"):
    load_image(path)


def test_too_little_memory_is_one_line(monkeypatch):
  def fail(self):
    raise MemoryError

  monkeypatch.setattr(Image.Image, "load", fail)
  monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
  with pytest.raises(ValueError, match="needs more memory than there is"):
    load_image(PNG)
