# SPDX-License-Identifier: Apache-2.0
"""Waves of experts without the stage around them."""

import re

import jax
import numpy as np

from experts import teacher
from experts.farm import train_step
from experts.farm.waves import wave_data
from suti.parallel.mesh import batch_sharding, flat_mesh
from tests.experts import inputs

NUM_STEPS = 4
COLLECTIVE = re.compile(
  r"all-gather|all-reduce|all-to-all|collective-|reduce-scatter"
)


class Loop:
  """The step of some experts on some devices."""

  def __init__(self, backbone, *, num_devices=8, **kw):
    self.config = inputs.make_config({}, num_steps=NUM_STEPS, **kw)
    tune = self.config.finetune
    self.mesh = flat_mesh(jax.devices()[:num_devices])
    self.backbone = backbone
    self.teacher = teacher.find(tune.teacher)
    self.apply, self.trainable, self.frozen = teacher.declare(
      self.teacher, self.backbone, self.config
    )
    tx = train_step.make_optimizer(tune)
    kind = {"num_steps": NUM_STEPS, "dtype": tune.master_dtype}
    self.start = train_step.make_start(self.trainable, tx, self.mesh, **kind)
    self.describe = lambda num: train_step.describe_start(
      self.trainable, tx, self.mesh, num_experts=num, **kind
    )
    self.step = train_step.make_step(
      self.teacher, self.apply, self.backbone, tx, self.mesh, tune
    )

  def data(self, clusters):
    arrays = wave_data(clusters, self.backbone, num_pictures=10, seed=0)
    return jax.device_put(arrays, batch_sharding(self.mesh))

  def run(self, clusters, *, change=lambda data: data):
    data = change(self.data(clusters))
    state = self.start(len(clusters))
    for _ in range(NUM_STEPS):
      state = self.step(state, self.frozen, data)
    return jax.tree.map(np.asarray, state)

  def program(self, clusters):
    """The text of the compiled step, compiled here if it was not yet."""
    if self.step.compiled is None:
      self.run(clusters)
    return self.step.compiled.as_text()


def assert_same_expert(a, i, b, j):
  for name, x in a["params"].items():
    np.testing.assert_allclose(
      x[i], b["params"][name][j], rtol=0, atol=1e-6, err_msg=name
    )
  np.testing.assert_allclose(a["loss_ET"][i], b["loss_ET"][j], rtol=1e-5)
