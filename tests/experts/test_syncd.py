# SPDX-License-Identifier: Apache-2.0
"""SynCD's teacher: its loop against one written out, and what it asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.apprentice import syncd_world
from experts import teacher
from experts.farm import programs, requests, text_tokens
from experts.mining.views import correspondence
from experts.teachers.syncd import TEACHER
from suti.cli import run
from suti.diffusion.samplers import draw_noise, row_keys
from suti.diffusion.subject_mask import noun_map, otsu
from suti.images import depth_u8
from suti.nn.notes import listening
from suti.nn.shared_attention import SEEN, seen_of, token_masks
from suti.nn.warp import link, warp
from suti.parallel.mesh import flat_mesh
from suti.pipeline.backbone import describe_backbone, load_backbone
from suti.pipeline.conditioning import apply_denoiser
from suti.pipeline.text_encoders import open_tokenizer
from suti.schema import Label
from tests import tiny
from tests.experts import inputs
from tests.pipeline import tiny_pipelines

T, STEPS, GUIDANCE = 3, 2, 3.0
TEXTS = ("a dog in the snow", "a red dog", "a dog on the beach")
SIDE, FINE = tiny.SIZE_PX // tiny.PATCH, tiny.SIZE_PX


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
  folder = tmp_path_factory.mktemp("base")
  return load_backbone(tiny.write_backbone(folder, unet=tiny.SMALLEST_UNET))


def config_of(*, depth_net="", **own):
  config = inputs.make_config({}, teacher="syncd", depth_net=depth_net)
  with config.unlocked():
    config.sample.update(
      together=T, batch_size=T, num_steps=STEPS, guidance=GUIDANCE,
      sampler="ddim", view_area=0.01, view_overlap=0.01,
    )  # fmt: skip
    config.sample.syncd.update(dilate=1, **own)
  return config


def opened(backbone, config):
  """The teacher's net, with residuals that are not next to nothing."""
  apply, trainable, frozen = teacher.declare(TEACHER, backbone, config)
  assert not trainable
  return apply, {
    n: x + 0.15 * jax.random.normal(jax.random.key(len(n)), x.shape)
    for n, x in frozen.items()
  }


def request_of(backbone, beside):
  return {
    "conditioning": backbone.encode_text(TEXTS),
    "null": backbone.null_text(),
    **{name: jnp.asarray(x) for name, x in beside.items()},
  }


KEYS = row_keys(jax.random.key(0), np.arange(T))


def written_out(apply, params, backbone, request, *, mask_of, change):
  """Two steps of DDIM, by the equations alone.

  Args:
    mask_of: (maps of each step so far) -> mask_BRR of the second step.
    change: (x, first) -> x, before a step.
  """
  schedule = backbone.schedule
  steps = [schedule.num_steps - 1, schedule.num_steps // 2 - 1]
  levels = [(schedule.alpha_T[t], schedule.sigma_T[t]) for t in steps]
  levels.append((1.0, 0.0))
  x = draw_noise(KEYS, backbone.latent_shape)
  null = jax.tree.map(lambda n: jnp.repeat(n, T, 0), request["null"])
  maps, masks = [], None
  for number, t in enumerate(steps):
    x = change(x, number == 0)
    everything = jnp.ones((T, SIDE, SIDE), bool)
    masks = mask_of(maps) if number else everything
    seen = seen_of(token_masks(masks, sides=[SIDE], dilate=1), together=T)
    predictions = []
    for text in (request["conditioning"], null):
      with listening() as notes:
        predictions.append(
          apply_denoiser(
            apply, params, x, jnp.full(T, t), text, context={SEEN: seen}
          )
        )
      if text is not null and notes:
        maps.append(
          noun_map(list(notes.values()), request["noun_BL"], side=SIDE)
        )
    with_text, without = predictions
    v = with_text
    if number:  # the first step is not guided
      v = without + GUIDANCE * (with_text - without)
    alpha, sigma = levels[number]
    x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
    x0 = jnp.clip(x0, -1, 1)
    eps = (x - alpha * x0) / sigma
    x = levels[number + 1][0] * x0 + levels[number + 1][1] * eps
  return x, masks


def test_deformable_is_its_loop(backbone):
  config = config_of()
  with config.unlocked():
    config.sample.percentile = None
  apply, params = opened(backbone, config)
  tokenizer = open_tokenizer(backbone.folder)
  tokens, cause = text_tokens.noun_tokens(TEXTS, "dog", tokenizer)
  assert not cause
  request = request_of(backbone, {"noun_BL": np.stack(tokens)})

  @jax.jit
  def both(params):
    ours = TEACHER.sample(apply, backbone, params, request, KEYS, config.sample)
    theirs = written_out(
      apply, params, backbone, request,
      mask_of=lambda maps: otsu(maps[0]), change=lambda x, first: x,
    )  # fmt: skip
    return ours, theirs

  (x, mask), (expected, used) = both(params)
  np.testing.assert_allclose(x, expected, atol=1e-4)
  assert mask.shape == used.shape == (T, SIDE, SIDE)
  assert 0 < np.asarray(used).mean() < 1
  # Of the mean of two steps, not of the last.
  assert 0 < np.asarray(mask).mean() < 1


def flat_labels(num=4):
  """Views of a square at distance 3 by cameras that stand side by side."""
  labels = []
  for number in range(num):
    mask = np.zeros((FINE, FINE), bool)
    mask[4:12, 4 - number : 12 - number] = True
    shift = number * 2 * 3 / FINE  # a pixel to the right, seen at distance 3
    labels.append(
      Label(
        key="c0ffee0dad00",
        number=number,
        names=("dog",),
        boxes_xyxy=((0.2, 0.2, 0.8, 0.8),),
        scores=(1.0,),
        masks=(mask,),
        depth=np.where(mask, 3, 9).astype(np.float16),
        camera=(shift, 0, 3, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1),
      )
    )
  return labels


def views_of(backbone, labels):
  """What a request holds of one subject's views."""
  asked = frozenset(TEACHER.asks(config_of(depth_net="none")))
  arrays = requests.label_arrays(
    [labels], asked, num=len(labels), backbone=backbone
  )
  return {name: x_E[0] for name, x_E in arrays.items()}


@pytest.mark.parametrize("kind", ["latents", "finest"])
def test_rigid_is_its_loop(backbone, kind):
  """The base has pixels in patches of 2: latents are its patches."""
  config = config_of(depth_net="none", warp=kind, warp_method="bilinear")
  with config.unlocked():
    config.sample.percentile = None
  apply, params = opened(backbone, config)
  request = request_of(backbone, views_of(backbone, flat_labels(T)))
  links = link(request["places_TTHW2"], request["seen_TTHW"], source="last")

  def change(x, first):
    # The second step has less noise than signal.
    if not first:
      return x
    is_pixels = kind == "finest"
    array = backbone.codec.decode({}, x) if is_pixels else x
    moved = warp(
      array, links, source="last", method="bilinear", chain=True, thin=False
    )
    return backbone.codec.encode({}, moved) if is_pixels else moved

  @jax.jit
  def both(params):
    ours = TEACHER.sample(apply, backbone, params, request, KEYS, config.sample)
    theirs = written_out(
      apply, params, backbone, request,
      mask_of=lambda maps: jnp.asarray(
        request["masks_THW"]
      ).reshape(T, SIDE, 2, SIDE, 2).any((2, 4)),
      change=change,
    )  # fmt: skip
    return ours, theirs

  (x, mask), (expected, _) = both(params)
  np.testing.assert_allclose(x, expected, atol=1e-4)
  np.testing.assert_array_equal(mask, request["masks_THW"])


def test_links_are_where_the_cameras_say():
  """A camera a pixel to the right shows all a pixel to the left."""
  labels = flat_labels(3)
  places, seen = correspondence(labels, size_px=FINE)
  for source, giver, end, beside in (("last", 2, 0, 1), ("first", 0, 2, 1)):
    links = link(jnp.asarray(places), jnp.asarray(seen), source=source)
    assert not links["shown_TRR"][giver].any()
    for number in {0, 1, 2} - {giver}:
      shown = np.asarray(links["shown_TRR"][number])
      np.testing.assert_array_equal(shown, labels[number].masks[0])
      row, column = np.nonzero(shown)
      expected = np.stack([column + 0.5 + number - giver, row + 0.5], -1)
      np.testing.assert_allclose(
        links["at_TRR2"][number][shown], expected, atol=1e-3
      )
    assert links["next_shown_TRR"][end].any()
    assert not links["next_shown_TRR"][np.array([beside, giver])].any()
    np.testing.assert_array_equal(links["next_TRR2"][end], places[end, beside])


def test_near_is_bright_and_nothing_is_black():
  mask = np.array([[True, True, False]])
  found = depth_u8(np.array([[2.0, 4.0, 1.0]], np.float16), mask)
  np.testing.assert_array_equal(found[0, :, 0], [255, 128, 0])


def test_views_of_a_set_share_enough_and_the_least_come_first(tmp_path):
  shares = np.zeros((4, 4))
  for pair, value in {
    (0, 1): 0.3, (0, 2): 0.2, (1, 2): 0.15, (0, 3): 0.4, (1, 3): 0.12,
    (2, 3): 0.05,
  }.items():  # fmt: skip
    shares[pair] = value
  found = requests.choose_sets(shares, num=3, least=0.1)
  assert found == [(0, 1, 2), (0, 1, 3)]
  assert requests.choose_sets(shares, num=3, least=0.2) == []
  config = config_of(depth_net="none")
  wanted = frozenset(["correspondence"])
  chosen, cause = requests.choose_views(flat_labels(), wanted, config)
  assert not cause and [x.number for x in chosen] == [0, 1, 2]
  with config.unlocked():
    config.sample.view_overlap = 0.9
  assert requests.choose_views(flat_labels(), wanted, config) == (
    (),
    "4 of its 4 labelled pictures show enough of it, and no 3 of them share "
    "90% of the frame in pairs",
  )
  chosen, cause = requests.choose_views(
    flat_labels(), frozenset(["masks"]), config
  )
  assert not cause and [x.number for x in chosen] == [0, 1, 2]


def test_the_nouns_tokens_are_its_last_place(backbone):
  tokenizer = open_tokenizer(backbone.folder)
  texts = ("a dog in the snow with a dog", "a teapot")
  (first,), cause = text_tokens.noun_tokens(texts[:1], "dog", tokenizer)
  assert not cause and first.sum() == 1
  ids_BL, _ = tokenizer.with_mask(["dog", *texts])
  places = np.flatnonzero(ids_BL[1] == ids_BL[0][1])
  assert first.argmax() == places[-1] and len(places) == 2
  assert text_tokens.noun_tokens(texts, "dog", tokenizer) == (
    [],
    "the prompt 'a teapot' does not name its subject, 'dog'",
  )


def test_what_is_missing_is_a_cause_and_not_a_crash(backbone, tmp_path):
  clusters = inputs.make_clusters(2)
  inputs.write_stages(tmp_path, clusters)
  keys = [cluster.key for cluster in clusters]
  texts = {keys[0]: TEXTS, keys[1]: (*TEXTS[:2], "a teapot")}
  found = requests.ask(TEACHER, backbone, config_of(), tmp_path, texts)
  assert list(found.causes) == [keys[1]]
  assert "'a teapot' does not name" in found.causes[keys[1]]
  assert all(row["noun_BL"].any() for row in found.rows[0])
  assert not any(row["noun_BL"].any() for row in found.rows[1])


def test_mistakes_are_one_line(backbone, tmp_path):
  config = config_of(depth_net="none")
  with pytest.raises(ValueError) as caught:
    teacher.check_asked(TEACHER, config)
  assert str(caught.value) == (
    "The teacher 'syncd' asks for correspondence, and config.label.source="
    "'none' labels nothing: set config.label.source=world, or take another "
    "teacher."
  )
  teacher.check_asked(TEACHER, config_of())
  folder = tiny.write_backbone(tmp_path / "net", unet=tiny.SMALLEST_UNET)
  config = config_of(depth_net=str(folder))
  with pytest.raises(ValueError) as caught:
    teacher.declare(TEACHER, backbone, config)
  assert str(caught.value) == (
    f"config.finetune.depth_net='{folder}' has in_channels=12: expected 24, "
    "those of config.backbone and as many of the depth, as suti.pretrain.depth "
    "trains."
  )


def test_a_net_that_is_missing_is_said_before_anything_runs(tmp_path):
  config = syncd_world.get_config().unlock()
  config.finetune.depth_net = str(tmp_path / "none")
  steps = run.steps_of(config)
  with pytest.raises(ValueError, match=r"^config\.finetune\.depth_net=") as got:
    run.look_ahead(config, steps)
  assert "python -m suti.pretrain.depth" in str(got.value)
  (tmp_path / "none").mkdir()
  with pytest.raises(ValueError, match="it has no folder 'unet'"):
    run.look_ahead(config, steps)
  run.look_ahead(config, steps[-1:])  # which makes no sets
  config.finetune.depth_net = "none"
  run.look_ahead(config, steps)


def test_a_net_that_sees_depths_takes_the_bases_place(backbone, tmp_path):
  wide = tiny.SMALLEST_UNET | {"in_channels": 24}
  folder = tiny.write_backbone(tmp_path, unet=wide, seed=7)
  config = config_of(depth_net=str(folder))
  apply, _, frozen = teacher.declare(TEACHER, backbone, config)
  assert frozen["conv_in.weight"].shape[-2] == 24
  name = "mid_block.resnets.0.conv1.weight"
  assert np.abs(frozen[name] - backbone.params[name]).max() > 0.01
  request = request_of(backbone, views_of(backbone, flat_labels(T)))

  @jax.jit
  def sample(request):
    return TEACHER.sample(
      apply, backbone, frozen, request, KEYS, config.sample
    )[0]

  x = sample(request)
  dark = request | {"depth_THWC": -jnp.ones_like(request["depth_THWC"])}
  assert np.abs(x - sample(dark)).max() > 1e-4


@pytest.mark.parametrize("depth_net", ["", "none"])
def test_sdxl_is_planned(depth_net, tmp_path):
  """Traced, and not compiled."""
  unet = tiny_pipelines.ONE_LEVEL["sdxl"]
  folder = tiny_pipelines.write("sdxl", tmp_path, unet=unet)
  sdxl = describe_backbone(folder)
  config = config_of(depth_net=depth_net)
  with config.unlocked():
    config.update(backbone=str(folder), size_px=sdxl.size_px)
  mesh = flat_mesh(jax.devices()[:2])
  program = programs.sample(config, sdxl, mesh, per_device=1)
  images, masks = jax.eval_shape(program.function, *program.arguments)
  assert images.shape == (2, T, sdxl.size_px, sdxl.size_px, 3)
  assert masks.shape == images.shape[:-1] and masks.dtype == bool
