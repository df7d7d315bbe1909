# SPDX-License-Identifier: Apache-2.0
"""Numbers drawn from names, the same wherever they are drawn.

Weights of the tiny models are not stored: the publishers' code and ours draw
them from their published names.
"""

import math
import zlib

import numpy as np


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Draws a published tensor (or any other array) from its name, float32."""
  normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal
  array = np.asarray(normal(shape), np.float32)
  if len(shape) > 1:
    return array / np.float32(math.sqrt(math.prod(shape[1:])))
  if "norm" in name and name.endswith("weight"):
    return 1 + array / 4
  return np.asarray(array / 4)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Draws all tensors of a published file."""
  return {name: draw(name, tuple(shape)) for name, shape in shapes.items()}


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Draws inputs from a name: standard normal, float32."""
  rng = np.random.RandomState(zlib.crc32(name.encode()))
  return rng.standard_normal(shape).astype(np.float32)


def probe(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Replaces every gradient by its product with a drawn direction."""
  kept = {k: v for k, v in outputs.items() if not k.startswith("gradient.")}
  names = sorted(k for k in outputs if k.startswith("gradient."))
  if names:
    kept["gradients"] = np.array(
      [np.vdot(outputs[k], draw(k, outputs[k].shape)) for k in names],
      np.float32,
    )
  return kept
