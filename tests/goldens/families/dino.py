# SPDX-License-Identifier: Apache-2.0
"""DINO: ViTModel of transformers, as facebook/dino-vits16 is published."""

import jax
import numpy as np

from suti.models import dino
from tests.goldens import drawing, theirs
from tests.goldens.families.clip import VISION

_VIT = VISION | {"hidden_act": "gelu", "layer_norm_eps": 1e-12}

declare = dino.declare_dino
RENAMES = dino.RENAMES

CASES = {
  "dino": (_VIT, (2, 16, 16, 3)),
  "dino_larger": (_VIT | {"qkv_bias": False}, (2, 24, 36, 3)),
}
_SMALL = {
  "hidden_size": 384,
  "intermediate_size": 1536,
  "num_attention_heads": 6,
}
PUBLISHED = {
  "dino-vits16": _SMALL,
  "dino-vits8": _SMALL | {"patch_size": 8},
  "dino-vitb16": {},
  "dino-vitb8": {"patch_size": 8},
}


def inputs(case: str) -> dict[str, np.ndarray]:
  """Pictures `x`, NHWC."""
  _, shape = CASES[case]
  return {"x": drawing.normal(f"{case}.x", shape)}


# --- Ours --------------------------------------------------------------------


def call(_, apply):
  return jax.jit(lambda params, x: {"states": apply(params, x)})


# --- Theirs ------------------------------------------------------------------


def build(config: dict):
  """The publisher's model, whatever its weights."""
  import transformers

  config = transformers.ViTConfig(**config)
  return transformers.ViTModel(config, add_pooling_layer=False).eval()


published = theirs.saved


def fill(model, values: dict[str, np.ndarray]):
  """The model with these tensors of the published file."""
  return theirs.reopened(model, values, add_pooling_layer=False)


def run(model, values: dict) -> dict[str, np.ndarray]:
  """Calls the publisher's model."""
  import torch

  with torch.no_grad():
    out = model(theirs.nchw(values["x"]), interpolate_pos_encoding=True)
  return {"states": out.last_hidden_state.numpy()}


def published_index(config: dict) -> dict:
  """Without arrays."""
  import torch

  with torch.device("meta"):
    return theirs.without_arrays(build(config))
