# SPDX-License-Identifier: Apache-2.0
"""A lone image encoder: CLIPVisionModel of transformers, or with a projection.

The one with a projection is what IP-Adapter sees its image prompt with.
"""

from functools import partial

import jax
import numpy as np

from suti.models import clip
from tests.goldens import drawing, theirs
from tests.goldens.families.clip import VISION

_PROJECTED = {"architectures": ["CLIPVisionModelWithProjection"]}

declare = clip.declare_clip_vision
RENAMES = clip.VISION_RENAMES

CASES = {
  "clip_vision": (VISION, (2, 16, 16, 3)),
  "clip_vision_projected": (
    VISION | _PROJECTED | {"hidden_act": "gelu", "projection_dim": 12},
    (2, 16, 16, 3),
  ),
}
PUBLISHED = {
  "IP-Adapter/models/image_encoder": _PROJECTED
  | {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1024,
  },
  "IP-Adapter/sdxl_models/image_encoder": _PROJECTED
  | {
    "hidden_act": "gelu",
    "hidden_size": 1664,
    "intermediate_size": 8192,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1280,
  },
}


def inputs(case: str) -> dict[str, np.ndarray]:
  """Pictures `x`, NHWC."""
  _, shape = CASES[case]
  return {"x": drawing.normal(f"{case}.x", shape)}


# --- Ours --------------------------------------------------------------------


def call(spec, apply):
  @jax.jit
  def run_all(params, x):
    penultimate = apply(params, x, method="penultimate_states")
    outputs = {"states": apply(params, x), "penultimate": penultimate}
    if "visual_projection.weight" in spec:
      outputs["embedding"] = apply(params, x, method="embed_image")
    return outputs

  return run_all


# --- Theirs ------------------------------------------------------------------


def build(config: dict):
  """The publisher's model, whatever its weights."""
  import transformers

  name = config.get("architectures", ["CLIPVisionModel"])[0]
  config = transformers.CLIPVisionConfig(**config)
  return getattr(transformers, name)(config).eval()


published = partial(theirs.tower_states, tower="vision_model")
fill = partial(theirs.tower_filled, tower="vision_model")


def run(model, values: dict) -> dict[str, np.ndarray]:
  """Calls the publisher's model."""
  import torch

  with torch.no_grad():
    out = model(theirs.nchw(values["x"]), output_hidden_states=True)
  outputs = {
    "states": out.last_hidden_state.numpy(),
    "penultimate": out.hidden_states[-2].numpy(),
  }
  if "image_embeds" in out:
    outputs["embedding"] = out.image_embeds.numpy()
  return outputs
