# SPDX-License-Identifier: Apache-2.0
"""A lone text encoder: CLIPTextModel of transformers."""

import jax
import numpy as np

from suti.models import clip
from tests.goldens import theirs
from tests.goldens.families.clip import TEXT, token_ids

declare = clip.declare_clip_text
RENAMES = clip.RENAMES

CASES = {"clip_text": (TEXT | {"hidden_act": "gelu"}, (2, 7))}
PUBLISHED = {}


def inputs(case: str) -> dict[str, np.ndarray]:
  """Token `ids`."""
  _, shape = CASES[case]
  return {"ids": token_ids(shape[1])}


# --- Ours --------------------------------------------------------------------


def call(_, apply):
  return jax.jit(lambda params, ids: {"states": apply(params, ids)})


# --- Theirs ------------------------------------------------------------------


def build(config: dict):
  """The publisher's model, whatever its weights."""
  import transformers

  config = transformers.CLIPTextConfig(**config)
  return transformers.CLIPTextModel(config).eval()


def published(model) -> dict:
  """Its tensors under the names of the published file.

  transformers 5 does not restore the prefix of a lone text encoder.
  """
  return {
    name if name.startswith("text_model.") else f"text_model.{name}": value
    for name, value in model.state_dict().items()
  }


def fill(model, values: dict[str, np.ndarray]):
  """The model with these tensors of the published file."""
  own = set(model.state_dict())
  model.load_state_dict(
    {
      name if name in own else name.removeprefix("text_model."): value
      for name, value in theirs.tensors(values).items()
    }
  )
  return model


def run(model, values: dict) -> dict[str, np.ndarray]:
  """Calls the publisher's model."""
  import torch

  with torch.no_grad():
    return {"states": model(values["ids"].long()).last_hidden_state.numpy()}
