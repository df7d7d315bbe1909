# SPDX-License-Identifier: Apache-2.0
"""A planned program takes what the stage gives the one that it runs."""

import types

import jax
import pytest

from apprentice import programs, sample, train
from suti.parallel.mesh import flat_mesh, make_mesh
from suti.pipeline.backbone import describe_backbone
from tests.apprentice import inputs
from tests.tiny import write_latent_backbone


class AskedError(Exception):
  """Stands in for the first run of a program."""


def kinds(tree):
  return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


def places(tree):
  return jax.tree.map(lambda x: x.sharding, tree)


def test_a_step_of_training(tiny_backbone, tmp_path, monkeypatch):
  """Arrays and shardings: parameters spread over `fsdp` as in training."""
  inputs.write_pack(tmp_path)
  config = inputs.make_config(
    tiny_backbone, num_devices=2, num_steps=4
  ).unlock()
  config.mesh.fsdp = 4
  config.lock()

  def record(*arguments):
    raise AskedError(kinds(list(arguments)), places(arguments[0]))

  monkeypatch.setattr(train, "make_step", lambda *_, **__: record)
  with pytest.raises(AskedError) as caught:
    train.run(config, tmp_path)
  taken, where = caught.value.args
  mesh = make_mesh(config.mesh)
  backbone = describe_backbone(config.backbone)
  program = programs.train(config, backbone, mesh, per_device=1)
  assert kinds(list(program.arguments)) == taken
  assert places(program.arguments[0]) == where
  assert program.calls == 4


def test_sampling_the_benchmark(tiny_backbone, tmp_path, monkeypatch):
  """Arrays and shardings."""
  config = inputs.make_config(tiny_backbone).unlock()
  config.apprentice_sample.update(batch_size=16, images_per_prompt=8)
  inputs.write_trained(tmp_path, config.lock())
  inputs.write_benchmark(tmp_path)

  def lower(*arguments):
    raise AskedError(kinds(list(arguments)), places(arguments))

  jitted = types.SimpleNamespace(lower=lower)
  monkeypatch.setattr(
    sample,
    "jax",
    types.SimpleNamespace(jit=lambda _: jitted, device_put=jax.device_put),
  )
  with pytest.raises(AskedError) as caught:
    sample.run(config, tmp_path)
  program = programs.sample(
    config, describe_backbone(config.backbone), flat_mesh(), per_device=2
  )
  taken, where = caught.value.args
  assert kinds(list(program.arguments)) == taken
  assert places(program.arguments) == where
  assert program.batch_size == 16
  # 2 subjects x 2 prompts x 8 images, for the apprentice and one control.
  assert program.calls == 2 * 2 * 8 * 2 / 16


@pytest.mark.parametrize(("num_hosts", "dtype"), [(1, "float16"), (2, "uint8")])
def test_latents_are_kept_by_one_host_alone(
  tmp_path, monkeypatch, num_hosts, dtype
):
  """As many processes cannot share what one of them writes."""
  config = inputs.make_config(write_latent_backbone(tmp_path / "base"))
  monkeypatch.setattr(programs, "num_hosts", lambda _: num_hosts)
  program = programs.train(
    config,
    describe_backbone(config.backbone),
    make_mesh(config.mesh),
    per_device=1,
  )
  assert program.arguments[3]["image"].dtype == dtype
