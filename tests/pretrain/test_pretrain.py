# SPDX-License-Identifier: Apache-2.0
"""Tests of suti.pretrain: losses in closed form, loops that resume."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.pretrain import clip as clip_config
from configs.pretrain import examples as examples_config
from configs.pretrain import text_to_image as base_config
from suti.evaluation.styles import style_in
from suti.io.files import read_json
from suti.pipeline.backbone import load_backbone
from suti.pretrain import (
  clip,
  exam,
  examples,
  identity,
  pictures,
  text_to_image,
)
from suti.pretrain.augment import augment
from suti.pretrain.card import write_card
from suti.world.held_out import TEMPLATES_HELD_OUT, is_held_out, pair_held_out
from suti.world.templates import PARTS, template_of


def fake_rendering(patch):
  """Makes pictures cost nothing: their colour is their shot's."""
  drawn = []

  def render_shots(shots, *, size_px):
    drawn.append(len(shots))
    rows = [
      np.random.default_rng((shot.subject, shot.seed)).integers(
        0, 256, (size_px, size_px, 3), np.uint8
      )
      for shot in shots
    ]
    return {"image": np.stack(rows)}

  patch.setattr(pictures, "render_shots", render_shots)
  return drawn


@pytest.fixture
def fake_renderer(monkeypatch):
  return fake_rendering(monkeypatch)


def test_contrastive_loss_of_perfect_pairs_is_entropy_of_their_repeats():
  """Two of four captions are equal: their share of 1/2 each costs log 2."""
  z = jnp.eye(4).at[1].set(jnp.eye(4)[0])
  same = jnp.asarray(z @ z.T > 0.5)
  loss = clip.contrastive_loss(z, z, same, jnp.float32(100.0))
  np.testing.assert_allclose(loss, np.log(2) / 2, atol=1e-5)


def test_contrastive_loss_falls_when_pairs_come_together():
  key = jax.random.key(0)
  text = jax.random.normal(key, (8, 4))
  text /= jnp.linalg.norm(text, axis=-1, keepdims=True)
  same = jnp.eye(8, dtype=bool)
  apart = clip.contrastive_loss(text[::-1], text, same, jnp.float32(10.0))
  together = clip.contrastive_loss(text, text, same, jnp.float32(10.0))
  assert together < apart


def test_pair_loss_counts_nearest_of_the_same_subject():
  z = jnp.asarray([[1.0, 0], [1, 0], [0, 1], [0, 1]])
  loss, hit = identity.pair_loss(z, jnp.asarray([0, 0, 1, 1]), temperature=0.01)
  assert hit == 1.0
  np.testing.assert_allclose(loss, 0.0, atol=1e-5)
  _, miss = identity.pair_loss(z, jnp.asarray([0, 1, 0, 1]), temperature=0.01)
  assert miss == 0.0


def test_area_under_curve_is_mann_whitney():
  rng = np.random.default_rng(0)
  positive, negative = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 60)
  negative = negative.round(1)
  pairs = positive[:, None] - negative[None]
  expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
  found = exam.area_under_curve(positive, negative)
  np.testing.assert_allclose(found, expected)


def test_augment_keeps_range_and_is_the_keys_alone():
  images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
  one = augment(jnp.asarray(images), jax.random.key(1))
  again = augment(jnp.asarray(images), jax.random.key(1))
  other = augment(jnp.asarray(images), jax.random.key(2))
  assert one.shape == images.shape
  assert float(jnp.abs(one).max()) <= 1.0
  np.testing.assert_array_equal(one, again)
  assert not np.allclose(one, other)


def test_pool_draws_only_what_is_missing(fake_renderer, tmp_path, monkeypatch):
  monkeypatch.setattr(pictures, "_CHUNK", 8)
  config = clip_config.get_config("tiny").pool
  config.num_subjects, config.shots_each = 4, 4
  small = pictures.render_pool(config, tmp_path, size_px=8)
  assert fake_renderer == [8, 8]
  config.num_subjects = 6
  large = pictures.render_pool(config, tmp_path, size_px=8)
  assert fake_renderer == [8, 8, 8]
  np.testing.assert_array_equal(large.image_u8_NHWC[:16], small.image_u8_NHWC)
  assert list(large.shots[:16]) == list(small.shots)


def test_a_pool_with_styles_of_another_size_is_drawn_anew(
  fake_renderer, tmp_path, monkeypatch
):
  """Which pictures are in a style depends on how many there are."""
  monkeypatch.setattr(pictures, "_CHUNK", 8)
  config = clip_config.get_config("tiny").pool
  config.num_subjects, config.shots_each, config.styles = 2, 4, 0.5
  small = pictures.render_pool(config, tmp_path, size_px=8)
  config.num_subjects = 4
  large = pictures.render_pool(config, tmp_path, size_px=8)
  assert list(large.shots[:8]) != list(small.shots)
  assert fake_renderer == [8, 8, 8]
  again = pictures.render_pool(config, tmp_path, size_px=8)
  assert fake_renderer == [8, 8, 8]
  np.testing.assert_array_equal(again.image_u8_NHWC, large.image_u8_NHWC)


def test_a_pool_of_other_scenes_is_another(
  fake_renderer, tmp_path, monkeypatch
):
  monkeypatch.setattr(pictures, "_CHUNK", 8)
  config = clip_config.get_config("tiny").pool
  config.num_subjects, config.shots_each = 2, 4
  pictures.render_pool(config, tmp_path, size_px=8)
  config.studio = 0.9
  pictures.render_pool(config, tmp_path, size_px=8)
  assert fake_renderer == [8, 8]


def choose_shots(**kw):
  given: dict[str, Any] = {
    "split": "train",
    "start": 900_000_000,
    "num_subjects": 3,
    "shots_each": 16,
    "studio": 0.0,
    "templates": "all",
    "compositions": 0.0,
    "seed": 0,
  }
  return pictures.choose_shots(**given | kw)


def test_chosen_shots_of_a_subject_show_different_templates():
  shots = choose_shots()
  for start in range(0, 48, 16):
    subject = shots[start : start + 16]
    assert len({shot.subject for shot in subject}) == 1
    assert len({shot.template for shot in subject}) == 16


def test_a_share_of_a_pool_is_in_a_style_and_the_rest_is_as_before():
  chosen = {
    share: choose_shots(num_subjects=40, studio=0.1, styles=share)
    for share in (0.0, 0.25, 1.0)
  }
  # What a pool was before there were styles.
  first = [(shot.template, shot.seed) for shot in chosen[0.0][:3]]
  assert first == [(-1, 907713895), (4, 1700138882), (10, 1882235553)]
  assert all(shot.template < 25 for shot in chosen[0.0])
  styled = [shot.template >= 25 for shot in chosen[0.25]]
  assert 0.2 < np.mean(styled) < 0.3
  for before, after, other in zip(
    chosen[0.0], chosen[0.25], styled, strict=True
  ):
    assert (after.subject, after.seed) == (before.subject, before.seed)
    assert other or after == before
  shown = [template_of(shot) for shot in chosen[1.0]]
  assert {t.style for t in shown} == set(PARTS["style"][1:])
  scenes = [
    (t.place, t.look, t.wardrobe) == (b.place, b.look, b.wardrobe)
    for t, b in zip(shown, map(template_of, chosen[0.0]), strict=True)
  ]
  assert 0.45 < np.mean(scenes) < 0.65  # half of them, and studios of the rest


def test_a_pool_with_styles_lies_apart_and_hides_identity(
  fake_renderer, tmp_path
):
  config = clip_config.get_config("tiny").pool
  plain = pictures.render_pool(config, tmp_path, size_px=8)
  (folder,) = tmp_path.iterdir()
  assert folder.name.endswith("8px-seed0-world1.0.0")
  config.styles = 0.5
  mixed = pictures.render_pool(config, tmp_path, size_px=8)
  assert len(list(tmp_path.iterdir())) == 2
  styled = np.array([shot.template >= 25 for shot in mixed.shots])
  assert styled.any() and not mixed.identity_N[styled].any()
  np.testing.assert_array_equal(
    mixed.identity_N[~styled], plain.identity_N[~styled]
  )
  assert all(
    bool(style_in(text)) == shown
    for text, shown in zip(mixed.detailed, styled, strict=True)
  )


def test_a_pool_leaves_held_out_templates_out_and_those_alone():
  """However many pictures a subject has: 4 of 5, 16 of 20, 30 of either."""
  for each in (4, 16, 30):
    texts = {
      which: {template_of(s).text for s in choose_shots(
        templates=which, shots_each=each, num_subjects=20
      )}
      for which in ("seen", "held_out")
    }  # fmt: skip
    assert not texts["seen"] & texts["held_out"]
    assert "a {} in the snow" in texts["seen"]
    assert len(texts["held_out"]) == len(TEMPLATES_HELD_OUT)


def test_a_pool_composes_but_for_the_pairs_that_are_held_out():
  for which in ("all", "seen", "held_out"):
    shown = {
      template_of(shot)
      for shot in choose_shots(
        num_subjects=20, compositions=1.0, templates=which
      )
    }
    assert len(shown) > 60
    names = [{t.place, t.look, t.wardrobe} - {"", "studio"} for t in shown]
    assert {len(pair) for pair in names} == {2}
    if which == "all":
      assert any(map(is_held_out, shown))  # a template of theirs
      assert not any(pair_held_out(*pair) for pair in names)
    else:
      assert {is_held_out(t) for t in shown} == {which == "held_out"}


def test_a_pool_shows_subjects_of_its_own(fake_renderer, tmp_path):
  config = clip_config.get_config("tiny").pool
  config.num_subjects, config.shots_each = 2, 2
  pool = pictures.render_pool(config, tmp_path, size_px=8)
  assert [s.subject for s in pool.shots[::2]] == [910_000_000, 910_000_001]
  config.start = 0
  with pytest.raises(ValueError, match="meets those of the shipped models"):
    pictures.render_pool(config, tmp_path, size_px=8)


def test_demonstrations_show_the_subject_undressed_and_in_its_colours(
  fake_renderer, tmp_path
):
  config = examples_config.get_config("tiny").pool
  config.num_subjects, config.shots_each = 12, 25
  pool = pictures.render_pool(config, tmp_path, size_px=8)
  one_N1 = np.ones((len(pool.shots), 1), np.float32)
  made = examples.make_examples(
    pool, one_N1, one_N1, num_examples=120, num_demonstrations=5, seed=0
  )
  shown = {c.partition(" ")[2] for e in made for c in e.captions}
  assert any(text.startswith("dog") for text in shown)
  changed = ("wearing", "outfit", "red ", "purple d", "wet", "shiny", "cube")
  assert not [text for text in shown if any(w in text for w in changed)]


def test_examples_of_a_class_show_other_subjects_of_it(fake_renderer, tmp_path):
  config = examples_config.get_config("tiny").pool
  config.num_subjects, config.shots_each = 60, 4
  pool = pictures.render_pool(config, tmp_path, size_px=8)
  one_N1 = np.ones((len(pool.shots), 1), np.float32)
  same, other = (
    list(
      examples.make_examples(
        pool,
        one_N1,
        one_N1,
        num_examples=60,
        num_demonstrations=2,
        seed=0,
        shown=shown,
      )
    )
    for shown in ("subject", "class")
  )
  # As many targets and the same ones, but for those without a picture to show.
  targets = {e.key for e in same}
  assert len(targets & {e.key for e in other}) > 0.8 * len(targets)
  row_of = {
    image.tobytes(): row for row, image in enumerate(pool.image_u8_NHWC)
  }
  for example in other:
    rows = [row_of[x.tobytes()] for x in example.demonstrations]
    target = row_of[example.image.tobytes()]
    subjects = [pool.subject_N[row] for row in (*rows, target)]
    assert len(set(subjects)) == len(subjects) > 1
    assert {pool.class_N[row] for row in rows} == {pool.class_N[target]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A base of one step, which compiles no preview."""
  workdir = tmp_path_factory.mktemp("base")
  config = base_config.get_config("tiny")
  config.num_steps, config.checkpoint_every = 1, 2
  config.optimizer = "adamw"  # Muon compiles long, and has a test of its own
  with (
    pytest.MonkeyPatch.context() as patch,
    jax.numpy_dtype_promotion("standard"),
  ):
    fake_rendering(patch)
    text_to_image.run(config, workdir)
  return workdir / "text_to_image" / "model"


def test_base_is_written_as_a_backbone(base):
  facts = read_json(base / "training.json")
  assert facts["config"]["num_steps"] == 1
  backbone = load_backbone(base)
  assert backbone.size_px == 64
  assert backbone.latent_shape == (16, 16, 48)
  assert backbone.limits(99.5) == {"percentile": 99.5, "clip": True}
  assert len(backbone.encode_text(["a dog", ""])["text_BLD"]) == 2
  image = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
  again = backbone.to_image(backbone.to_latent(jnp.asarray(image)))
  np.testing.assert_allclose(again, image, atol=1e-6)
  write_card(base, title="A test", scores={"score": "0.5"})
  card = (base / "README.md").read_text()
  assert "| score | 0.5 |" in card and facts["command"] in card


def test_a_base_goes_on_from_another(base, fake_renderer, tmp_path):
  """The first step's rate is zero."""
  config = base_config.get_config("tiny")
  config.num_steps, config.checkpoint_every = 1, 2
  config.optimizer = "adamw"
  config.init, config.seed = str(base), 7
  with jax.numpy_dtype_promotion("standard"):
    text_to_image.run(config, tmp_path / "later")
  before = load_backbone(base)
  after = load_backbone(tmp_path / "later" / "text_to_image" / "model")
  for name, array in before.params.items():
    np.testing.assert_allclose(after.params[name], array, atol=1e-6)
