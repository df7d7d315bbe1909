# SPDX-License-Identifier: Apache-2.0
"""Conditioning: what a text-to-image net takes beside x_t and t.

A flat dict with one row for each picture. Training and sampling pass it on
without knowing its entries:

  text_BLD         states of the text encoder             all models
  pooled_BD        pooled embedding of the text           SDXL
  time_ids_BI      micro-conditioning on image sizes      SDXL
  class_labels_B   noise level of the small picture       super-resolution

Micro-conditioning is that of Podell et al. 2023, "SDXL", section 2.2: see
`whole_pictures`. Texts are encoded by `suti.pipeline.text_encoders`.

Shape legend: `B` pictures, `H` `W` `C` picture or latent, `L` tokens, `D`
width, `I` time ids of a picture.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from suti.hf.model import read_config
from suti.hf.model_index import read_index
from suti.models.unet_embeddings import Added
from suti.nn.param import Param
from suti.pipeline.text_encoders import Text

Conditioning = Mapping[str, Any]


def takes_sizes(unet_config: Mapping[str, Any]) -> bool:
  """Whether a net takes a pooled text and time ids, as SDXL's does."""
  return unet_config.get("addition_embed_type") == "text_time"


def make_conditioning(
  unet_config: Mapping[str, Any], text: Text, *, time_ids_BI: np.ndarray
) -> dict[str, Any]:
  """The conditioning of encoded texts.

  Args:
    unet_config: as published.
    text: encoded, B rows.
    time_ids_BI: of each picture; left out for nets that do not take them.

  Returns: the entries that the net has parameters for.
  """
  conditioning = {"text_BLD": text.states_BLD}
  if takes_sizes(unet_config):
    conditioning |= {"pooled_BD": text.pooled_BP, "time_ids_BI": time_ids_BI}
  return conditioning


def apply_denoiser(
  apply: Callable[..., Any],
  params: Mapping[str, jax.Array],
  x_BHWC: jax.Array,
  t_B: jax.Array,
  conditioning: Conditioning,
  **more: Any,
) -> Any:
  """Applies the denoiser to x_t with its conditioning.

  Args:
    apply: of the net, see `suti.nn.param.functional`.
    params: its arrays.
    x_BHWC: x_t, noisy pictures or latents.
    t_B: their time steps.
    conditioning: see above; the denoiser gets None for a missing entry.
    **more: of its call, such as `context` or `method`.

  Returns: the prediction; IF also predicts a variance, in further channels.
  """
  rest = dict(conditioning)
  added = Added(
    pooled_BD=rest.pop("pooled_BD", None),
    time_ids_BI=rest.pop("time_ids_BI", None),
    class_labels_B=rest.pop("class_labels_B", None),
  )
  return apply(params, x_BHWC, t_B, **rest, added=added, **more)


def whole_pictures(num: int, *, height_px: int, width_px: int) -> np.ndarray:
  """Time ids of whole pictures: not scaled, not cropped.

  Returns: float32 (B, 6): height and width of the original, top and left of the
    crop, height and width of the result.
  """
  row_I = (height_px, width_px, 0, 0, height_px, width_px)
  return np.tile(np.asarray(row_I, np.float32), (num, 1))


def cut_pictures(originals_B2: np.ndarray, *, size_px: int) -> np.ndarray:
  """Time ids of pictures that were center-cropped and scaled to a square.

  The crop is given in pixels of the scaled picture, as in training (Podell et
  al. 2023, section 2.2).

  Args:
    originals_B2: original height and width of each, whole numbers.
    size_px: side of the squares.

  Returns: as `whole_pictures`.
  """
  originals_B2 = np.asarray(originals_B2)
  side_B1 = originals_B2.min(axis=1, keepdims=True)
  scaled_B2 = originals_B2 * size_px // side_B1
  corner_B2 = np.round((scaled_B2 - size_px) / 2)
  time_ids_BI = [originals_B2, corner_B2, np.full_like(originals_B2, size_px)]
  return np.concatenate(time_ids_BI, axis=1, dtype=np.float32)


def null_is_zeros(folder: Path) -> bool:
  """Whether a model's null text is zeros and not an empty text, as SDXL's is.

  Does not open the model, so that texts can be encoded before it is loaded.
  """
  default = takes_sizes(read_config(folder / "unet"))  # the publisher's
  return read_index(folder).get("force_zeros_for_empty_prompt", default)


def check_text(
  folder: Path,
  unet_config: Mapping[str, Any],
  spec: Mapping[str, Param],
  text: Text,
) -> None:
  """Checks that text encoders fit a net.

  Args:
    folder: of the model, for the message.
    unet_config: as published.
    spec: of the net.
    text: encoded, or its shapes.

  Raises:
    ValueError: their widths are not what the net takes.
  """
  width = unet_config.get("encoder_hid_dim")
  expected = [width or unet_config["cross_attention_dim"]]
  given = [text.states_BLD.shape[-1]]
  if takes_sizes(unet_config):
    numbers = 6 * unet_config["addition_time_embed_dim"]
    expected.append(spec["add_embedding.linear_1.weight"].shape[0] - numbers)
    given.append(0 if text.pooled_BP is None else text.pooled_BP.shape[-1])
  if expected != given:
    raise ValueError(
      f"{folder} does not go with these text encoders: its unet/ takes "
      f"texts {_and(expected)} wide, they give {_and(given)}. Give the parts "
      "of one model."
    )


def _and(widths):
  return " and ".join(map(str, widths))
