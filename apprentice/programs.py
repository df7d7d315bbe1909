# SPDX-License-Identifier: Apache-2.0
"""Abstract programs of stages 6 and 7, for `suti plan`.

The functions that a stage compiles are given shapes instead of arrays.
Nothing is computed, and neither weights nor data are needed.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from apprentice.encoders import open_encoders
from apprentice.fields import make_fields
from apprentice.generate import make_batch, make_sample_fn, weights
from apprentice.latents import caches_latents
from apprentice.model import declare
from apprentice.optimizer import learning_rate, optimizer
from apprentice.systems import MODELS
from apprentice.train_step import make_step
from suti.nn.optimizer import start_state
from suti.nn.param import shapes, split
from suti.parallel.mesh import (
  batch_sharding,
  described,
  many,
  num_hosts,
  replicated,
)
from suti.parallel.rules import param_shardings, state_shardings
from suti.pipeline.backbone import Backbone
from suti.plan.preflight import Program

# B batch, K demonstrations, H W C image or latent.


def train(
  config: Any, backbone: Backbone, mesh: Mesh, *, per_device: int
) -> Program:
  """A step of training.

  Args:
    config: the whole config.
    backbone: described, without arrays.
    mesh: of the slice's devices.
    per_device: examples of a batch on each device.
  """
  section, num = config.train, per_device * mesh.size
  apprentice = declare(backbone, name=section.method, config=config.method)
  shardings = param_shardings(apprentice.spec, mesh)
  params = {
    name: described(x, shardings[name])
    for name, x in shapes(apprentice.spec).items()
  }
  params, frozen = split(params, apprentice.trainable)
  tx = optimizer(section, learning_rate(section))
  state = jax.eval_shape(
    lambda params: start_state(params, tx, seed=config.seed), params
  )
  placed = state_shardings(state, shardings, mesh)
  return Program(
    function=make_step(
      apprentice,
      tx,
      section,
      null_text=backbone.null_text(),
      placed=placed,
      mesh=mesh,
    ),
    arguments=(
      jax.tree.map(described, state, placed),
      frozen,
      described(backbone.codec.params, replicated(mesh)),
      described(
        many(_example(apprentice, section, mesh), num), batch_sharding(mesh)
      ),
    ),
    num_parameters=sum(p.size for p in apprentice.spec.values()),
    batch_size=num,
    calls=section.num_steps,
  )


def _example(apprentice, section, mesh):
  """An example as `apprentice.data` yields it."""
  backbone = apprentice.backbone
  picture = np.zeros((backbone.size_px, backbone.size_px, 3), np.uint8)
  hosts = num_hosts(mesh.devices.flat)
  if caches_latents(section, backbone, num_processes=hosts):
    picture = np.zeros(backbone.latent_shape, np.float16)
  num, method = section.num_demonstrations, apprentice.method
  encoders = open_encoders(method, apprentice.config)
  if encoders:
    seen = {name: np.zeros(e.shape, np.float16) for name, e in encoders.items()}
    picture = {"latent": np.zeros(backbone.latent_shape, np.float16)} | seen
  side = (backbone.size_px, backbone.size_px)
  mask = np.zeros(side, bool)
  return make_fields(
    image=picture,
    prompt="a dog",
    demonstrations=[picture] * num,
    captions=["a dog"] * num,
    num_demonstrations=num,
    encode_text=backbone.encode_text,
    size_px=backbone.size_px,
    fields=method.fields(apprentice.config),
    encoders=encoders,
    planes={
      "mask": mask,
      "depth": np.zeros(side, np.float16),
      "demonstration_masks": [mask] * num,
    },
  )


def sample(
  config: Any, backbone: Backbone, mesh: Mesh, *, per_device: int
) -> Program:
  """Sampling the benchmark's images; the base has a program of its own.

  It is called for each system that has the apprentice's weights.

  Arguments are those of `train`, but the mesh is of one host's devices.
  """
  section, num = config.apprentice_sample, per_device * mesh.size
  apprentice = declare(backbone, name=config.train.method, config=config.method)
  picture = np.zeros((backbone.size_px, backbone.size_px, 3), np.uint8)
  shown = section.num_demonstrations
  # Features alone matter here, and no weights are read.
  seen = {
    name: np.zeros(each.shape, np.float16)
    for name, each in open_encoders(
      apprentice.method, apprentice.config
    ).items()
  }
  pictures: list[Any] = [{"latent": picture} | seen if seen else picture]
  row = ("a dog", pictures * shown, ["a dog"] * shown)
  mask = np.zeros(picture.shape[:2], bool)
  batch = make_batch(
    apprentice,
    [row],
    num_demonstrations=shown,
    inputs={
      "mask": mask,
      "depth": mask.astype(np.float16),
      "demonstration_masks": [mask] * shown,
    },
  )
  batch = jax.tree.map(lambda x: x[0], batch)
  whole, rows = replicated(mesh), batch_sharding(mesh)
  num_pictures = (
    config.benchmark.num_subjects
    * config.benchmark.num_prompts
    * section.images_per_prompt
    * sum(MODELS[name] == "apprentice" for name in section.systems)
  )
  return Program(
    function=jax.jit(make_sample_fn(apprentice, section)),
    arguments=(
      described(shapes(apprentice.spec), whole),
      described(backbone.codec.params, whole),
      described(many(batch, num), rows),
      described(backbone.null_text(), whole),
      described(many(np.uint32(0), num), rows),
      described(weights(section), whole),
    ),
    num_parameters=sum(p.size for p in apprentice.spec.values()),
    batch_size=num,
    calls=-(-num_pictures // num),
  )
