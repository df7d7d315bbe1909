# SPDX-License-Identifier: Apache-2.0
"""Seeds, classes, words, and the parts a subject is built of."""

import collections

import numpy as np
import pytest

from suti.world import (
  CLASSES,
  LIVE,
  SPLITS,
  TEMPLATES,
  Shot,
  caption,
  class_of,
  describe,
  palette,
  split_of,
  subject_seeds,
  template_of,
)
from suti.world.backdrops import PLACES
from suti.world.looks import alter
from suti.world.parts import (
  NUM_ROUND,
  PATTERNS,
  Parts,
  extent,
  frame,
  present,
  span,
  turn,
)
from suti.world.subjects import BUILDERS, HALF_SIZE, build
from suti.world.templates import class_indices, draws
from suti.world.wardrobe import WARDROBE


def test_splits_are_disjoint_and_a_seed_tells_its_own():
  seeds = {s: set(subject_seeds(s, 0, 5000)) for s in SPLITS}
  assert not seeds["train"] & seeds["validation"]
  assert not seeds["train"] & seeds["test"]
  assert not seeds["validation"] & seeds["test"]
  last = subject_seeds("train", 999_999_999, 1)[0]
  assert last < min(seeds["validation"])
  for split, of_split in seeds.items():
    assert {split_of(s) for s in of_split} == {split}


def test_bad_seeds_are_one_clear_line():
  with pytest.raises(ValueError, match=r"split='dev' is unknown: use one of"):
    subject_seeds("dev", 0, 1)
  with pytest.raises(ValueError, match=r"start=-1, count=1 is outside"):
    subject_seeds("train", -1, 1)
  with pytest.raises(ValueError, match=r"is in no split"):
    split_of(3_000_000_000)


def test_numbers_depend_on_seed_stream_and_place_alone():
  whole = draws([5, 6, 7], stream=3, count=10)
  np.testing.assert_array_equal(whole[1:2], draws([6], stream=3, count=10))
  np.testing.assert_array_equal(
    whole[:, :4], draws([5, 6, 7], stream=3, count=4)
  )
  assert (draws([5], stream=4, count=10) != whole[0]).all()
  many = draws(np.arange(4000), stream=0, count=2)
  assert many.min() >= 0 and many.max() < 1
  np.testing.assert_allclose(many.mean(0), 0.5, atol=0.02)
  # Neighbouring seeds have nothing to do with each other.
  assert abs(np.corrcoef(many[:-1, 0], many[1:, 0])[0, 1]) < 0.05


def test_every_class_appears_and_live_ones_often():
  seeds = subject_seeds("train", 0, 2000)
  count = collections.Counter(class_of(s) for s in seeds[:300])
  names = [CLASSES[i] for i in class_indices(seeds)]
  assert set(names) == set(CLASSES)
  assert min(collections.Counter(names).values()) > 50
  assert 0.25 < np.mean([name in LIVE for name in names]) < 0.35
  assert sum(count.values()) == 300


def test_fifty_prompts_each_with_a_place_and_a_look_that_exist():
  assert len(TEMPLATES) == 50
  for template in TEMPLATES:
    assert template.place in PLACES
    assert template.look in ("", "red", "purple", "shiny", "wet", "cube")
    assert template.wardrobe == "" or template.wardrobe in WARDROBE


def test_a_description_is_short_names_the_class_and_repeats():
  texts = {}
  for seed in subject_seeds("train", 0, 200):
    text = describe(seed)
    assert class_of(seed) in text and len(text.split()) <= 9
    assert any(text.startswith(name) for name in palette.NAMES)
    assert text == describe(seed)
    texts[text] = seed
  assert len(texts) > 120


def test_a_description_is_true():
  """Its colour is the body's, its second colour is there to be seen."""
  for name, rows, subjects in build(subject_seeds("test", 0, 150)):
    for i in range(len(rows)):
      colour, pattern, noun, rest = subjects.phrases[i]
      main, _, other = colour.partition(" and ")
      arrays = {k: v[i] for k, v in subjects.arrays.items()}
      assert near(main, subjects.main[i]), (name, colour)
      there = present(subjects.arrays)[i]
      marked = arrays["decal_at"][:, 1] > -20
      shown = [*arrays["colour"][there], *arrays["decal_colour"][marked]]
      if rest:
        _, _, words = rest.partition(" with ")
        second = " ".join(words.split()[:-1])
        assert any(near(second, c) for c in shown), (name, rest)
        assert arrays["pattern"].argmax() == 0
      if other:
        assert near(other, arrays["pattern_colour"])
      if pattern:
        assert PATTERNS[arrays["pattern"].argmax()] == pattern
      if other or pattern:
        assert (arrays["patterned"][there] > 0).any(), name
      assert name in noun


def near(name, colour):
  """Whether a value may bear a name: brighter, darker, tinted a little."""
  named = np.array(palette.COLOURS[name])
  return (
    min(np.abs(named * k - colour).max() for k in np.linspace(0.8, 1.1, 31))
    < 0.09
  )


def test_captions_follow_the_template_and_what_it_leaves_visible():
  dog = next(s for s in subject_seeds("test", 0, 200) if class_of(s) == "dog")
  assert caption(Shot(dog, 1)) == "a dog in the snow"
  assert caption(Shot(dog, -1)) == "a dog"
  detailed = caption(Shot(dog, 1), detailed=True)
  assert detailed.endswith(" in the snow") and "dog" in detailed
  assert detailed.removesuffix(" in the snow").split(" ", 1)[1] == describe(dog)
  colour = describe(dog).split()[0]
  assert colour not in caption(Shot(dog, 20), detailed=True)
  assert "with" not in caption(Shot(dog, 14), detailed=True)
  orange = next(
    s for s in subject_seeds("test", 0, 400) if describe(s).startswith("orange")
  )
  assert caption(Shot(orange, 0), detailed=True).startswith("an orange")
  assert template_of(Shot(dog, 24)).look == "cube"


# --- Parts -------------------------------------------------------------------


def all_subjects():
  return build(subject_seeds("validation", 0, 400))


def test_every_variant_is_built_and_stands_on_the_ground():
  seen = collections.Counter()
  for name, _, subjects in all_subjects():
    seen[name] += 1
    low, high = span(subjects.arrays)
    np.testing.assert_allclose(low[:, 1], 0, atol=1e-9)
    assert (high - low).max() <= 2 * HALF_SIZE + 1e-9
    assert (high - low).max(1).min() > 1.0
    for key, value in subjects.arrays.items():
      assert np.isfinite(value).all(), key
  assert seen == {name: len(BUILDERS[name]) for name in CLASSES}


def test_a_subject_does_not_depend_on_its_batch():
  seeds = subject_seeds("train", 0, 30)
  for _, rows, subjects in build(seeds):
    (_, _, alone) = build([seeds[rows[-1]]])[0]
    for key, value in alone.arrays.items():
      np.testing.assert_array_equal(value[0], subjects.arrays[key][-1])


@pytest.mark.parametrize("look", ["red", "purple", "cube"])
def test_a_look_changes_a_copy(look):
  for name, _, subjects in all_subjects():
    before = {k: v.copy() for k, v in subjects.arrays.items()}
    after = alter(subjects, look=look, wardrobe="")
    changed = "round_at" if look == "cube" else "colour"
    assert any((after[k] != before[k]).any() for k in (changed, "solid_at")), (
      name
    )
    for key, value in before.items():
      np.testing.assert_array_equal(value, subjects.arrays[key])


def test_a_cube_is_one_and_keeps_parts_on_its_faces():
  for name, _, subjects in all_subjects():
    after = alter(subjects, look="cube", wardrobe="")
    low, high = span(after)
    # Hats, tails and handles stick out on one side or another, not far.
    assert (high - low).max() < 2.2 and (high - low).min() > 0.85, name
    core = subjects.free["core"]
    assert present(after)[:, core].all()
    np.testing.assert_array_equal(after["colour"][:, core], subjects.main)


@pytest.mark.parametrize("wardrobe", sorted(WARDROBE))
def test_clothes_fit_every_live_subject(wardrobe):
  for name, _, subjects in all_subjects():
    if name not in LIVE:
      continue
    after = alter(subjects, look="", wardrobe=wardrobe)
    more = present(after).sum(1) - present(subjects.arrays).sum(1)
    assert (more >= 1).all()
    radius = subjects.anchors["radius"]
    new = present(after) & ~present(subjects.arrays)
    at = np.concatenate([after["round_at"], after["solid_at"]], 1)
    away = np.linalg.norm(at - subjects.anchors["head"][:, None], axis=-1)
    assert (away / radius[:, None])[new].max() < 3.0


def test_a_frame_is_a_rotation_onto_its_axis():
  axis = np.random.default_rng(0).normal(size=(50, 3))
  axis[0], axis[1] = (0, 1, 0), (0, 0, 1)
  made = frame(axis)
  unit = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
  np.testing.assert_allclose(made[:, :, 2], unit, atol=1e-12)
  identity = np.broadcast_to(np.eye(3), made.shape)
  np.testing.assert_allclose(
    made @ np.swapaxes(made, 1, 2), identity, atol=1e-12
  )
  np.testing.assert_allclose(np.linalg.det(made), 1)
  np.testing.assert_allclose(np.linalg.det(turn(3, x=0.3, y=1.0, z=-2)), 1)


def test_extents_hold_the_parts():
  """No point of a part's surface lies outside of its extent."""
  b = Parts(1)
  b.ball((0.1, 0.5, 0), (0.1, 0.3, 0.2), [1, 0, 0], rotation=turn(1, z=0.7))
  b.box((0, 0.5, 0), (0.2, 0.1, 0.3), [1, 0, 0], rotation=turn(1, x=0.4, y=1))
  b.cylinder((0, 0.5, 0), 0.2, 0.3, [1, 0, 0], axis=(1, 1, 0), edge=0.01)
  b.torus((0, 0.5, 0), 0.3, 0.05, [1, 0, 0], axis=(0, 1, 1))
  b.limb((0, 0.2, 0), (0.3, 0.6, 0.1), 0.08, [1, 0, 0])
  assert (b.num_round, b.num_solid) == (1, 4)
  points = np.random.default_rng(0).uniform(-1, 1.5, (200_000, 3))
  direction = np.array([[0.6, 0.64, 0.48]])
  half = extent(b.arrays, direction)[0]
  for part in (0, *range(NUM_ROUND, NUM_ROUND + 4)):
    inside = distances_numpy(b.arrays, points)[part] < 0
    assert inside.sum() > 100
    at = np.concatenate([b.arrays["round_at"], b.arrays["solid_at"]], 1)[
      0, part
    ]
    reach = ((points[inside] - at) @ direction[0]).max()
    assert 0.75 * half[part] < reach <= half[part] + 1e-3


def distances_numpy(arrays, points):
  """`sdf.distances` of one subject at points (N, 3)."""
  from suti.world import sdf

  s = {k: v[0].astype(np.float32) for k, v in sdf.prepare(arrays).items()}
  p = tuple(points.T.astype(np.float32))
  return [np.asarray(d) for d in sdf.distances(s, p)]


def test_distances_of_a_ball_a_box_and_a_ring_are_exact():
  b = Parts(1)
  b.ball((0, 0, 0), (0.3, 0.3, 0.3), [1, 0, 0])
  b.box((0, 0, 0), (0.2, 0.3, 0.4), [1, 0, 0], edge=0.0)
  b.torus((0, 0, 0), 0.5, 0.1, [1, 0, 0], axis=(0, 0, 1))
  points = np.random.default_rng(0).uniform(-1, 1, (2000, 3))
  found = distances_numpy(b.arrays, points)
  radius = np.linalg.norm(points, axis=-1)
  np.testing.assert_allclose(found[0], radius - 0.3, atol=1e-5)
  out = np.abs(points) - [0.2, 0.3, 0.4]
  box = np.linalg.norm(np.maximum(out, 0), axis=-1) + np.minimum(out.max(-1), 0)
  np.testing.assert_allclose(found[NUM_ROUND], box, atol=1e-5)
  ring = np.hypot(np.hypot(*points[:, :2].T) - 0.5, points[:, 2]) - 0.1
  np.testing.assert_allclose(found[NUM_ROUND + 1], ring, atol=1e-5)
