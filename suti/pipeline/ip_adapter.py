# SPDX-License-Identifier: Apache-2.0
"""Opens an IP-Adapter, and encodes pictures as its image prompt.

  ip-adapter_sd15.safetensors    the adapter (in h94/IP-Adapter: models/)
  image_encoder/                 the CLIP that it was trained with: config.json,
                                 model.safetensors, and preprocessor_config.json
                                 if its preprocessing is not CLIP's

The model is `suti.models.ip_adapter`; the caller samples:

  unet = open_model(folder / "unet")
  attending, encode_pictures = open_ip_adapter(
    "ip-adapter_sd15.safetensors", image_encoder=encoder, unet=unet.module
  )
  _, apply = functional(attending)
  conditioning, null = encode_pictures([[dog_u8]], scale=0.6)
  noise = apply(unet.params, x_BHWC, t_B, text_BLD, context=conditioning)

Both results can be passed to `suti.diffusion.guidance.guided` as conditions.

Shape suffixes: B examples, K pictures of each, N all of them, H W C picture.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.hf.image_processor import pixel_reader_of
from suti.hf.model import open_model
from suti.hf.weight_files import read_headers
from suti.hf.weights import load
from suti.models.ip_adapter import ImagePrompt, declare_ip_adapter, decouple
from suti.nn.param import Module, functional

_EMBEDDINGS = ("CLIPVisionModelWithProjection",)
_STATES = (*_EMBEDDINGS, "CLIPVisionModel")

# (B rows of K uint8 pictures, scale=1.0) -> with the pictures, without.
EncodePictures = Callable[..., tuple[ImagePrompt, ImagePrompt]]


def open_ip_adapter(
  file: str | Path,
  *,
  image_encoder: str | Path,
  unet: Module,
  dtype: Any = jnp.float32,
) -> tuple[Module, EncodePictures]:
  """Opens a published IP-Adapter for a U-Net.

  Args:
    file: a .safetensors file; there is no config.
    image_encoder: the folder of the CLIP image encoder.
    unet: declared.
    dtype: of the adapter's and the encoder's arrays.

  Returns:
    The declared U-Net with attention to pictures, without new parameters; and
    `encode_pictures(pictures, scale=1.0)`, which returns the `context` of that
    U-Net with and without the pictures. `pictures` are B rows, each of the same
    number of uint8 RGB pictures of any size; `scale` is their weight.

  Raises:
    ValueError: the file is not an IP-Adapter, or one for another U-Net or image
      encoder.
  """
  stored = read_headers(file)
  try:
    adapter = declare_ip_adapter({n: s.shape for n, s in stored.items()})
    attending = decouple(unet, adapter)
  except ValueError as error:
    raise ValueError(f"{file}: {error}") from error
  spec, apply = functional(adapter)
  params = load(spec, file, dtype=dtype)
  project = jax.jit(apply)
  kinds, method, width_of = (
    (_STATES, "penultimate_states", "vision_model.post_layernorm.weight")
    if adapter.reads_states
    else (_EMBEDDINGS, "embed_image", "visual_projection.weight")
  )
  encoder = open_model(Path(image_encoder), expected=kinds, dtype=dtype)
  if (width := encoder.spec[width_of].shape[-1]) != adapter.d_in:
    raise ValueError(
      f"{file} reads pictures {adapter.d_in} wide, and {image_encoder} sees "
      f"them {width} wide: give the image encoder that it was trained with, "
      "which is published beside it."
    )
  read = pixel_reader_of(Path(image_encoder), encoder.config)
  see = jax.jit(lambda params, x: encoder.apply(params, x, method=method))

  def encode_pictures(
    pictures: Sequence[Sequence[np.ndarray]], *, scale: float = 1.0
  ) -> tuple[ImagePrompt, ImagePrompt]:
    num = {len(row) for row in pictures}
    if len(num) != 1 or 0 in num:
      raise ValueError(
        f"pictures has rows of {sorted(num)} pictures: give each example the "
        "same number of them, at least one."
      )
    x_NHWC = read([picture for row in pictures for picture in row])
    seen = see(encoder.params, x_NHWC)
    # As published: the null image is grey pixels for CLIP's states, and zeros
    # for its embedding.
    blank = jnp.zeros_like(seen)
    if adapter.reads_states:
      blank = see(encoder.params, np.zeros_like(x_NHWC))
    rows = (len(pictures), *num)
    scale_B = jnp.full(len(pictures), scale, jnp.float32)
    conditioning, null = (
      ImagePrompt(
        project(params, images.reshape(*rows, *images.shape[1:])), scale_B
      )
      for images in (seen, blank)
    )
    return conditioning, null

  return attending, encode_pictures
