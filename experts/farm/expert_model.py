# SPDX-License-Identifier: Apache-2.0
"""`ExpertModel`: a teacher's net on this process's devices.

Experts of a wave differ in their trainable parameters alone. Tuning and
sampling open the rest once: the backbone with its frozen parts, the teacher's
declaration on it, the parameters that every expert starts from, and those that
all of them share.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experts.teacher import (
  Teacher,
  check_asked,
  check_together,
  declare,
  find,
  open_backbone,
)
from suti.parallel.mesh import described, flat_mesh, replicated
from suti.pipeline.backbone import Backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertModel:
  """One teacher's net, opened.

  Attributes:
    teacher: how an expert is tuned and sampled from.
    backbone: without the U-Net's arrays, which are in `trainable`, `frozen`.
    shapes: the backbone with the shapes of these arrays, for compilation.
    apply: of the teacher's net, see `suti.nn.param.functional`.
    trainable: what every expert starts from, on the host: a wave copies it.
    frozen: what all experts share, on every device.
    mesh: this process's devices, one axis.
  """

  teacher: Teacher
  backbone: Backbone
  shapes: Backbone
  apply: Callable[..., jax.Array]
  trainable: Mapping[str, np.ndarray]
  frozen: Mapping[str, jax.Array]
  mesh: Mesh

  @property
  def shared(self) -> Any:
    """Arrays that are on every device for all waves, to account for memory."""
    return self.frozen, self.backbone.codec.params


def open_expert_model(config) -> ExpertModel:
  """Opens a config's backbone and its teacher's net on it.

  Args:
    config: the whole config.

  Raises:
    ValueError: no such backbone or teacher, or pictures of another size.
  """
  mesh = flat_mesh()
  teacher = find(config.finetune.teacher)
  check_together(teacher, config)
  check_asked(teacher, config)
  backbone = open_backbone(config)
  apply, trainable, frozen = declare(teacher, backbone, config)
  return ExpertModel(
    teacher=teacher,
    backbone=dataclasses.replace(backbone, params={}),
    shapes=dataclasses.replace(backbone, params=described(backbone.params)),
    apply=apply,
    trainable=jax.device_get(trainable),
    frozen=jax.device_put(frozen, replicated(mesh)),
    mesh=mesh,
  )
