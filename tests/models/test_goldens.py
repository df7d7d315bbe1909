# SPDX-License-Identifier: Apache-2.0
"""Our models against stored outputs of the publishers' own code."""

import gzip
import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from suti.nn.param import functional
from tests.goldens import cases
from tests.models import ours


@pytest.fixture
def goldens(root):
  return root / "tests" / "goldens"


@pytest.mark.parametrize("case", cases.CASES)
def test_outputs_and_gradients_are_the_publishers(case, goldens, tmp_path):
  path = goldens / f"{case}.safetensors"
  with safetensors.safe_open(path, framework="np") as file:
    shapes = json.loads(file.metadata()["shapes"])
  expected = safetensors.numpy.load_file(path)
  found = cases.probe(ours.run(case, cases.weights(shapes), tmp_path))
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(
      found[name], value, rtol=1e-4, atol=1e-4, err_msg=name
    )


@pytest.mark.parametrize("model", cases.PUBLISHED)
def test_names_and_shapes_of_real_models(model, goldens):
  index = json.loads(gzip.decompress((goldens / "index.json.gz").read_bytes()))
  family, config = cases.PUBLISHED[model]
  spec, _ = functional(ours.DECLARE[family](config))
  found = {
    name: list(ours.published_layout(p, np.empty(p.shape, np.bool_)).shape)
    for name, p in spec.items()
  }
  assert found == index[model]
