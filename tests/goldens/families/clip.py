# SPDX-License-Identifier: Apache-2.0
"""CLIP with both towers: CLIPModel of transformers."""

import jax
import jax.numpy as jnp
import numpy as np

from suti.models import clip
from tests.goldens import drawing, theirs

TEXT = {
  "vocab_size": 60,
  "hidden_size": 16,
  "intermediate_size": 40,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "max_position_embeddings": 9,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
  "bos_token_id": 57,
  "pad_token_id": 58,
  "eos_token_id": 58,
}
VISION = {
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "num_channels": 3,
  "image_size": 16,
  "patch_size": 4,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
}
_CLIP = {"projection_dim": 12, "text_config": TEXT, "vision_config": VISION}

declare = clip.declare_clip
RENAMES = clip.RENAMES

CASES = {
  "clip": (_CLIP, (2, 16, 16, 3)),
  # Files from before 2023 name the wrong end token.
  "clip_old_end": (
    _CLIP | {"text_config": TEXT | {"eos_token_id": 2, "hidden_act": "gelu"}},
    (2, 16, 16, 3),
  ),
}
_LARGE_TEXT = {
  "hidden_size": 768,
  "intermediate_size": 3072,
  "num_attention_heads": 12,
}
_LARGE_VISION = {
  "hidden_size": 1024,
  "intermediate_size": 4096,
  "num_hidden_layers": 24,
  "num_attention_heads": 16,
  "patch_size": 14,
}
PUBLISHED = {
  "clip-vit-base-patch32": {"text_config": {}, "vision_config": {}},
  "clip-vit-base-patch16": {
    "text_config": {},
    "vision_config": {"patch_size": 16},
  },
  "clip-vit-large-patch14": {
    "projection_dim": 768,
    "text_config": _LARGE_TEXT,
    "vision_config": _LARGE_VISION,
  },
  "clip-vit-large-patch14-336": {
    "projection_dim": 768,
    "text_config": _LARGE_TEXT,
    "vision_config": _LARGE_VISION | {"image_size": 336},
  },
}


def inputs(case: str) -> dict[str, np.ndarray]:
  """Pictures `x`, NHWC, and token `ids`."""
  _, shape = CASES[case]
  return {"x": drawing.normal(f"{case}.x", shape), "ids": token_ids(9)}


def token_ids(length: int) -> np.ndarray:
  """Two texts, padded with the end token as CLIP's tokenizer does."""
  ids = np.full((2, length), 58, np.int32)
  ids[:, 0] = 57
  ids[0, 1:4], ids[1, 1:6] = [7, 3, 3], [11, 56, 1, 0, 9]
  return ids


# --- Ours --------------------------------------------------------------------


def call(_, apply):
  @jax.jit
  def run_all(params, x, ids):
    text = apply(params, ids, method="encode_text")
    image = apply(params, x, method="encode_image")
    scale = jnp.exp(params["logit_scale"])
    return {
      "states": apply(params, ids, method="text_states"),
      "text": text,
      "image": image,
      "logits": scale * image @ text.T,
    }

  return run_all


# --- Theirs ------------------------------------------------------------------


def build(config: dict):
  """The publisher's model, whatever its weights."""
  import transformers

  return transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()


published = theirs.saved
fill = theirs.reopened


def run(model, values: dict) -> dict[str, np.ndarray]:
  """Calls the publisher's model."""
  import torch

  with torch.no_grad():
    out = model(
      input_ids=values["ids"].long(), pixel_values=theirs.nchw(values["x"])
    )
  return {
    "states": out.text_model_output.last_hidden_state.numpy(),
    "text": out.text_embeds.numpy(),
    "image": out.image_embeds.numpy(),
    "logits": out.logits_per_image.numpy(),
  }


def published_index(config: dict) -> dict:
  """Without arrays."""
  import torch

  with torch.device("meta"):
    return theirs.without_arrays(build(config))
