# SPDX-License-Identifier: Apache-2.0
"""One tiny workdir with experts, and programs, made once for several tests.

Nearly all the time of these tests is the compiler's: the U-Net is the smallest,
and runs that would compile the same program share it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experts import finetune, teacher
from experts.farm import sampling, train_step
from suti.pipeline.backbone import Backbone, load_backbone
from tests import tiny
from tests.experts import inputs
from tests.experts.farm.loops import Loop

# Fields that no program depends on.
NO_PROGRAM = (
  "images_per_prompt",
  "checkpoint_every",
  "sample_after_tuning",
  "experts_per_device",
  "experts_per_wave",
  "keep",
  "log_every",
  "profile_steps",
)


@pytest.fixture(scope="session")
def models(tiny_clip, tiny_identity, tmp_path_factory):
  folder = tmp_path_factory.mktemp("smallest")
  return {
    "backbone": tiny.write_backbone(folder, unet=tiny.SMALLEST_UNET),
    "clip": tiny_clip,
    "identity": tiny_identity,
  }


@pytest.fixture(scope="session")
def clusters():
  return inputs.make_clusters(20)


@pytest.fixture(scope="session", autouse=True)
def compiled_once():
  with pytest.MonkeyPatch.context() as patch:
    for module, name in ((train_step, "make_step"), (sampling, "make_sample")):
      patch.setattr(module, name, _remember(getattr(module, name)))
    # So is opening a backbone: its text encoder is a program too.
    once = functools.lru_cache(load_backbone)
    patch.setattr(teacher, "load_backbone", once)
    yield


def _remember(make):
  made = {}

  @functools.wraps(make)
  def remembered(*args, **kw):
    *_, config = [x for x in args if isinstance(x, ConfigDict)]
    *_, mesh = [x for x in args if isinstance(x, Mesh)]
    (base,) = [x for x in args if isinstance(x, Backbone)]
    name = config.get("finetune", config).teacher
    if teacher.find(name) is not args[0]:
      return make(*args, **kw)  # one that a test made up
    # Of a whole config `make_sample` reads this section.
    program = dict(config.get("sample", config))
    for field in NO_PROGRAM:
      program.pop(field, None)
    key = f"{name} {base.name} {mesh} {program} {kw}"
    if key not in made:
      made[key] = Program(make(*args, **kw))
    return made[key]

  return remembered


class Program:
  """A jitted function that shows what it was compiled to, last."""

  def __init__(self, function):
    self.function, self.compiled, self._by_shapes = function, None, {}
    self.lower = function.lower

  def __call__(self, *args):
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args)):
      return self.function(*args)  # of a plan, which compiles nothing
    shapes = str(
      jax.tree.map(lambda x: (np.shape(x), jnp.result_type(x)), args)
    )
    if shapes not in self._by_shapes:
      self._by_shapes[shapes] = self.function.lower(*args).compile()
    self.compiled = self._by_shapes[shapes]
    return self.compiled(*args)


@pytest.fixture(scope="session")
def tuned(models, clusters, tmp_path_factory):
  """(workdir, config): waves of 16 and of 4 experts, the second filled up."""
  workdir = tmp_path_factory.mktemp("tuned")
  inputs.write_stages(workdir, clusters)
  config = inputs.make_config(models)
  finetune.run(config, workdir)
  return workdir, config


@pytest.fixture(scope="session")
def loops(models):
  """Two experts on each of eight devices, and an expert alone."""
  backbone = load_backbone(models["backbone"])
  return {
    "full": Loop(backbone),
    "alone": Loop(backbone, num_devices=1),
    "lora": Loop(backbone, teacher="lora", rank=3),
    "mapped": Loop(backbone, teacher="lora", rank=3, inner="map", remat=True),
    # In bfloat16, and stopped as soon as a loss is above the one before.
    "narrow": Loop(
      backbone,
      dtype="bfloat16",
      master_dtype="bfloat16",
      stop_window=1,
      stop_gain=0.0,
    ),
  }


@pytest.fixture(scope="session")
def filled(clusters):
  """Ten experts and six of padding."""
  return [*clusters[:10], *clusters[9:10] * 6]


@pytest.fixture(scope="session")
def wave(loops, filled):
  return loops["full"].run(filled)
