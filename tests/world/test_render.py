# SPDX-License-Identifier: Apache-2.0
"""Pictures: what they hold, that they repeat, that geometry is true."""

import functools

import jax
import numpy as np
import pytest

from suti.world import (
  PARTS,
  Shot,
  class_of,
  compose,
  render_shots,
  subject_seeds,
  wardrobe,
)
from suti.world.backdrops import PLACES
from suti.world.correspondence import correspond, project, unproject
from suti.world.render import _program, draw
from suti.world.scenes import SETTINGS, shot_keys, stage
from suti.world.styles import paint
from suti.world.templates import LIVE

SIZE_PX = 32
SUBJECTS = subject_seeds("train", 0, 24)
STUDIO = [Shot(subject, -1, k) for k, subject in enumerate(SUBJECTS)]


def of_class(name, number=0):
  seeds = [s for s in subject_seeds("test", 0, 400) if class_of(s) == name]
  return seeds[number]


@pytest.fixture(scope="module")
def drawn():
  return render_shots(STUDIO, size_px=SIZE_PX)


def test_every_field_has_its_shape_and_type(drawn):
  n = len(STUDIO)
  shapes = {k: (v.shape, v.dtype) for k, v in drawn.items()}
  frame = (n, SIZE_PX, SIZE_PX)
  assert shapes["image"] == ((*frame, 3), np.uint8)
  assert shapes["mask"] == (frame, np.bool_)
  assert shapes["depth"] == (frame, np.float32)
  assert shapes["box"] == ((n, 4), np.int32)
  assert shapes["eye"] == ((n, 3), np.float32)
  assert shapes["axes"] == ((n, 3, 3), np.float32)
  assert shapes["focal"] == ((n,), np.float32)


def test_subjects_fill_the_frame_and_stay_in_it(drawn):
  share = drawn["mask"].mean((1, 2))
  assert np.median(share) > 0.2
  assert share.min() > 0.08 and share.max() < 0.6
  cut = (drawn["box"][:, :2] <= 0).any(1) | (
    drawn["box"][:, 2:] >= SIZE_PX
  ).any(1)
  assert cut.mean() <= 0.15  # touching the frame's edge by a pixel, at most


def test_a_box_holds_its_mask_and_no_more(drawn):
  for mask, (x0, y0, x1, y1) in zip(drawn["mask"], drawn["box"], strict=True):
    rows, columns = np.nonzero(mask)
    assert (columns.min(), columns.max()) == (x0, x1 - 1)
    assert (rows.min(), rows.max()) == (y0, y1 - 1)


def test_subject_and_background_differ_in_depth(drawn):
  for mask, depth in zip(drawn["mask"], drawn["depth"], strict=True):
    assert np.isfinite(depth).all() and depth.min() > 0
    assert np.median(depth[mask]) < np.median(depth[~mask])


def test_a_picture_depends_neither_on_its_batch_nor_on_the_call(drawn):
  rows = [17, 3, 3, 20]
  again = render_shots([STUDIO[i] for i in rows], size_px=SIZE_PX)
  for key, value in again.items():
    np.testing.assert_array_equal(value, drawn[key][rows])
  # Dressed and cube shaped subjects are built from a batch's free slots.
  dog, other = of_class("dog"), of_class("dog", 5)
  for template in (10, 13, 24):
    alone = stage([Shot(dog, template, 1)])
    beside = stage([Shot(other, template, 2), Shot(dog, template, 1)])
    for key, value in alone.items():
      np.testing.assert_array_equal(value[0], beside[key][1], err_msg=key)


def test_the_seed_moves_camera_and_light_but_not_the_subject():
  first, second = stage([Shot(SUBJECTS[0], -1, 0), Shot(SUBJECTS[0], -1, 1)])[
    "paint"
  ]
  np.testing.assert_array_equal(first, second)
  views = stage([Shot(SUBJECTS[0], -1, k) for k in range(20)])
  assert np.ptp(views["light"][:, 0]) > 0.5
  assert np.ptp(views["eye"][:, 1] / views["eye"][:, 2]) > 0.1
  assert np.ptp(views["focal"]) > 0.3


def test_two_subjects_look_different(drawn):
  """Any two pictures differ more than two pictures of one subject."""
  small = drawn["image"].reshape(len(STUDIO), 8, 4, 8, 4, 3).mean((2, 4))
  flat = small.reshape(len(STUDIO), -1)
  distance = np.abs(flat[:, None] - flat[None]).mean(-1)
  assert distance[np.triu_indices(len(STUDIO), 1)].min() > 3


def test_templates_look_different():
  dog, teapot = of_class("dog"), of_class("teapot")
  # The first ten are the same places for both.
  shots = [Shot(dog, t, 3) for t in range(25)]
  shots += [Shot(teapot, t, 3) for t in range(10, 25)]
  image = render_shots(shots, size_px=SIZE_PX)["image"].astype(float)
  for group in (image[:25], np.concatenate([image[:10], image[25:]])):
    distance = np.abs(group[:, None] - group[None]).mean((2, 3, 4))
    assert distance[np.triu_indices(25, 1)].min() > 4


def test_pictures_are_what_they_were_before_there_were_compositions():
  """Mean colours of quarters, taken then; a machine may round otherwise."""
  rows = ((0, -1), (3, 4), (9, 13), (17, 24))
  shots = [Shot(SUBJECTS[i], template, 5 + i) for i, template in rows]
  image = render_shots(shots, size_px=SIZE_PX)["image"].astype(float)
  np.testing.assert_allclose(
    image.reshape(4, 2, 16, 2, 16, 3).mean((2, 4)).reshape(4, 4, 3),
    [
      [[170.7, 175.2, 169.6], [170.7, 185.4, 173.6],
       [155.7, 158.6, 149.9], [167.7, 177.2, 165.2]],
      [[206.1, 142.4, 170.8], [225.6, 139.0, 174.9],
       [195.4, 146.2, 170.8], [173.4, 136.1, 161.3]],
      [[154.2, 192.4, 216.0], [151.1, 193.7, 220.0],
       [44.4, 103.8, 150.1], [45.9, 118.6, 174.1]],
      [[129.2, 154.0, 150.0], [157.9, 164.9, 150.5],
       [91.3, 127.5, 126.1], [168.9, 152.3, 123.6]],
    ],
    atol=0.5,
  )  # fmt: skip


def test_places_and_settings_agree():
  assert list(PLACES) == list(SETTINGS)
  assert set(PLACES) == set(PARTS["place"])


def test_a_style_is_painted_over_the_same_picture_and_over_no_other():
  dog, teapot = of_class("dog"), of_class("teapot")
  snow, wet = compose(place="snow"), compose(look="wet")
  plain = [Shot(dog, snow, 3), Shot(teapot, 4, 3), Shot(teapot, wet, 3)]
  styled = [
    Shot(dog, compose(place="snow", style="mosaic"), 3),
    plain[1],
    Shot(teapot, compose(look="wet", style="Rembrandt"), 3),
  ]
  before = render_shots(plain, size_px=SIZE_PX)
  after = render_shots(styled, size_px=SIZE_PX)
  for key in set(before) - {"image"}:
    np.testing.assert_array_equal(before[key], after[key], err_msg=key)
  keys = shot_keys(plain)
  for i, style in ((0, "mosaic"), (2, "Rembrandt")):
    painted = paint(
      before["image"][i],
      before["mask"][i],
      before["depth"][i],
      style=style,
      key=int(keys[i]),
    )
    np.testing.assert_array_equal(after["image"][i], painted)
    assert np.abs(painted.astype(int) - before["image"][i]).mean() > 8
  np.testing.assert_array_equal(before["image"][1], after["image"][1])


def test_red_and_purple_subjects_are():
  subjects = of_class("cat"), of_class("backpack")
  shots = [Shot(subject, t, 0) for subject in subjects for t in (20, 21)]
  drawn = render_shots(shots, size_px=SIZE_PX)
  red, purple, *others = (
    image[mask].mean(0)
    for image, mask in zip(drawn["image"], drawn["mask"], strict=True)
  )
  for r, p in ((red, purple), others):
    assert r[0] > 1.8 * r[1] and r[0] > 1.8 * r[2]
    assert p[2] > 1.4 * p[1] and p[0] > 1.15 * p[1]


def test_a_mirror_shows_the_subject_again_below():
  staged = stage([Shot(of_class("boot"), 16, 2)])
  dull = staged | {"reflect": np.zeros(1, np.float32)}
  # Eight, as `render_shots` asks for: no second program.
  both = {k: np.concatenate([staged[k], dull[k]]).repeat(4, 0) for k in staged}
  drawn = _program(SIZE_PX)(both)
  image, mask = (np.asarray(drawn[k])[::4] for k in ("image", "mask"))
  changed = np.abs(image[0].astype(int) - image[1]).max(-1) > 20
  assert changed.sum() > 20
  # Pixels at its edge hold some ground.
  assert (changed & mask[0]).sum() < 0.1 * changed.sum()
  foot = np.nonzero(mask[0])[0].max()
  assert np.nonzero(changed)[0].mean() > foot - 2


def test_water_hides_a_subjects_foot():
  subject = of_class("can")
  land, sea = stage([Shot(subject, 1, 0), Shot(subject, 13, 0)])["solid_at"]
  assert sea[:, 1].max() < land[:, 1].max() - 0.1


@pytest.mark.parametrize("size_px", [8, 51, 512])
def test_any_size(size_px):
  """Shapes alone: compiling a size takes as long as all other tests here."""
  row = {k: v[0] for k, v in stage(STUDIO[:1]).items()}
  out = jax.eval_shape(functools.partial(draw, size_px=size_px), row)
  assert {k: v.shape for k, v in out.items()} == {
    "image": (size_px, size_px, 3),
    "mask": (size_px, size_px),
    "depth": (size_px, size_px),
  }


def test_bad_input_is_one_clear_line():
  with pytest.raises(ValueError, match=r"no shots: give at least one"):
    render_shots([])
  with pytest.raises(ValueError, match=r"size_px=4 is too small: use 8"):
    render_shots(STUDIO[:1], size_px=4)
  with pytest.raises(ValueError, match=r"Shot.template=-2: use -1 .* to 24"):
    render_shots([Shot(SUBJECTS[0], -2)])


# --- Correspondence ----------------------------------------------------------


@pytest.fixture(scope="module")
def views():
  subject = of_class("clock")
  drawn = render_shots(
    [Shot(subject, -1, 0), Shot(subject, 7, 3), Shot(subject, 1, 5)],
    size_px=SIZE_PX,
  )
  return [{k: v[i] for k, v in drawn.items()} for i in range(3)]


def test_projection_undoes_unprojection(views):
  for view in views:
    pixel, depth = project(view, unproject(view))
    column, row = np.meshgrid(*2 * [np.arange(SIZE_PX) + 0.5])
    np.testing.assert_allclose(pixel[..., 0], column, atol=1e-2)
    np.testing.assert_allclose(pixel[..., 1], row, atol=1e-2)
    np.testing.assert_allclose(depth, view["depth"], rtol=1e-4)


def test_corresponding_pixels_show_the_same_point(views):
  for first, second in ((0, 1), (1, 2), (2, 0)):
    pixel, found = correspond(views[first], views[second])
    assert found.sum() > 0.4 * views[first]["mask"].sum()
    column, row = pixel[found].astype(int).T
    # There and back again is within about a pixel.
    back, also = correspond(views[second], views[first])
    start = np.argwhere(found)[:, ::-1] + 0.5
    miss = np.hypot(*(back[row, column] - start).T)[also[row, column]]
    assert np.median(miss) < 1.0
    # Colours agree, as they do not for pixels picked at random.
    one = views[first]["image"][found].astype(float)
    two = views[second]["image"][row, column].astype(float)
    shuffled = two[np.random.default_rng(0).permutation(len(two))]
    assert np.abs(one - two).mean() < 0.6 * np.abs(one - shuffled).mean()


def test_what_is_not_the_subject_corresponds_to_nothing(views):
  _, found = correspond(views[0], views[1])
  assert not (found & ~views[0]["mask"]).any()


def test_live_subjects_wear_things_on_their_head():
  """A hat makes the visible subject taller; a shirt makes it yellow."""
  for noun in LIVE:
    subject = of_class(noun)
    plain, hat, shirt = stage([Shot(subject, t, 0) for t in (-1, 13, 18)])[
      "paint"
    ][..., :3]
    black, yellow = wardrobe.BLACK, wardrobe.YELLOW
    parts = [(np.abs(p - black) < 1e-6).all(-1).sum() for p in (plain, hat)]
    assert parts[1] >= 2 > parts[0]
    assert (np.abs(shirt - yellow) < 1e-6).all(-1).any()
