# SPDX-License-Identifier: Apache-2.0
"""The encoder of T5: T5EncoderModel of transformers."""

import jax
import numpy as np

from suti.models import t5
from tests.goldens import theirs

_TINY = {
  "model_type": "t5",
  "vocab_size": 40,
  "d_model": 16,
  "d_kv": 6,
  "d_ff": 24,
  "num_layers": 3,
  "num_heads": 4,
  "feed_forward_proj": "gated-gelu",
}

declare = t5.declare_t5
RENAMES = t5.RENAMES

CASES = {
  "t5": (_TINY, (2, 40)),
  # Version 1.0; distances beyond the last bucket.
  "t5_relu": (
    _TINY
    | {
      "feed_forward_proj": "relu",
      "relative_attention_num_buckets": 16,
      "relative_attention_max_distance": 12,
      "layer_norm_epsilon": 1e-4,
    },
    (2, 24),
  ),
}
_XL = {
  "model_type": "t5",
  "d_model": 2048,
  "d_ff": 5120,
  "num_layers": 24,
  "num_heads": 32,
  "feed_forward_proj": "gated-gelu",
}
PUBLISHED = {
  "t5-v1_1-small": {
    "model_type": "t5",
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
  },
  "t5-v1_1-xl": _XL,
  "t5-v1_1-xxl": _XL | {"d_model": 4096, "d_ff": 10240, "num_heads": 64},
  "t5-small": {"model_type": "t5"},
}


def inputs(case: str) -> dict[str, np.ndarray]:
  """Token `ids` and the `mask` of those that are no padding."""
  _, (batch, length) = CASES[case]
  ids = np.arange(batch * length, dtype=np.int32).reshape(batch, length) % 37
  mask = np.ones((batch, length), bool)
  mask[0, length // 3 :] = False
  return {"ids": ids, "mask": mask}


# --- Ours --------------------------------------------------------------------


def call(_, apply):
  @jax.jit
  def run_all(params, ids, mask):
    return {
      "states": apply(params, ids, mask),
      "unmasked": apply(params, ids),
    }

  return run_all


# --- Theirs ------------------------------------------------------------------


def build(config: dict):
  """The publisher's model, whatever its weights."""
  import transformers

  return transformers.T5EncoderModel(transformers.T5Config(**config)).eval()


def published(model) -> dict:
  """Its tensors but for the second name of one of them."""
  tensors = dict(model.state_dict())
  del tensors["encoder.embed_tokens.weight"]
  return tensors


def fill(model, values: dict[str, np.ndarray]):
  """The model with these tensors of the published file."""
  tensors = theirs.tensors(values)
  tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
  model.load_state_dict(tensors)
  return model


def run(model, values: dict) -> dict[str, np.ndarray]:
  """Calls the publisher's model."""
  import torch

  ids = values["ids"].long()
  with torch.no_grad():
    masked = model(ids, attention_mask=values["mask"].long())
    return {
      "states": masked.last_hidden_state.numpy(),
      "unmasked": model(ids).last_hidden_state.numpy(),
    }
