# SPDX-License-Identifier: Apache-2.0
"""Conformance: what every file of experts/teachers must do.

A new teacher is picked up here by its file alone. Each is declared on tiny
random backbones, tuned for a few steps on one cluster, written, read back and
sampled, all without the stages around it. SDXL takes sizes and has two text
encoders; IF says a variance beside its prediction.
"""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experts.teachers
from experts import teacher
from experts.farm import requests, sampling, train_step
from experts.farm.wave_files import describe, load_wave, write_wave
from experts.farm.waves import make_waves, wave_data
from suti.nn.nets import functional_nets
from suti.nn.param import functional
from suti.parallel.mesh import batch_sharding, flat_mesh
from suti.pipeline.backbone import load_backbone
from suti.pipeline.conditioning import apply_denoiser
from suti.pipeline.text_encoders import open_tokenizer
from suti.schema import Prompt
from tests import tiny
from tests.experts import inputs
from tests.extensions import found
from tests.pipeline import tiny_pipelines

FOLDER = pathlib.Path(experts.teachers.__path__[0])
NAMES = sorted(p.stem for p in FOLDER.glob("[!_]*.py"))
# Other families with one teacher each: most of the time is the compiler's.
PAIRS = [(name, "tiny") for name in NAMES] + [
  ("lora", "sdxl"),
  ("dreambooth", "if1"),
  # One of tests/extensions, which has every part that there is.
  (found.TEACHER, "tiny"),
]
NUM_STEPS = 24
# How much of a loss is left, at most. A net of random weights hardly looks at
# its text, which is all that a word changes; rounding is a thousandth of it.
LEFT = {"textual_inversion": 0.9998}


@dataclasses.dataclass(kw_only=True)
class Tuned:
  """A teacher, and one expert of it."""

  name: str
  found: teacher.Teacher
  config: object
  mesh: object
  backbone: object
  apply: object
  trainable: dict
  frozen: dict
  state: dict


def open_backbone(kind, folder):
  if kind == "tiny":
    return load_backbone(tiny.write_backbone(folder, unet=tiny.ONE_LEVEL_UNET))
  unet = tiny_pipelines.ONE_LEVEL[kind]
  return load_backbone(tiny_pipelines.write(kind, folder, unet=unet))


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def tuned(request, tmp_path_factory):
  with found.extended():
    yield tune(*request.param, tmp_path_factory)


def tune(name, kind, tmp_path_factory):
  """An expert after its steps, if its teacher tunes any."""
  backbone = open_backbone(kind, tmp_path_factory.mktemp(kind))
  config = inputs.make_config(
    {},
    teacher=name,
    num_steps=NUM_STEPS,
    batch_size=8,
    learning_rate=1e-2,
  )
  mesh = flat_mesh(jax.devices()[:1])
  record = teacher.find(name)
  if record.together:
    config.unlock()
    config.sample.update(together=3, batch_size=6)
  apply, trainable, frozen = teacher.declare(record, backbone, config)
  tuned = Tuned(
    name=name,
    found=record,
    config=config,
    mesh=mesh,
    backbone=backbone,
    apply=apply,
    trainable=trainable,
    frozen=frozen,
    state={"params": {}},
  )
  if record.loss is None:
    return tuned
  tx = train_step.make_optimizer(config.finetune)
  step = train_step.make_step(
    record, apply, backbone, tx, mesh, config.finetune
  )
  start = train_step.make_start(trainable, tx, mesh, num_steps=NUM_STEPS)
  arrays = data_of(backbone, record.asked(config))
  data = jax.device_put(arrays, batch_sharding(mesh))
  state = start(1)
  for _ in range(NUM_STEPS):
    state = step(state, frozen, data)
  return dataclasses.replace(tuned, state=state)


def clusters_of(backbone, num):
  return inputs.make_clusters(num, size_px=backbone.size_px)


def data_of(backbone, asks):
  """The training data of one expert."""
  return wave_data(
    clusters_of(backbone, 1), backbone, num_pictures=4, seed=0, asks=asks
  )


def test_a_file_defines_one_teacher_with_its_paper():
  assert "dreambooth" in NAMES
  for name in NAMES:
    module = importlib.import_module(f"experts.teachers.{name}")
    assert isinstance(module.TEACHER, teacher.Teacher)
    assert module.TEACHER.paper.startswith("https://arxiv.org/abs/")


def test_an_unknown_teacher_is_named_with_a_remedy():
  with pytest.raises(ValueError) as caught:
    teacher.find("dreamboth")
  assert str(caught.value) == (
    "No teacher 'dreamboth' (config.finetune.teacher). experts/teachers has "
    "dreambooth, lora, syncd, textual_inversion. Did you mean 'dreambooth'?"
  )


def test_declaring_leaves_the_base_as_it_was(tuned):
  spec, _ = functional(tuned.backbone.unet)
  ours, _ = functional_nets(
    tuned.found.declare(tuned.backbone, tuned.config.finetune)
  )
  assert {n: p.shape for n, p in ours.items() if n in spec} == {
    n: p.shape for n, p in spec.items()
  }
  assert not set(tuned.trainable) & set(tuned.frozen)
  assert set(tuned.trainable) | set(tuned.frozen) == set(ours)


def inputs_of(backbone):
  rng = np.random.default_rng(0)
  x_BHWC = jnp.asarray(rng.normal(size=(2, *backbone.latent_shape)), "float32")
  return x_BHWC, jnp.array([3, 900]), backbone.encode_text(["a dog", ""])


def test_before_the_first_step_it_is_the_base(tuned):
  asked = inputs_of(tuned.backbone)
  _, base = functional(tuned.backbone.unet)

  @jax.jit
  def both(params):
    return apply_denoiser(tuned.apply, params, *asked), apply_denoiser(
      base, params, *asked
    )

  ours, bases = both(tuned.frozen | tuned.trainable)
  np.testing.assert_allclose(ours, bases, atol=1e-6)


def test_only_what_is_trainable_moves_and_all_of_it(tuned):
  assert set(tuned.state["params"]) == set(tuned.trainable)
  still = [
    name
    for name, x in tuned.state["params"].items()
    if (np.asarray(x[0]) == np.asarray(tuned.trainable[name])).all()
  ]
  assert not still


def test_its_loss_falls(tuned):
  if tuned.found.loss is None:
    pytest.skip("it tunes nothing")
  arrays = data_of(tuned.backbone, tuned.found.asked(tuned.config))
  rows_B = np.arange(48) % arrays["num"][0]
  batch = {
    "x_BHWC": arrays["x_KHWC"][0][rows_B],
    "conditioning": {
      name: x_EK[0][rows_B] for name, x_EK in arrays["conditioning"].items()
    },
  } | {name: x_EK[0][rows_B] for name, x_EK in arrays.get("asked", {}).items()}

  @jax.jit
  def loss_of(params):
    return tuned.found.loss(
      tuned.apply,
      tuned.backbone,
      tuned.frozen | params,
      batch,
      jax.random.key(7),
      tuned.config.finetune,
    )

  # The same pictures, steps and noise, before and after.
  after = loss_of({k: x[0] for k, x in tuned.state["params"].items()})
  left = LEFT.get(tuned.name, 0.99)
  assert float(after) < left * float(loss_of(tuned.trainable))
  assert np.isfinite(np.asarray(tuned.state["loss_ET"])).all()
  assert int(tuned.state["failed_E"][0]) == -1


def draw(tuned, params, prompts, *, pictures=0):
  """Images of one expert for some prompts, and their rows."""
  (cluster,) = clusters_of(tuned.backbone, 1)
  config, backbone = tuned.config, tuned.backbone
  asked = sampling.rows_of(
    [
      Prompt(cluster=cluster.key, prompt=text, skill="attribute")
      for text in prompts
    ],
    num=1,
    seed=0,
    together=config.sample.together,
  )
  (rows,) = asked.values()
  shown = requests.nothing_asked(tuned.found, backbone, config)
  if "pictures" in tuned.found.asked(config):
    others = clusters_of(backbone, 1 + pictures)[-1]
    more = requests.encode_pictures([others.images], backbone, config)
    shown = dataclasses.replace(shown, arrays={**shown.arrays, **more})
  (blank,) = shown.rows[0]
  own = [dict(blank) for _ in rows]
  if "noun_BL" in blank:  # The second token, whatever it says.
    own = [x | {"noun_BL": np.arange(len(x["noun_BL"])) == 2} for x in own]
  if "ids_BL" in blank:
    ids_BL = open_tokenizer(backbone.folder)(prompts)
    own = [x | {"ids_BL": ids_L} for x, ids_L in zip(own, ids_BL, strict=True)]
  shown = dataclasses.replace(shown, rows=[own])
  request = sampling.make_request(
    [rows], backbone, slots=range(len(rows)), num_experts=1, asked=shown
  )
  sample = sampling.make_sample(
    tuned.found, tuned.apply, backbone, config, tuned.mesh, inner="vmap"
  )
  null, vae_params = backbone.null_text(), backbone.codec.params
  images = sample(tuned.frozen, null, vae_params, params, request)
  if tuned.found.masks:
    images, masks = images
    assert masks.shape == images.shape[:-1] and masks.dtype == bool
  return np.asarray(images)


def test_it_is_written_read_back_and_drawn(tuned, tmp_path):
  (cluster,) = clusters_of(tuned.backbone, 1)
  params = {}
  if tuned.found.loss is not None:
    (wave,) = make_waves([cluster.key], experts_per_wave=1, num_devices=1)
    record = describe(wave, tuned.state, teacher=tuned.name, damaged={})
    write_wave(tmp_path, wave, record, params=[tuned.state["params"]])
    file = tmp_path / f"{wave.name}.safetensors"
    params = load_wave(file, tuned.trainable)
    for name, x in params.items():
      np.testing.assert_array_equal(x, tuned.state["params"][name])
  images = draw(tuned, params, inputs.PROMPTS)
  side = tuned.backbone.size_px
  assert images.shape == (1, 3, side, side, 3)
  assert np.isfinite(images).all()
  if tuned.found.loss is not None:
    base = {name: np.asarray(x)[None] for name, x in tuned.trainable.items()}
    of_base = draw(tuned, base, inputs.PROMPTS)
    assert np.abs(images - of_base).max() > 1e-3
  if "pictures" in tuned.found.asked(tuned.config):
    others = draw(tuned, params, inputs.PROMPTS, pictures=1)
    assert np.abs(images - others).max() > 1e-3


def test_images_that_see_each_other_are_those_of_a_group(tuned):
  if not tuned.found.together:
    pytest.skip("it samples each image alone")
  one, two = inputs.PROMPTS[:2], inputs.PROMPTS
  before = draw(tuned, {}, [*two, *two])[0]
  after = draw(tuned, {}, [*two, *one, "a cat"])[0]
  np.testing.assert_array_equal(before[:3], after[:3])
  for number in (3, 4):  # whose own prompts are the same
    assert np.abs(before[number] - after[number]).max() > 1e-3


def test_subjects_without_whole_groups_are_named():
  prompts = [
    Prompt(cluster="c0ffee0dad00", prompt=text, skill="attribute")
    for text in inputs.PROMPTS[:2]
  ]
  with pytest.raises(ValueError) as caught:
    sampling.rows_of(prompts, num=2, seed=0, together=3)
  assert str(caught.value) == (
    "Cluster c0ffee0dad00 has 4 images to sample, no multiple of "
    "config.sample.together=3: allow more skills in config.prompts.skills, or "
    "sample fewer together."
  )
  rows = sampling.rows_of(prompts, num=3, seed=0, together=3)["c0ffee0dad00"]
  assert [row.number for row in rows] == [0, 1, 2] * 2
  assert len({row.group for row in rows}) == 2


@pytest.mark.parametrize("name", ["dreambooth", "lora"])
def test_a_group_needs_a_teacher_that_samples_one(name):
  config = inputs.make_config({}, teacher=name).unlock()
  config.sample.update(together=2)
  with pytest.raises(ValueError) as caught:
    teacher.check_together(teacher.find(name), config)
  assert str(caught.value) == (
    f"config.sample.together=2: the teacher '{name}' samples each image alone; "
    "set it to 1, or take a teacher whose images see each other."
  )
