# SPDX-License-Identifier: Apache-2.0
"""A planned program takes what the stage gives the one that it runs."""

import jax
import numpy as np
import pytest

from apprentice import programs, train
from apprentice.generate import make_batch
from apprentice.model import declare
from suti.backbone import describe_backbone
from suti.parallel.mesh import make_mesh
from tests.apprentice import inputs
from tests.tiny import SIZE_PX


class AskedError(Exception):
  """Stands in for the first run of a program."""


def kinds(tree):
  return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


def test_a_step_of_training(tiny_backbone, tmp_path, monkeypatch):
  """Arrays and places: parameters spread over `fsdp` as in training."""
  inputs.write_pack(tmp_path)
  config = inputs.make_config(
    tiny_backbone, num_devices=2, num_steps=4
  ).unlock()
  config.mesh.fsdp = 4
  config.lock()

  def record(*arguments):
    raise AskedError(
      kinds(list(arguments)), jax.tree.map(lambda x: x.sharding, arguments[0])
    )

  monkeypatch.setattr(train, "make_step", lambda *_, **__: record)
  with pytest.raises(AskedError) as caught:
    train.run(config, tmp_path)
  taken, places = caught.value.args
  mesh = make_mesh(config.mesh)
  backbone = describe_backbone(config.backbone)
  program = programs.train(config, backbone, mesh, per_device=1)
  assert kinds(list(program.arguments)) == taken
  planned = jax.tree.map(lambda x: x.sharding, program.arguments[0])
  assert planned == places
  assert program.calls == 4


def test_a_drawing_of_the_benchmark(tiny_backbone):
  config = inputs.make_config(tiny_backbone, num_devices=8)
  backbone = describe_backbone(config.backbone)
  program = programs.sample(
    config, backbone, make_mesh(config.mesh), per_device=2
  )
  apprentice = declare(backbone, name=config.train.method, config=config.method)
  shown = config.apprentice_sample.num_demonstrations
  picture = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
  row = ("a dog", [picture] * shown, ["a dog"] * shown)
  batch = make_batch(apprentice, [row] * 16, num_demonstrations=shown)
  assert kinds(program.arguments[2]) == kinds(batch)
  assert program.at_once == 16
