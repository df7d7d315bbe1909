# SPDX-License-Identifier: Apache-2.0
"""A lone text encoder: CLIPTextModel of transformers, or with a projection."""

from functools import partial

import jax
import numpy as np

from suti.models import clip
from tests.goldens import theirs
from tests.goldens.families.clip import TEXT, token_ids

_TEXT = TEXT | {"hidden_act": "gelu"}
_PROJECTED = {"architectures": ["CLIPTextModelWithProjection"]}

declare = clip.declare_clip_text
RENAMES = clip.TEXT_RENAMES

CASES = {
  "clip_text": (_TEXT, (2, 7)),
  "clip_text_projected": (
    _TEXT | _PROJECTED | {"eos_token_id": 2, "projection_dim": 12},
    (2, 9),
  ),
}
_LARGE = {
  "hidden_size": 768,
  "intermediate_size": 3072,
  "num_attention_heads": 12,
  "eos_token_id": 2,
}
PUBLISHED = {
  "stable-diffusion-v1-5/text_encoder": _LARGE,
  "stable-diffusion-2-1/text_encoder": {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "eos_token_id": 2,
  },
  "stable-diffusion-xl-base-1.0/text_encoder": _LARGE,
  "stable-diffusion-xl-base-1.0/text_encoder_2": _PROJECTED
  | {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "eos_token_id": 2,
  },
}


def inputs(case: str) -> dict[str, np.ndarray]:
  """Token `ids`."""
  _, shape = CASES[case]
  return {"ids": token_ids(shape[1])}


# --- Ours --------------------------------------------------------------------


def call(spec, apply):
  @jax.jit
  def run_all(params, ids):
    states = apply(params, ids)
    if "text_projection.weight" not in spec:
      penultimate = apply(params, ids, method="penultimate_states")
      return {"states": states, "penultimate": penultimate}
    penultimate, embedding = apply(
      params, ids, method="penultimate_states_and_embedding"
    )
    return {
      "states": states,
      "penultimate": penultimate,
      "embedding": embedding,
    }

  return run_all


# --- Theirs ------------------------------------------------------------------


def build(config: dict):
  """The publisher's model, whatever its weights."""
  import transformers

  name = config.get("architectures", ["CLIPTextModel"])[0]
  config = transformers.CLIPTextConfig(**config)
  return getattr(transformers, name)(config).eval()


published = partial(theirs.tower_states, tower="text_model")
fill = partial(theirs.tower_filled, tower="text_model")


def run(model, values: dict) -> dict[str, np.ndarray]:
  """Calls the publisher's model."""
  import torch

  with torch.no_grad():
    out = model(values["ids"].long(), output_hidden_states=True)
  outputs = {
    "states": out.last_hidden_state.numpy(),
    "penultimate": out.hidden_states[-2].numpy(),
  }
  if "text_embeds" in out:
    outputs["embedding"] = out.text_embeds.numpy()
  return outputs
