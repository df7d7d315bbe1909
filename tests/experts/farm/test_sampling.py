# SPDX-License-Identifier: Apache-2.0
"""Sampling a wave: which images, and by which program."""

import jax
import numpy as np

from experts import teacher
from experts.farm import programs, sampling
from experts.prompts import read_prompts
from suti.parallel.mesh import flat_mesh
from suti.pipeline import codec
from suti.pipeline.backbone import load_backbone
from tests import tiny
from tests.experts import inputs
from tests.experts.farm.loops import COLLECTIVE


def test_seeds_are_of_cluster_prompt_and_number(clusters, tmp_path):
  inputs.write_stages(tmp_path, clusters)
  prompts = read_prompts(tmp_path)
  two = sampling.rows_of(prompts, num=2, seed=0)
  three = sampling.rows_of(prompts[::-1], num=3, seed=0)
  for key, rows in two.items():
    assert {r.seed for r in rows} <= {r.seed for r in three[key]}
  seeds = [r.seed for rows in two.values() for r in rows]
  assert len(set(seeds)) == len(seeds)
  other = sampling.rows_of(prompts, num=2, seed=1)
  assert not {r.seed for rows in other.values() for r in rows} & set(seeds)


def test_pictures_are_decoded_in_parts_and_devices_say_nothing(
  tmp_path, monkeypatch
):
  """Two experts a device sample two each: one by one, or all four together."""
  folder = tiny.write_latent_backbone(tmp_path, unet=tiny.ONE_LEVEL_UNET)
  config = inputs.make_config({"backbone": folder}, teacher="lora", rank=2)
  with config.unlocked():
    config.sample.update(batch_size=2)
  backbone = load_backbone(folder)
  mesh = flat_mesh()
  _, trainable, frozen = teacher.declare(teacher.find("lora"), backbone, config)
  rng = np.random.default_rng(0)
  params = {
    name: 0.1 * rng.normal(size=(16, *x.shape)).astype(np.float32)
    for name, x in trainable.items()
  }
  # One that is made anew, where other tests share theirs.
  monkeypatch.setattr(sampling, "make_sample", sampling.make_sample.__wrapped__)
  program = programs.sample(config, backbone, mesh, per_device=2)
  request = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), program.arguments[-1]
  )
  request["seeds_B"] += np.arange(32, dtype=np.uint32).reshape(16, 2)

  def draw():
    made = programs.sample(config, backbone, mesh, per_device=2)
    compiled = made.function.lower(*made.arguments).compile()
    null, vae = backbone.null_text(), backbone.codec.params
    images = compiled(frozen, null, vae, params, request)
    return compiled.as_text(), np.asarray(images)

  text, whole = draw()
  monkeypatch.setattr(codec, "_PIXELS_PER_CALL", 1)
  text_of_parts, parts = draw()
  assert text_of_parts.count(" while(") == text.count(" while(") + 1
  np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)
  assert len({image.tobytes() for image in whole.reshape(32, -1)}) == 32
  assert "num_partitions=8" in text
  assert not COLLECTIVE.findall(text + text_of_parts)
