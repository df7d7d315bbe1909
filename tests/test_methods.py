# SPDX-License-Identifier: Apache-2.0
"""Conformance: what every file of apprentice/methods must do.

A new method is picked up here by its file alone; what it is shown follows from
its record. So is one of tests/extensions, which has every part that there is.
Each is declared on a tiny random backbone, trained for a few steps on eight
examples, written, read back and sampled.
"""

import dataclasses
import importlib
import itertools
import json
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apprentice import generate, method, methods, model, train, train_step
from apprentice.encoders import look, open_encoders
from apprentice.fields import make_fields, to_latents
from apprentice.model import WEIGHTS
from apprentice.start import start_params
from suti.config.names import names_in
from suti.diffusion.objective import denoising_loss
from suti.nn.param import functional, split, without
from suti.pipeline.backbone import load_backbone
from suti.runtime.log import read_log
from tests import tiny
from tests.apprentice import inputs
from tests.extensions import found, masked_config

B, K = 8, 3
# What is smaller than in configs/apprentice/METHOD_world.py.
TINY = {
  "ip_adapter": lambda clip: {
    "encoder": str(clip),
    "num_tokens": 2,
    "shows": "demonstrations",
  },
  "syncd": lambda clip: {
    "encoder": str(clip),
    "rank": 8,
    "num_tokens": 2,
    "width": 16,
    "depth": 1,
    "num_heads": 1,
  },
}


# A product of two factors, of which one starts at zero, learns slowly at first.
RATES = {"syncd": 8e-3}


@pytest.fixture(scope="module", params=[*names_in(methods), found.METHOD])
def name(request):
  with found.extended():
    yield request.param


@pytest.fixture(scope="module")
def section(name, tiny_identity, tiny_clip):
  """`config.method`, of a method that needs another than the quickstart's."""
  if name == found.METHOD:
    width = tiny.IDENTITY["hidden_size"]
    return masked_config.method_section(str(tiny_identity), width=width)
  if name == "suti":
    return None
  config = importlib.import_module(f"configs.apprentice.{name}_world")
  section = config.get_config().unlock().method
  if name in TINY:
    section.update(TINY[name](tiny_clip))
  return section


@pytest.fixture(scope="module")
def backbone(tiny_backbone):
  return load_backbone(tiny_backbone)


@pytest.fixture(scope="module")
def trained(name, backbone, tiny_backbone, section, tmp_path_factory):
  """(workdir, config, compiled step) after 40 steps on eight examples.

  Of what is new and of the last convolution: to update all parameters would
  take longer to compile than the rest of the step.
  """
  workdir = tmp_path_factory.mktemp(name)
  config = inputs.make_config(
    tiny_backbone,
    method=name,
    num_steps=40,
    learning_rate=RATES.get(name, 3e-3),
    warmup_steps=2,
    decay=None,
    log_snr_mean=-0.5,  # where the loss has most to fall
    validation_clusters=0,
    checkpoint_every=20,
    log_every=10,
    joint_dropout=0.0,
    text_dropout=0.0,
    demonstration_dropout=0.0,
    condition_dropout=0.0,
  ).unlock()
  config.method = section or config.method
  declared = model.declare(backbone, name=name, config=config.method)
  new = without(declared.spec, backbone.params)
  config.method.trainable = "|".join([*map(re.escape, new), "conv_out"])
  inputs.write_pack(workdir, num=8)
  steps = []

  def make_step(*args, **kw):
    steps.append(train_step.make_step(*args, **kw))
    return steps[-1]

  with inputs.on_devices(1), pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "make_step", make_step)
    train.run(config, workdir)
  return workdir, config, steps[0]


@pytest.fixture(scope="module")
def start(name, backbone, trained):
  """The apprentice as it starts: the backbone's arrays and fresh new ones."""
  declared = model.declare(backbone, name=name, config=trained[1].method)
  config = trained[1].copy_and_resolve_references().unlock()
  config.train.update(init=backbone.name, init_base="")
  params = start_params(declared, config.train, base=config.backbone, seed=0)
  return dataclasses.replace(declared, params=params)


@pytest.fixture(scope="module")
def batch(backbone, start):
  """The eight examples as one batch of latents."""
  fields = start.method.fields(start.config)
  encoders = open_encoders(start.method, start.config)
  rows = []
  for example in inputs.draw_examples(8):
    target, *shown = look([example.image, *example.demonstrations], encoders)
    rows.append(
      make_fields(
        image=target,
        prompt=example.prompt,
        demonstrations=shown[:K],
        captions=example.captions[:K],
        num_demonstrations=K,
        encode_text=backbone.encode_text,
        size_px=backbone.size_px,
        fields=fields,
        encoders=encoders,
      )
    )
  stacked = jax.tree.map(lambda *x: np.stack(x), *rows)
  return to_latents(backbone, {}, stacked, dtype=jnp.float32, fields=fields)


def predict(start, params, x, t, text, context):
  """A prediction, with the context of its step."""
  keys_B = jax.random.split(jax.random.key(3), len(x))
  return method.predict(
    start.method, start.apply, params, x, t, text, context, keys_B=keys_B
  )


@pytest.fixture(scope="module")
def loss(start, backbone, batch):
  """Loss of the eight examples at fixed noise, a function of parameters."""

  def loss(params):
    context = start.method.encode(start.apply, params, batch)

    def at(key):
      return denoising_loss(
        backbone.schedule,
        lambda x, t: predict(start, params, x, t, batch["text"], context),
        batch["image"],
        key,
      ).mean()

    return jax.lax.map(at, jax.random.split(jax.random.key(9), 8)).mean()

  return jax.jit(loss)


def test_the_record_is_whole(name):
  record = method.find(name)
  assert record.paper.startswith("https://")
  assert importlib.import_module(f"apprentice.methods.{name}").__doc__


def test_declaring_leaves_base_names_and_shapes_intact(start, backbone):
  base, _ = functional(backbone.unet)
  for parameter, described in base.items():
    assert start.spec[parameter].shape == described.shape, parameter
    assert start.spec[parameter].torch == described.torch, parameter
  assert set(start.spec) - set(base), "no parameter is new"
  # The backbone's own declaration is as it was.
  assert functional(backbone.unet)[0].keys() == backbone.params.keys()


def test_it_starts_as_its_base(start, backbone, batch):
  if not start.method.starts_as_base:
    pytest.skip("its record says that it does not")
  x, t = batch["image"], jnp.arange(B) * 120
  text = batch["text"]
  _, apply = functional(backbone.unet)

  @jax.jit
  def both(params):
    context = start.method.encode(start.apply, params, batch)
    ours = predict(start, params, x, t, text, context)
    base = apply(params, x, t, **text)
    return ours, base

  ours, base = both(start.params)
  np.testing.assert_allclose(ours, base, atol=1e-6)


def test_loss_falls_on_eight_examples(trained, start, loss):
  learnt = model.load_apprentice(trained[0] / "apprentice" / "train" / "model")
  before, after = float(loss(start.params)), float(loss(learnt.params))
  assert after < 0.9 * before, (before, after)


def test_a_trained_model_heeds_what_it_is_shown(trained, start, batch):
  learnt = model.load_apprentice(trained[0] / "apprentice" / "train" / "model")
  x, t = batch["image"], jnp.full((B,), 500)
  text = batch["text"]

  @jax.jit
  def of(params, batch):
    context = start.method.encode(start.apply, params, batch)
    return predict(start, params, x, t, text, context)

  own = of(learnt.params, batch)
  others = {
    n: jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), x)
    if n.startswith("demonstration")
    else x
    for n, x in batch.items()
  }
  assert float(jnp.abs(own - of(learnt.params, others)).max()) > 1e-4


class KilledError(Exception):
  """In the place of a signal."""


# What a process leaves open when it dies.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_killed_and_started_again_it_is_the_same_model(
  trained, tmp_path, monkeypatch
):
  workdir, config, step = trained
  inputs.write_pack(tmp_path, num=8)
  calls = itertools.count(1)

  def dying(*arguments):
    if next(calls) == 30:
      raise KilledError
    return step(*arguments)

  checkpoints = tmp_path / "apprentice" / "train" / "checkpoints"
  with inputs.on_devices(1):
    monkeypatch.setattr(train, "make_step", lambda *_, **__: dying)
    with pytest.raises(KilledError):
      train.run(config, tmp_path)
    while not (checkpoints / "20").is_dir():  # It is written beside the steps.
      time.sleep(0.01)
    train.run(config, tmp_path)
  # What was done after the checkpoint is done again.
  assert next(calls) == 30 + 20 + 1
  model = f"apprentice/train/model/unet/{WEIGHTS}"
  assert (tmp_path / model).read_bytes() == (workdir / model).read_bytes()


def test_only_trainable_parameters_move(
  name, tiny_backbone, section, start, backbone, tmp_path
):
  new = set(without(start.spec, backbone.params))
  some = sorted(new)[len(new) // 2]
  config = inputs.make_config(
    tiny_backbone,
    method=name,
    num_steps=2,
    warmup_steps=0,
    checkpoint_every=2,
    log_every=1,
  ).unlock()
  config.method = section or config.method
  config.method.trainable = some.replace(".", r"\.") + "$|conv_out"
  inputs.write_pack(tmp_path, num=8)
  with inputs.on_devices(1):
    train.run(config, tmp_path)
  folder = tmp_path / "apprentice" / "train"
  learnt = model.load_apprentice(folder / "model").params
  moving, frozen = split(start.spec, config.method.trainable)
  assert set(moving) == {some, "conv_out.weight", "conv_out.bias"}
  for parameter in frozen:
    np.testing.assert_array_equal(
      learnt[parameter], start.params[parameter], err_msg=parameter
    )
  assert np.abs(learnt["conv_out.bias"] - start.params["conv_out.bias"]).any()
  if start.method.losses is not None:
    # Its own losses are logged, and part of the loss.
    for line in read_log(folder):
      if "loss" not in line:
        continue  # of the validation
      own = [x for n, x in line.items() if n.startswith("loss_")]
      assert len(own) > 1
      assert sum(own) == pytest.approx(line["loss"], rel=1e-5)
  # What is frozen is in no checkpoint.
  about = json.loads(
    (folder / "checkpoints" / "2" / "about" / "metadata").read_text()
  )
  kept = {leaf for leaf in about["leaves"] if leaf.startswith("params.")}
  assert kept == {f"params.{parameter}" for parameter in moving}


def test_saved_restored_and_sampled(trained, tmp_path):
  folder = trained[0] / "apprentice" / "train" / "model"
  learnt = model.load_apprentice(folder)
  example = inputs.draw_examples(1)[0]

  def draw(apprentice, seed):
    return generate.generate(
      apprentice,
      example.demonstrations,
      "a red dog",
      captions=["a dog"] * len(example.demonstrations),
      num=2,
      seed=seed,
    )

  images = draw(learnt, 0)
  assert [image.shape for image in images] == [(16, 16, 3)] * 2
  assert all(image.dtype == np.uint8 for image in images)
  assert (images[0] != images[1]).any()
  model.save_apprentice(learnt, tmp_path / "again")
  again = model.load_apprentice(tmp_path / "again")
  for parameter, array in learnt.params.items():
    np.testing.assert_array_equal(again.params[parameter], array)
  np.testing.assert_array_equal(draw(again, 0), images)
