# SPDX-License-Identifier: Apache-2.0
"""Our models against stored outputs of the publishers' own code."""

import functools
import gzip
import json
import pathlib

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from suti.hf.layout import published_shape
from suti.nn.param import functional
from tests.goldens import drawing, ours
from tests.goldens.families import CASES, PUBLISHED

GOLDENS = pathlib.Path(ours.__file__).parent


@functools.cache
def index(family: str) -> dict:
  path = GOLDENS / "index" / f"{family}.json.gz"
  return json.loads(gzip.decompress(path.read_bytes()))


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_the_publishers(case, tmp_path):
  path = GOLDENS / f"{case}.safetensors"
  with safetensors.safe_open(path, framework="np") as file:
    shapes = json.loads(file.metadata()["shapes"])
  expected = safetensors.numpy.load_file(path)
  weights = drawing.weights(shapes)
  found = drawing.probe(ours.run(CASES[case], case, weights, tmp_path))
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(
      found[name], value, rtol=1e-4, atol=1e-4, err_msg=name
    )


@pytest.mark.parametrize("model", PUBLISHED)
def test_names_and_shapes_of_real_models(model):
  family = PUBLISHED[model]
  spec, _ = functional(family.declare(family.PUBLISHED[model]))
  found = {name: list(published_shape(p)) for name, p in spec.items()}
  assert found == index(family.__name__.rpartition(".")[2])[model]
