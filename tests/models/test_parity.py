# SPDX-License-Identifier: Apache-2.0
"""Our models against the publishers' own code, run here with new weights."""

import numpy as np
import pytest

from tests.goldens import cases
from tests.models import ours

pytestmark = [
  pytest.mark.parity,
  # Not our code: what torch and its friends warn about when imported.
  pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def make():
  for name in ("torch", "diffusers", "transformers"):
    pytest.importorskip(name, reason=f"{name} is not installed: [parity]")
  from tests.goldens import make

  return make


@pytest.mark.parametrize("case", cases.CASES)
def test_outputs_and_all_gradients(case, make, tmp_path, record_property):
  import torch

  torch.manual_seed(0)
  family, config, _ = cases.CASES[case]
  model = make.build(family, config)
  tensors = {
    name: value.detach().numpy()
    for name, value in make.published(model, family).items()
  }
  expected = make.run(model, case)
  found = ours.run(case, tensors, tmp_path)
  assert found.keys() == expected.keys()
  record_property(
    "largest_error",
    max(float(np.abs(found[k] - expected[k]).max()) for k in expected),
  )
  for name, value in expected.items():
    np.testing.assert_allclose(
      found[name], value, rtol=1e-4, atol=1e-4, err_msg=name
    )
