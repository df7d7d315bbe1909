# SPDX-License-Identifier: Apache-2.0
"""Runs our models on the cases of `tests.goldens.families`, through files.

A family is one file there, with

  CASES        {case: (published config, shape of its input)}
  PUBLISHED    {real model: its config}, whose names and shapes are compared
  inputs       case -> {name: array}
  declare, RENAMES, call     ours: `call(spec, apply)` returns a function
               `(params, **inputs) -> {output: array}`
  build, published, fill, run     theirs: needs the extra `parity` when called
  published_index     theirs, if `published` needs arrays: {name: tensor}
"""

import pathlib
from collections.abc import Mapping
from types import ModuleType

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from suti.hf.layout import inverse, order, published_shape
from suti.hf.weights import load
from suti.nn.param import Param, Params, functional
from tests.goldens import drawing


def run(
  family: ModuleType,
  case: str,
  tensors: dict[str, np.ndarray],
  folder: pathlib.Path,
) -> dict[str, np.ndarray]:
  """Writes tensors to a file, loads it, and calls our model.

  Args:
    family: a module of `tests.goldens.families`.
    case: one of its `CASES`.
    tensors: published names and layouts.
    folder: for the file.

  Returns:
    The outputs under the names that the family's `run` gives them; gradients in
    the published layout.
  """
  config, _ = family.CASES[case]
  path = folder / "model.safetensors"
  safetensors.numpy.save_file(tensors, path)
  spec, apply = functional(family.declare(config))
  params = load(spec, path, renames=family.RENAMES)
  values = {k: jnp.asarray(v) for k, v in family.inputs(case).items()}
  outputs = family.call(spec, apply)(params, **values)
  return {name: np.asarray(value) for name, value in outputs.items()}


def published_layout(p: Param, value) -> np.ndarray:
  """Transposes an array of ours to how it is published."""
  return np.transpose(value, inverse(order(p)))


def drawn(spec: Mapping[str, Param]) -> Params:
  """A model's parameters, drawn from their published names."""
  return {
    name: jnp.asarray(
      np.transpose(drawing.draw(name, published_shape(p)), order(p))
    )
    for name, p in spec.items()
  }
