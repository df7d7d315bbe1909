# SPDX-License-Identifier: Apache-2.0
"""The compiled programs of stages 2 to 4, for shapes alone: `suti plan`.

They are made by the functions that make them when a stage runs, with
descriptions in the place of arrays. Nothing is computed here, and no weights
and no data need be there.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experts import tuning
from experts.sample import Row, make_draw, make_request
from experts.teacher import declare, find
from experts.waves import describe_wave
from suti.backbone import Backbone
from suti.evaluation.scores import IDENTITY, ROWS, image_encoder
from suti.nn.param import shapes
from suti.parallel.mesh import batch_sharding, replicated
from suti.parallel.preflight import Program
from suti.published import open_model
from suti.schema import Prompt

# E experts, B pictures of one expert drawn at once, H W C picture.


def finetune(
  config: Any, backbone: Backbone, mesh: Mesh, *, per_device: int
) -> Program:
  """A step of a wave of experts.

  Args:
    config: the whole config.
    backbone: described.
    mesh: of the slice's devices.
    per_device: how many experts each device tunes.
  """
  tune = config.finetune
  teacher = find(tune.teacher)
  apply, trainable, frozen = declare(teacher, backbone, config)
  tx = tuning.make_optimizer(tune)
  num = per_device * mesh.size

  def start(trainable):
    make = tuning.make_start(trainable, tx, mesh, num_steps=tune.num_steps)
    return make(num)

  state = jax.eval_shape(start, _shapes(trainable))
  step = state.pop("step")
  data = describe_wave(
    backbone, num_experts=num, num_pictures=config.mine.max_images
  )
  each, whole = batch_sharding(mesh), replicated(mesh)
  return Program(
    function=tuning.make_step(teacher, apply, backbone, tx, mesh, tune),
    arguments=(
      _placed(state, each) | {"step": _placed(step, whole)},
      _placed(_shapes(frozen), whole),
      _placed(data, each),
    ),
    num_parameters=_count(trainable) + _count(frozen),
    units=num,
    calls=tune.num_steps,
  )


def sample(
  config: Any, backbone: Backbone, mesh: Mesh, *, per_device: int
) -> Program:
  """The drawing of an expert's candidates, `config.sample.batch_size` at once.

  Arguments are those of `finetune`.
  """
  teacher = find(config.finetune.teacher)
  apply, trainable, frozen = declare(teacher, backbone, config)
  num, at_once = per_device * mesh.size, config.sample.batch_size
  prompt = Prompt(cluster="0", prompt="a dog", skill="recontextualization")
  request = make_request(
    [[Row(prompt=prompt, seed=0)]],
    backbone,
    places=range(at_once),
    num_experts=1,
  )
  each, whole = batch_sharding(mesh), replicated(mesh)
  return Program(
    function=make_draw(teacher, apply, backbone, config, mesh),
    arguments=(
      _placed(_shapes(frozen), whole),
      _placed(_shapes(backbone.null_text()), whole),
      _placed(_shapes(backbone.codec.params), whole),
      _placed(_many(_shapes(trainable), num), each),
      _placed(_many(jax.tree.map(lambda x: x[0], request), num), each),
    ),
    num_parameters=_count(trainable) + _count(frozen),
    units=num * at_once,
  )


def judge(folder: Path, mesh: Mesh) -> Program:
  """A judge's embedding of pictures, as `experts.filter` asks for it.

  Args:
    folder: of a CLIP, a DINO or a DINOv2; its config.json will do.
    mesh: of one device: the stage uses one.
  """
  model = open_model(folder, expected=("CLIPModel", *IDENTITY), weights=False)
  side = model.config.get("vision_config", model.config)["image_size"]
  pixels_BHWC = jax.ShapeDtypeStruct((ROWS, side, side, 3), jnp.float32)
  params = shapes(model.spec)
  return Program(
    function=image_encoder(model),
    arguments=_placed((params, pixels_BHWC), replicated(mesh)),
    num_parameters=_count(params),
    units=ROWS,
  )


def _shapes(tree: Any) -> Any:
  """Descriptions of arrays, or of what describes them already."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _many(tree: Any, num: int) -> Any:
  """The same with a leading dim of experts."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((num, *x.shape), x.dtype), tree
  )


def _placed(tree: Any, sharding: Any) -> Any:
  """The same with shardings."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def _count(params: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(params))
