# SPDX-License-Identifier: Apache-2.0
"""The dictionary of patches against its definition, patch by patch."""

import jax
import jax.numpy as jnp
import numpy as np

from suti.models.patch_dictionary import declare_patch_dictionary
from suti.nn.param import functional, init

CONFIG = {
  "image_size": 16,
  "patch_size": 4,
  "strides": [2, 1],
  "num_words": 3,
  "grid": 2,
  "threshold": 0.1,
}


def by_definition(image, params, number, *, stride):
  """Means over a 2 x 2 grid of what exceeds the threshold, two-sided."""
  weight = np.asarray(params[f"scales.{number}.weight"]).reshape(-1, 3)
  bias = np.asarray(params[f"scales.{number}.bias"])
  rows = []
  for top in range(0, len(image) - 3, stride):
    row = []
    for left in range(0, len(image) - 3, stride):
      patch = image[top : top + 4, left : left + 4].reshape(-1)
      patch = patch - patch.mean()
      patch = patch / np.sqrt(patch.var() + 6e-4)
      out = patch @ weight + bias
      row.append(np.maximum(np.concatenate([out, -out]) - 0.1, 0))
    rows.append(row)
  out = np.array(rows)
  size = len(out)
  cut = round(size / 2)
  cells = [slice(0, cut), slice(cut, size)]
  return np.concatenate([out[y, x].mean((0, 1)) for y in cells for x in cells])


def test_features_are_those_of_the_definition():
  spec, apply = functional(declare_patch_dictionary(CONFIG))
  params = init(spec, jax.random.key(0))
  params = {n: p * 20 if n.endswith("weight") else p for n, p in params.items()}
  params["scales.0.bias"] = jnp.asarray([0.2, -0.3, 0.0])
  params["mean"] = params["mean"] + 0.25
  params["scale"] = params["scale"] * 2
  image = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3))
  image = image.astype(np.float32)
  half = image.reshape(8, 2, 8, 2, 3).mean((1, 3))
  expected = np.sqrt(
    np.concatenate(
      [
        by_definition(image, params, 0, stride=2),
        by_definition(half, params, 1, stride=1),
      ]
    )
  )
  (found,) = apply(params, jnp.asarray(image)[None])
  np.testing.assert_allclose(found, 2 * (expected - 0.25), atol=2e-4)


def test_a_flat_picture_has_the_response_of_the_bias_alone():
  spec, apply = functional(declare_patch_dictionary(CONFIG))
  params = init(spec, jax.random.key(0))
  x = apply(params, jnp.full((1, 16, 16, 3), 0.7))
  np.testing.assert_allclose(x, 0.0, atol=1e-3)
