# SPDX-License-Identifier: Apache-2.0
"""DINOv2: Dinov2Model and Dinov2WithRegistersModel of transformers."""

import jax
import numpy as np

from suti.models import dinov2
from tests.goldens import drawing, theirs

_TINY = {
  "hidden_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "mlp_ratio": 4,
  "image_size": 28,
  "patch_size": 4,
}
_REGISTERS = {"model_type": "dinov2_with_registers", "num_register_tokens": 4}

declare = dinov2.declare_dinov2
RENAMES = dinov2.RENAMES

CASES = {
  "dinov2": (_TINY, (2, 28, 28, 3)),
  # A picture smaller than the table of positions, as published models see it.
  "dinov2_smaller": (_TINY | {"use_mask_token": False}, (2, 16, 16, 3)),
  "dinov2_swiglu": (
    _TINY | {"use_swiglu_ffn": True, "qkv_bias": False},
    (2, 21, 38, 3),
  ),
  "dinov2_registers": (_TINY | _REGISTERS, (2, 28, 28, 3)),
  "dinov2_registers_smaller": (
    _TINY | _REGISTERS | {"use_swiglu_ffn": True, "num_register_tokens": 2},
    (2, 16, 20, 3),
  ),
  "dinov2_registers_larger": (
    _TINY | _REGISTERS | {"hidden_act": "gelu_new"},
    (1, 48, 12, 3),
  ),
}
_PUBLISHED = {"image_size": 518, "patch_size": 14}
_SIZES = {
  "small": {"hidden_size": 384, "num_attention_heads": 6},
  "base": {},
  "large": {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
  },
  "giant": {
    "hidden_size": 1536,
    "num_hidden_layers": 40,
    "num_attention_heads": 24,
    "use_swiglu_ffn": True,
  },
}
PUBLISHED = {
  f"dinov2-{size}": _PUBLISHED | config for size, config in _SIZES.items()
} | {
  f"dinov2-with-registers-{size}": _PUBLISHED | _REGISTERS | config
  for size, config in _SIZES.items()
}


def inputs(case: str) -> dict[str, np.ndarray]:
  """Pictures `x`, NHWC."""
  _, shape = CASES[case]
  return {"x": drawing.normal(f"{case}.x", shape)}


# --- Ours --------------------------------------------------------------------


def call(_, apply):
  @jax.jit
  def run_all(params, x):
    embedding, patches = apply(params, x, method="encode")
    tokens = apply(params, x)
    return {"tokens": tokens, "embedding": embedding, "patches": patches}

  return run_all


# --- Theirs ------------------------------------------------------------------


def build(config: dict):
  """The publisher's model, whatever its weights."""
  import transformers

  if config.get("model_type") == "dinov2_with_registers":
    config = transformers.Dinov2WithRegistersConfig(**config)
    return transformers.Dinov2WithRegistersModel(config).eval()
  return transformers.Dinov2Model(transformers.Dinov2Config(**config)).eval()


published = theirs.saved
fill = theirs.reopened


def run(model, values: dict) -> dict[str, np.ndarray]:
  """Calls the publisher's model."""
  import torch

  with torch.no_grad():
    out = model(theirs.nchw(values["x"]))
  skipped = 1 + getattr(model.config, "num_register_tokens", 0)
  return {
    "tokens": out.last_hidden_state.numpy(),
    "embedding": out.pooler_output.numpy(),
    # As its classification head takes them.
    "patches": out.last_hidden_state[:, skipped:].contiguous().numpy(),
  }


def published_index(config: dict) -> dict:
  """Without arrays."""
  import torch

  with torch.device("meta"):
    return theirs.without_arrays(build(config))
