# SPDX-License-Identifier: Apache-2.0
"""Conformance: what every file of experts/teachers must do.

A new teacher is picked up here by its file alone. Each is declared on a tiny
random backbone, tuned for a few steps on one cluster, written, read back and
sampled, all without the stages around it.
"""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experts.teachers
from experts import sample, teacher, tuning
from experts.wave_files import describe, load_wave, write_wave
from experts.waves import make_waves, wave_data
from suti.backbone import load_backbone
from suti.nn.param import functional
from suti.parallel.mesh import batch_sharding, make_mesh
from suti.schema import Prompt
from tests import tiny
from tests.experts import inputs

FOLDER = pathlib.Path(experts.teachers.__path__[0])
NUM_STEPS = 24


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


@pytest.fixture(
  scope="module", params=sorted(p.stem for p in FOLDER.glob("[!_]*.py"))
)
def tuned(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  backbone = load_backbone(tiny.write_backbone(folder, unet=inputs.UNET))
  config = inputs.make_config(
    {},
    teacher=request.param,
    num_steps=NUM_STEPS,
    batch_size=8,
    learning_rate=1e-2,
  )
  mesh = make_mesh(
    {"expert": 1, "data": 1, "fsdp": 1}, devices=jax.devices()[:1]
  )
  found = teacher.find(request.param)
  apply, trainable, frozen = teacher.declare(found, backbone, config)
  tx = tuning.make_optimizer(config.finetune)
  step = tuning.make_step(found, apply, backbone, tx, mesh, config.finetune)
  start = tuning.make_start(trainable, tx, mesh, num_steps=NUM_STEPS)
  arrays = wave_data(inputs.make_clusters(1), backbone, num_pictures=4, seed=0)
  data = jax.device_put(arrays, batch_sharding(mesh))
  state = start(1)
  for _ in range(NUM_STEPS):
    state = step(state, frozen, data)
  return Tuned(
    name=request.param,
    found=found,
    config=config,
    mesh=mesh,
    backbone=backbone,
    apply=apply,
    trainable=trainable,
    frozen=frozen,
    state=state,
  )


def test_a_file_defines_one_teacher_with_its_paper():
  names = sorted(p.stem for p in FOLDER.glob("[!_]*.py"))
  assert "dreambooth" in names
  for name in names:
    module = importlib.import_module(f"experts.teachers.{name}")
    assert isinstance(module.TEACHER, teacher.Teacher)
    assert module.TEACHER.paper.startswith("https://arxiv.org/abs/")


def test_an_unknown_teacher_is_named_with_a_remedy():
  with pytest.raises(ValueError) as caught:
    teacher.find("dreamboth")
  assert str(caught.value) == (
    "No teacher 'dreamboth' (config.finetune.teacher). experts/teachers has "
    "dreambooth, lora. Did you mean 'dreambooth'?"
  )


def test_declaring_leaves_the_base_as_it_was(tuned):
  spec, _ = functional(tuned.backbone.unet)
  ours, _ = functional(
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
  text_BLD, text_mask_BL = backbone.encode_text(["a dog", ""])
  return x_BHWC, jnp.array([3, 900]), text_BLD, text_mask_BL


def test_before_the_first_step_it_is_the_base(tuned):
  x_BHWC, t_B, text_BLD, text_mask_BL = inputs_of(tuned.backbone)
  _, base = functional(tuned.backbone.unet)
  np.testing.assert_array_equal(
    tuned.apply(
      tuned.frozen | tuned.trainable,
      x_BHWC, t_B, text_BLD, text_mask_BL=text_mask_BL,
    ),
    base(
      tuned.backbone.params,
      x_BHWC, t_B, text_BLD, text_mask_BL=text_mask_BL,
    ),
  )  # fmt: skip


def test_only_what_is_trainable_moves_and_all_of_it(tuned):
  assert set(tuned.state["params"]) == set(tuned.trainable)
  still = [
    name
    for name, x in tuned.state["params"].items()
    if (np.asarray(x[0]) == np.asarray(tuned.trainable[name])).all()
  ]
  assert not still


def test_its_loss_falls(tuned):
  arrays = wave_data(
    inputs.make_clusters(1), tuned.backbone, num_pictures=4, seed=0
  )
  rows_B = np.arange(48) % arrays["num"][0]
  batch = {
    "x_BHWC": arrays["x_KHWC"][0][rows_B],
    "text_BLD": arrays["text_KLD"][0][rows_B],
    "text_mask_BL": arrays["text_mask_KL"][0][rows_B],
  }

  @jax.jit
  def loss_of(params):
    return tuned.found.fit(
      tuned.apply,
      tuned.backbone,
      tuned.frozen | params,
      batch,
      jax.random.key(7),
      tuned.config.finetune,
    )

  # The same pictures, steps and noise, before and after.
  after = loss_of({k: x[0] for k, x in tuned.state["params"].items()})
  assert float(after) < 0.99 * float(loss_of(tuned.trainable))
  assert np.isfinite(np.asarray(tuned.state["loss_ET"])).all()
  assert int(tuned.state["failed_E"][0]) == -1


def test_it_is_written_read_back_and_drawn(tuned, tmp_path):
  cluster = inputs.make_clusters(1)[0]
  (wave,) = make_waves([cluster.key], experts_per_wave=1, num_devices=1)
  record = describe(wave, tuned.state, teacher=tuned.name, damaged={})
  write_wave(tmp_path, wave, record, params=tuned.state["params"])
  file = tmp_path / f"{wave.name}.safetensors"
  params = load_wave(file, tuned.trainable, size=1)
  for name, x in params.items():
    np.testing.assert_array_equal(x, tuned.state["params"][name])

  prompts = [
    Prompt(cluster=cluster.key, prompt=text, skill="attribute")
    for text in inputs.PROMPTS
  ]
  asked = list(sample.rows_of(prompts, num=1).values())
  request = sample.make_request(
    asked, tuned.backbone, places=range(3), num_experts=1
  )
  draw = sample.make_draw(
    tuned.found, tuned.apply, tuned.backbone, tuned.config, tuned.mesh
  )
  null_1LD, null_mask_1L = tuned.backbone.encode_text([""])
  null = {"null_LD": null_1LD[0], "null_mask_L": null_mask_1L[0]}
  images = np.asarray(draw(tuned.frozen, null, {}, params, request))
  assert images.shape == (1, 3, tiny.SIZE_PX, tiny.SIZE_PX, 3)
  assert np.isfinite(images).all()
  base = {name: np.asarray(x)[None] for name, x in tuned.trainable.items()}
  of_base = np.asarray(draw(tuned.frozen, null, {}, base, request))
  assert np.abs(images - of_base).max() > 1e-3
