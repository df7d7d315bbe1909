# SPDX-License-Identifier: Apache-2.0
"""Our models against the publishers' own code, run here with new weights."""

import numpy as np
import pytest

from tests.goldens import ours, theirs
from tests.goldens.families import CASES

pytestmark = [
  pytest.mark.parity,
  # Not our code: what torch and its friends warn about when imported.
  pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module", autouse=True)
def _publishers():
  for name in ("torch", "diffusers", "transformers"):
    pytest.importorskip(name, reason=f"{name} is not installed: [parity]")


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_all_gradients(case, tmp_path, record_property):
  import torch

  torch.manual_seed(0)
  family = CASES[case]
  model = family.build(family.CASES[case][0])
  tensors = {
    name: value.detach().numpy()
    for name, value in family.published(model).items()
  }
  expected = family.run(model, theirs.tensors(family.inputs(case)))
  found = ours.run(family, case, tensors, tmp_path)
  assert found.keys() == expected.keys()
  record_property(
    "largest_error",
    max(float(np.abs(found[k] - expected[k]).max()) for k in expected),
  )
  for name, value in expected.items():
    np.testing.assert_allclose(
      found[name], value, rtol=1e-4, atol=1e-4, err_msg=name
    )
