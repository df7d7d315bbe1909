# SPDX-License-Identifier: Apache-2.0
"""Abstract programs of stages 2 to 4, to plan memory and cost.

The functions that a stage compiles are given shapes instead of arrays.
Nothing is computed, and neither weights nor data are needed:
`experts.farm.capacity` checks whether they fit, `suti plan` what they cost.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experts.farm import sampling, train_step, wave_files
from experts.farm.requests import nothing_asked
from experts.farm.waves import describe_wave, padded_pictures
from experts.teacher import Teacher, declare, find
from suti.evaluation.scores import IDENTITY, ROWS, image_encoder
from suti.hf.model import open_model
from suti.nn.param import cast, shapes
from suti.parallel.mesh import batch_sharding, described, many, replicated
from suti.pipeline.backbone import Backbone
from suti.plan.preflight import Program
from suti.schema import Prompt

# E experts, B images of one expert in a batch, H W C image.


def finetune(
  config: Any, backbone: Backbone, mesh: Mesh, *, per_device: int
) -> Program:
  """A step of a wave of experts.

  Args:
    config: the whole config, with nothing left "auto".
    backbone: described; arrays will do as well.
    mesh: of a host's devices.
    per_device: how many experts each device tunes.
  """
  tune = config.finetune
  teacher = find(tune.teacher)
  apply, trainable, frozen = _declare(teacher, backbone, config)
  tx = train_step.make_optimizer(tune)
  num = per_device * mesh.size

  state = train_step.describe_start(
    trainable,
    tx,
    mesh,
    num_experts=num,
    num_steps=tune.num_steps,
    dtype=tune.master_dtype,
  )
  data = describe_wave(
    backbone,
    num_experts=num,
    num_pictures=padded_pictures(config),
    asks=teacher.asked(config),
  )
  return Program(
    function=train_step.make_step(teacher, apply, backbone, tx, mesh, tune),
    arguments=(
      state,
      described(frozen, replicated(mesh)),
      described(data, batch_sharding(mesh)),
    ),
    num_parameters=_count(trainable) + _count(frozen),
    batch_size=num,
    subjects=num,
    calls=tune.num_steps,
  )


def sample(
  config: Any, backbone: Backbone, mesh: Mesh, *, per_device: int
) -> Program:
  """Sampling of an expert's candidates, `config.sample.batch_size` in a batch.

  Arguments are those of `finetune`.
  """
  teacher = find(config.finetune.teacher)
  apply, trainable, frozen = _declare(teacher, backbone, config)
  num, batch_size = per_device * mesh.size, config.sample.batch_size
  prompt = Prompt(cluster="0", prompt="a dog", skill="recontextualization")
  row = sampling.Row(
    prompt=prompt, text=prompt.prompt, seed=0, group=None, number=0
  )
  request = sampling.make_request(
    [[row]],
    backbone,
    slots=range(batch_size),
    num_experts=1,
    asked=nothing_asked(teacher, backbone, config),
  )
  request = jax.tree.map(lambda x: x[0], request)
  num_images = config.prompts.num_per_cluster * config.sample.images_per_prompt
  each, whole = batch_sharding(mesh), replicated(mesh)
  return Program(
    function=sampling.make_sample(
      teacher, apply, backbone, config, mesh, inner=config.finetune.inner
    ),
    arguments=(
      described(frozen, whole),
      described(backbone.null_text(), whole),
      described(backbone.codec.params, whole),
      described(many(trainable, num), each),
      described(many(request, num), each),
    ),
    num_parameters=_count(trainable) + _count(frozen),
    batch_size=num * batch_size,
    subjects=num,
    calls=-(-num_images // batch_size),
  )


def keep(
  config: Any, backbone: Backbone, mesh: Mesh, *, per_device: int
) -> Program:
  """The conversion of `config.finetune.keep="difference"`, once a wave.

  Arguments are those of `finetune`.
  """
  tune = config.finetune
  _, trainable, frozen = _declare(find(tune.teacher), backbone, config)
  num, base = per_device * mesh.size, described(trainable, replicated(mesh))
  experts = many(cast(trainable, tune.master_dtype), num)
  return Program(
    function=wave_files.difference,
    arguments=(described(experts, batch_sharding(mesh)), base),
    num_parameters=_count(trainable) + _count(frozen),
    batch_size=num,
    subjects=num,
  )


def judge(config: Any, folder: Path, mesh: Mesh) -> Program:
  """The image embedding of a scorer, as `experts.filter` calls it.

  Args:
    config: the whole config.
    folder: of a CLIP, a DINO or a DINOv2; its config.json is enough.
    mesh: of one device, as the stage uses only one.
  """
  model = open_model(folder, expected=("CLIPModel", *IDENTITY), weights=False)
  side = model.config.get("vision_config", model.config)["image_size"]
  pixels_BHWC = jax.ShapeDtypeStruct((ROWS, side, side, 3), jnp.float32)
  params = shapes(model.spec)
  # A subject's candidates, and as many demonstrations as it may have.
  pictures = config.mine.max_images + (
    config.prompts.num_per_cluster * config.sample.images_per_prompt
  )
  return Program(
    function=image_encoder(model),
    arguments=described((params, pixels_BHWC), replicated(mesh)),
    num_parameters=_count(params),
    batch_size=ROWS,
    subjects=ROWS / pictures,
  )


def _declare(
  teacher: Teacher, backbone: Backbone, config: Any
) -> tuple[Any, Any, Any]:
  """The teacher's net, as shapes: nothing is initialised or converted."""
  made: dict[str, Any] = {}

  def parts(params: Any) -> Any:
    opened = dataclasses.replace(backbone, params=params)
    made["apply"], *arrays = declare(teacher, opened, config, read=False)
    return arrays

  trainable, frozen = jax.eval_shape(parts, backbone.params)
  return made["apply"], trainable, frozen


def _count(params: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(params))
