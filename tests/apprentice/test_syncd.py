# SPDX-License-Identifier: Apache-2.0
"""What SynCD's method sees of references, and its configs.

That both passes are as the paper defines them is test_syncd_parity.py's.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apprentice import programs, train
from apprentice.methods import syncd
from apprentice.model import declare
from configs.apprentice import syncd_sdxl, syncd_world
from suti.io.records import write_examples
from suti.nn.nets import functional_nets
from suti.nn.param import init
from suti.parallel.mesh import flat_mesh, make_mesh
from suti.pipeline.backbone import describe_backbone, load_backbone
from suti.runtime.log import read_log
from suti.runtime.stage import stage
from tests import tiny
from tests.apprentice import inputs
from tests.pipeline import tiny_pipelines

B, K = 2, 3
SMALL = {"rank": 2, "num_tokens": 2, "width": 8, "depth": 1, "num_heads": 1}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
  return tiny_pipelines.write(
    "sdxl",
    tmp_path_factory.mktemp("sdxl"),
    unet=tiny_pipelines.ONE_LEVEL["sdxl"],
  )


def section(clip, **fields):
  config = syncd_world.get_config().unlock().method
  config.update(SMALL | {"encoder": str(clip)} | fields)
  return config


@pytest.fixture(scope="module")
def ours(sdxl, tiny_clip):
  """A batch, and the prediction of it with its gradient by the references."""
  backbone = load_backbone(sdxl)
  spec, apply = functional_nets(syncd.declare(backbone, section(tiny_clip)))
  rng = np.random.default_rng(0)
  params = init(spec, jax.random.key(1)) | backbone.params
  params |= {
    name: jnp.asarray(0.3 * rng.normal(size=p.shape), jnp.float32)
    for name, p in spec.items()
    if name.endswith("lora_B.weight") or name.startswith("null:")
  }
  text = backbone.encode_text(["a dog", "a cat", "a red dog", "a hat"])
  rows = np.asarray([[1, 2, 3], [3, 1, 0]])
  there = np.asarray([[1, 1, 1], [1, 1, 0]], bool)
  batch = {
    "demonstrations": rng.normal(size=(B, K, *backbone.latent_shape)),
    "demonstration_mask": there,
    "reference_mask": there,
    "demonstration_text": {name: x[rows] for name, x in text.items()},
    "demonstration_images": rng.normal(
      size=(B, K, *spec["null:features"].shape)
    ),
    "demonstration_masks": rng.random((B, K, 16, 16)) < 0.02,
    "subject_scale": np.full(B, 0.6),
  }
  batch = jax.tree.map(
    lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, batch
  )
  x = rng.normal(size=(B, *backbone.latent_shape)).astype(np.float32)
  target = {name: x[:B] for name, x in text.items()}
  keys_B = jax.random.split(jax.random.key(5), B)

  @jax.jit
  def predict(batch, t_B):
    def at(demonstrations):
      seen = batch
      if demonstrations is not None:
        seen = batch | {"demonstrations": demonstrations}
      context = syncd.encode(apply, params, seen)
      context = syncd.refresh(apply, params, context, t_B, keys_B)
      return syncd.denoise(apply, params, x, t_B, target, context)

    shown = batch.get("demonstrations")
    if shown is None:
      return at(None), None
    y, pull_back = jax.vjp(at, shown)
    return y, pull_back(y)[0]

  return {"batch": batch, "predict": predict, "apply": apply, "params": params}


T = np.asarray([17, 803])


def test_each_part_of_what_is_seen_counts(ours):
  batch, predict = ours["batch"], ours["predict"]
  whole, gradient = predict(batch, T)
  # Nothing flows back through the references' pass.
  np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
  text = batch["demonstration_text"]
  for other in (
    {"demonstrations": batch["demonstrations"][::-1].copy()},
    {"demonstration_mask": np.zeros((B, K), bool)},
    {"demonstration_masks": np.ones((B, K, 16, 16), bool)},
    {"demonstration_text": jax.tree.map(lambda x: x[:, ::-1].copy(), text)},
    {"subject_scale": np.zeros(B, np.float32)},
  ):
    found, _ = predict(batch | other, T)
    assert (np.abs(found - whole).max((1, 2, 3)) > 1e-4).all(), other.keys()
  # What lies in a place that no reference has does not.
  blank = batch["demonstrations"].copy()
  blank[1, 2] = 7.0
  found, _ = predict(batch | {"demonstrations": blank}, T)
  np.testing.assert_allclose(found, whole, atol=1e-5)


def test_without_the_subject_all_is_hidden_and_nothing_computed(ours):
  """The branch of guidance that skips the references' pass."""
  batch = {n: x for n, x in ours["batch"].items() if n != "reference_mask"}
  hidden = batch | {"demonstration_mask": np.zeros((B, K), bool)}
  by_masks, _ = ours["predict"](hidden, T)
  skipped = syncd.without_subject(batch, jnp.ones(B, bool))
  found, gradient = ours["predict"](skipped, T)
  assert gradient is None
  np.testing.assert_allclose(found, by_masks, atol=1e-5)


def shapes_of(ours, batch):
  return jax.eval_shape(
    lambda batch: syncd.encode(ours["apply"], ours["params"], batch), batch
  )


def test_a_dropped_picture_leaves_the_references(ours):
  """As in the published code; and all of it goes, where that is asked for."""
  dropped = np.asarray([[False] * K, [True, True, False]])
  batch = ours["batch"] | {"demonstration_mask": dropped}
  encode = jax.jit(
    lambda batch: syncd.encode(
      ours["apply"], ours["params"], batch
    ).seen_BKHW.any((2, 3))
  )
  there = batch["reference_mask"]
  assert ours["batch"]["demonstration_masks"].any((2, 3)).all()
  np.testing.assert_array_equal(encode(batch), there)
  del batch["reference_mask"]
  np.testing.assert_array_equal(encode(batch), dropped)


def test_without_the_whole_picture_there_is_no_adapter(sdxl, tiny_clip):
  config = section(tiny_clip, picture=False)
  backbone = load_backbone(sdxl)
  spec, apply = functional_nets(syncd.declare(backbone, config))
  assert not [name for name in spec if name.startswith(("adapter:", "null:"))]
  assert syncd.encoders(config) == {}
  names = {field.name for field in syncd.fields(config)}
  assert "demonstration_images" not in names
  assert "demonstrations" in names
  rng = np.random.default_rng(0)
  params = init(spec, jax.random.key(1)) | backbone.params
  assert not syncd.METHOD.start(config, params)
  text = backbone.encode_text(["a dog", "a cat"])
  there = np.ones((B, K), bool)
  batch = {
    "demonstrations": rng.normal(size=(B, K, *backbone.latent_shape)),
    "demonstration_mask": there,
    "reference_mask": there,
    "demonstration_text": {
      name: np.stack([x] * K, axis=1) for name, x in text.items()
    },
    "demonstration_masks": np.ones((B, K, 16, 16), bool),
  }
  batch["demonstrations"] = batch["demonstrations"].astype(np.float32)
  x = rng.normal(size=(B, *backbone.latent_shape)).astype(np.float32)
  keys_B = jax.random.split(jax.random.key(5), B)
  t_B = jnp.asarray([500, 900])

  def predict(batch):
    context = syncd.encode(apply, params, batch)
    context = syncd.refresh(apply, params, context, t_B, keys_B)
    return syncd.denoise(apply, params, x, t_B, text, context)

  base = syncd.denoise(apply, params, x, t_B, text, None)
  assert np.abs(predict(batch) - base).max() > 1e-4
  hidden = syncd.without_subject(batch, np.ones(B, bool))
  # Updates start at zero: without references it is the base.
  np.testing.assert_allclose(predict(hidden), base, atol=1e-6)


def test_clean_references_are_seen_once(sdxl, tiny_clip, ours):
  spec, apply = functional_nets(
    syncd.declare(
      describe_backbone(sdxl), section(tiny_clip, references="clean")
    )
  )
  context = jax.eval_shape(
    lambda batch: syncd.encode(apply, ours["params"], batch), ours["batch"]
  )
  assert context.x0_BKHWC is None and context.sites
  keys_B = jax.random.split(jax.random.key(0), B)
  assert syncd.refresh(apply, ours["params"], context, T, keys_B) is context
  noised = shapes_of(ours, ours["batch"])
  assert noised.sites is None and noised.x0_BKHWC is not None
  assert spec.keys() == ours["params"].keys()


def test_noise_is_other_at_each_step_and_for_each_reference(ours):
  x0_BKHWC = ours["batch"]["demonstrations"]
  keys_B = jnp.stack([jax.random.key(3)] * B)

  def noised(*t):
    x_BKHWC, t_B = ours["apply"](
      ours["params"], x0_BKHWC * 0, jnp.asarray(t), keys_B, net="noising"
    )
    np.testing.assert_array_equal(t_B, t)
    return np.asarray(x_BKHWC)

  first, second = noised(500, 501)
  np.testing.assert_array_equal(first, noised(500, 3)[0])
  # A sampler draws from the same keys, by the number of its step.
  sampled = jax.random.normal(
    jax.random.fold_in(keys_B[0], 500), first[0].shape, jnp.float32
  )
  for one, two in (
    (first, second),
    (first[0], first[1]),
    (first[0], np.asarray(sampled)),
  ):
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.2


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {"references": "noisy"},
      "config.method.references='noisy': expected one of noised, clean; the "
      "published code has 'noised'.",
    ),
    (
      {"rank": 0},
      "config.method.rank=0: expected an integer of at least 1; published are "
      "a rank of 128 and a mask_dilation of 5 cells.",
    ),
    (
      {"encoder": "nowhere"},
      "No model 'nowhere': it is neither a folder nor one of the shipped",
    ),
  ],
)
def test_a_wrong_field_is_one_line(sdxl, tiny_clip, fields, message):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    syncd.declare(describe_backbone(sdxl), section(tiny_clip, **fields))


def test_a_missing_field_is_named(sdxl, tiny_clip):
  config = section(tiny_clip)
  del config["dropped"]
  with pytest.raises(ValueError) as caught:
    syncd.declare(describe_backbone(sdxl), config)
  assert str(caught.value) == (
    "config.method.dropped is missing: copy it from "
    "configs/apprentice/syncd_world.py."
  )


def small_sdxl(sdxl, clip):
  config = syncd_sdxl.get_config("tiny").unlock()
  config.update(backbone=str(sdxl), size_px=tiny.SIZE_PX)
  config.train.init = str(sdxl)
  config.method.encoder = str(clip)
  return config


def test_two_steps_of_the_config_for_sdxl(sdxl, tiny_clip, tmp_path, capsys):
  """In bfloat16, rematerialised; what examples lack is said."""
  config = small_sdxl(sdxl, tiny_clip)
  rng = np.random.default_rng(0)
  with_masks, without = (
    inputs.draw_examples(2, num_demonstrations=num) for num in (2, 1)
  )
  with_masks = [
    dataclasses.replace(
      example,
      demonstration_masks=tuple(
        rng.random((2, tiny.SIZE_PX, tiny.SIZE_PX)) < 0.5
      ),
    )
    for example in with_masks
  ]
  folder = tmp_path / "experts" / "pack"
  write_examples(folder, [*with_masks, *without[:1]], shard_size=4)
  stage(tmp_path, "experts/pack", {}).finish({"examples": 3})
  # Adam counts in integers, which are powers there; strict in tests alone.
  with inputs.on_devices(1), jax.numpy_dtype_promotion("standard"):
    summary = train.run(config.lock(), tmp_path)
  assert summary["steps"] == 2
  assert (
    "1 of 3 examples have no demonstration_masks: demonstration_masks is 1 "
    "everywhere in them; config.label.source gives masks to pictures, and a "
    "teacher to its own."
  ) in " ".join(capsys.readouterr().err.split())
  log = read_log(tmp_path / "apprentice" / "train")
  log = [line for line in log if "loss" in line]  # others are of validation
  assert len(log) == 2 and all(np.isfinite(line["loss"]) for line in log)


def test_the_method_trains_what_is_published(sdxl, tiny_clip):
  config = small_sdxl(sdxl, tiny_clip)
  declared = declare(
    describe_backbone(sdxl), name="syncd", config=config.method
  )
  kinds = {
    re.sub(r"^.*\.(attn\d)\.", r"\1.", name)
    for name in declared.spec
    if re.search(declared.trainable, name)
  }
  updates = {
    f"attn1.{layer}.lora_{half}.weight"
    for layer in ("to_q", "to_k", "to_v", "to_out.0")
    for half in "AB"
  }
  rest = kinds - updates
  assert updates < kinds and rest
  assert all(re.search(r"to_[kv]_ip\.weight$", each) for each in rest)


def test_its_programs_are_planned(sdxl, tiny_clip):
  """Traced and not compiled."""
  config = small_sdxl(sdxl, tiny_clip).lock()
  backbone = describe_backbone(sdxl)
  step = programs.train(
    config,
    backbone,
    make_mesh(config.mesh, devices=jax.devices()[:1]),
    per_device=2,
  )
  with jax.numpy_dtype_promotion("standard"):  # Adam, as above
    _, scalars = jax.eval_shape(step.function, *step.arguments)
  assert {"loss", "grad_norm"} <= set(scalars)
  sample = programs.sample(
    config, backbone, flat_mesh(jax.devices()[:1]), per_device=2
  )
  images = jax.eval_shape(sample.function, *sample.arguments)
  assert images.shape == (2, tiny.SIZE_PX, tiny.SIZE_PX, 3)
