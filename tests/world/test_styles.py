# SPDX-License-Identifier: Apache-2.0
"""Styles, painted over a made-up render: no program is compiled for it."""

import itertools

import numpy as np
import pytest

from suti.evaluation.styles import PAPER_ARTISTS, STYLE_TEXTS, styled
from suti.world import judge as judging
from suti.world.canvas import Canvas, blur, enlarge, lay
from suti.world.styles import STYLES, paint, paint_rows


def make_render(size):
  """A red ball on a green floor before a grey wall."""
  x, y = np.meshgrid(*2 * [(np.arange(size) + 0.5) / size])
  mask = np.hypot(x - 0.5, y - 0.55) < 0.28
  wall = y < 0.4
  image = np.where(wall[..., None], [0.7, 0.7, 0.72], [0.3, 0.6, 0.3])
  light = 0.5 + 0.6 * (0.8 - x)[..., None] * [0.9, 0.25, 0.2]
  image = np.where(mask[..., None], light * [1.0, 0.3, 0.3], image)
  depth = np.where(mask, 1.0, np.where(wall, 3.0 - 0.2 * (0.4 - y), 2.2 - y))
  image_u8 = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
  return image_u8, mask, depth.astype(np.float32)


@pytest.fixture(scope="module")
def painted():
  render = make_render(64)
  return {style: paint(*render, style=style, key=1) for style in STYLES}


def test_the_paper_s_artists_are_among_the_styles():
  assert tuple(STYLES)[:5] == PAPER_ARTISTS
  assert len(STYLES) >= 8
  assert len(set(STYLE_TEXTS.values())) == len(STYLE_TEXTS)
  assert styled("a red {}", "mosaic") == "a mosaic of a red {}"
  assert styled("a red {}", "") == "a red {}"


def test_a_picture_follows_from_its_key_alone(painted):
  render = make_render(64)
  for style, image in painted.items():
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    again = paint(*render, style=style, key=1)
    np.testing.assert_array_equal(image, again)
  for style in ("Vincent van Gogh", "Claude Monet", "Pablo Picasso"):
    other = paint(*render, style=style, key=2)
    assert np.abs(other.astype(int) - painted[style]).mean() > 3


def test_styles_differ_from_the_render_and_from_each_other(painted):
  plain = make_render(64)[0]
  images = {"": plain, **painted}
  for one, two in itertools.combinations(images, 2):
    gap = np.abs(images[one].astype(int) - images[two]).mean()
    assert gap > 10, (one, two, gap)


def test_the_subject_stays_where_and_what_it_is(painted):
  """Red against its surroundings; a pencil has no colours."""
  _, mask, _ = make_render(64)
  for style, image in painted.items():
    inner, outer = (image[m].mean(0) for m in (mask, ~mask))
    if style == "pencil sketch":
      assert np.ptp(inner) < 12 and inner.mean() < outer.mean() - 20
    else:
      assert inner[0] > 1.25 * inner[1] and inner[0] > 1.25 * inner[2], style
      assert inner[0] - inner[1] > outer[0] - outer[1] + 30, style


@pytest.mark.parametrize("size", [8, 51, 128])
def test_strokes_scale_with_the_picture(painted, size):
  render = make_render(size)
  for style, small in painted.items():
    image = paint(*render, style=style, key=1)
    assert image.shape == (size, size, 3)
    if size == 128:
      halved = image.reshape(64, 2, 64, 2, 3).mean((1, 3))
      gap = np.abs(blurred(halved) - blurred(small))
      assert gap.mean() < 12, style


def blurred(image):
  return image.reshape(16, 4, 16, 4, 3).astype(float).mean((1, 3))


def test_a_batch_keeps_what_has_no_style():
  image, mask, depth = (np.stack([a, a]) for a in make_render(16))
  drawn = {"image": image, "mask": mask, "depth": depth}
  assert paint_rows(drawn, ["", ""], [1, 1]) is image
  out = paint_rows(drawn, ["", "mosaic"], [1, 5])
  np.testing.assert_array_equal(out[0], image[0])
  alone = paint(image[1], mask[1], depth[1], style="mosaic", key=5)
  np.testing.assert_array_equal(out[1], alone)


# --- The judge ---------------------------------------------------------------


def make_renders(count, seed):
  """Balls before walls of several colours, by hand and not by the renderer."""
  rng = np.random.default_rng(seed)
  rows = []
  for _ in range(count):
    image, mask, depth = make_render(64)
    cast = 0.5 + 0.5 * rng.random((2, 3))
    image = (image * cast[mask.astype(int)][..., rng.permutation(3)]).round()
    rows.append((image.astype(np.uint8), mask, depth))
  image, mask, depth = map(np.stack, zip(*rows, strict=True))
  return {"image": image, "mask": mask, "depth": depth}


def test_the_judge_tells_styles_apart_out_of_focus_too():
  judge = judging.fit_styles(make_renders(5, seed=0))
  seen = make_renders(2, seed=1)
  names = judging.STYLE_NAMES
  rows = [
    paint_rows({k: v[i : i + 1] for k, v in seen.items()}, [style], [90 + i])[0]
    for i in range(2)
    for style in names
  ]
  truth = list(range(len(names))) * 2
  assert judge.scores(rows).shape == (2 * len(names), len(names))
  assert (judge.choose(rows) == truth).mean() > 0.9
  soft = [judging._softened(image) for image in rows]
  assert (judge.choose(soft) == truth).mean() > 0.8
  # Pictures of any size are judged.
  large = [np.kron(image, np.ones((2, 2, 1), np.uint8)) for image in rows]
  assert (judge.choose(large) == truth).mean() > 0.9


# --- The canvas --------------------------------------------------------------


def make_canvas(size=32):
  return Canvas(*make_render(size), np.random.default_rng(0))


def test_enlarging_and_blurring_keep_means():
  a = np.random.default_rng(0).random((12, 12, 3), dtype=np.float32)
  flat = np.full((12, 12), 0.3, np.float32)
  large = enlarge(a)
  assert large.shape == (24, 24, 3)
  np.testing.assert_allclose(large.mean((0, 1)), a.mean((0, 1)), atol=0.02)
  np.testing.assert_allclose(enlarge(flat), 0.3, rtol=1e-6)
  np.testing.assert_allclose(blur(flat, 0.1), 0.3, rtol=1e-5)
  assert blur(a, 0.1).std() < 0.5 * a.std()


def test_a_canvas_knows_subject_ground_and_backdrop():
  canvas = make_canvas()
  row = np.round(np.linspace(0, 63, 9)).astype(int)
  np.testing.assert_allclose(canvas.sky[row[:3], 2], 1, atol=0.05)
  np.testing.assert_allclose(canvas.sky[row[5:], 2], 0, atol=0.05)
  assert canvas.mask[35, 32] == 1 and canvas.sky[35, 32] == 0
  # The ball's top: its outline is level, its side upright.
  top, side = canvas.angle[17, 32], canvas.angle[35, 14]
  assert abs(np.sin(top)) < 0.2 and abs(np.cos(side)) < 0.3
  assert canvas.outline[17, 32] < 0.02 < canvas.outline[35, 32]


def test_dabs_cover_what_they_should():
  canvas = make_canvas()
  tiles = lay(canvas, count=8, length=0.5, width=0.5, jitter=0.0, square=True)
  expected = np.arange(64) // 8
  inside = tiles.cell >= 0
  assert inside.mean() > 0.95
  grid = expected[:, None] * 8 + expected[None]
  np.testing.assert_array_equal(tiles.cell[inside], grid[inside])
  none = lay(canvas, count=8, share=0.0)
  assert (none.cell == -1).all()
  long = lay(canvas, count=8, length=2.0, width=0.2, jitter=0.0, angle=0.0)
  assert np.abs(long.along[long.cell >= 0]).max() < 1
  # Strokes along x are longer along x.
  same = long.cell[32] == long.cell[32, 32]
  assert same.sum() > (long.cell[:, 32] == long.cell[32, 32]).sum()
