# SPDX-License-Identifier: Apache-2.0
"""The codec between pictures and a U-Net's input: pixels, patches or latents.

Latents are the posterior's mean, shifted and scaled by the autoencoder's config
(Rombach et al. 2022, appendix G), as the publisher's pipeline reads it: see
`_normal`. Pictures with a side above `WHOLE_PX` are encoded and decoded in
tiles, so that memory does not grow with their size.

Shape legend: `B` batch, `H` `W` `C` picture or latent.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from suti.hf.model import open_model
from suti.hf.model_index import check_named_parts, read_index
from suti.models.vae import split_moments
from suti.models.vae_tiles import in_tiles
from suti.nn.param import shapes
from suti.runtime.progress import say

Params = dict[str, Any]  # arrays, or their shapes

# A decoder keeps a dozen maps of 128 channels at the picture's full size: at
# 1536 px each is 1.2 GB a picture in float32.
WHOLE_PX = 1536
# Pixels that are decoded in one batch beside a U-Net, a choice: one picture of
# 512 px, or all candidates of a wave of small ones.
_PIXELS_PER_CALL = 2**18


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec:
  """Converts images to what a U-Net denoises, and back.

  Attributes:
    params: the autoencoder's arrays; empty in a pixel model.
    encode: (params, image_pm1_BHWC) -> x_BHWC.
    decode: (params, x_BHWC) -> images, about [-1, 1].
    patch: pixels per side of one position of x.
    channels: of x.
    bounded: whether x lies in [-1, 1], as pixels do.
  """

  params: Params
  encode: Callable[[Params, jax.Array], jax.Array]
  decode: Callable[[Params, jax.Array], jax.Array]
  patch: int
  channels: int
  bounded: bool


def open_codec(folder: Path, *, patch: int = 1, weights: bool = True) -> Codec:
  """The codec of a backbone's folder: its `vae/`, or pixels if it has none.

  Arguments are those of `open_autoencoder`.

  Raises:
    ValueError: as there; or model_index.json names an autoencoder that is
      missing.
  """
  vae = folder / "vae"
  index = read_index(folder)
  if not vae.is_dir():
    check_named_parts(folder, index, ["vae"])
    return pixels(patch)
  return open_autoencoder(
    vae,
    patch=patch,
    weights=weights,
    pipeline=str(index.get("_class_name", "")),
  )


def pixels(patch: int) -> Codec:
  """The codec of a model of pixels, or of patches of them."""
  return Codec(
    params={},
    encode=lambda _, image: space_to_depth(image, patch=patch),
    decode=lambda _, x: depth_to_space(x, patch=patch),
    patch=patch,
    channels=3 * patch**2,
    bounded=True,
  )


def open_autoencoder(
  folder: Path, *, patch: int = 1, weights: bool = True, pipeline: str = ""
) -> Codec:
  """Opens the autoencoder of a latent model.

  Args:
    folder: in the published layout, `vae/` of a backbone.
    patch: side of its pixel patches.
    weights: whether to read them; else `params` are their shapes.
    pipeline: class of its published pipeline, if any.

  Raises:
    ValueError: its config or weights do not fit.
  """
  model = open_model(
    folder, expected=("AutoencoderKL",), dtype=jnp.float32, weights=weights
  )
  config: dict[str, Any] = dict(model.config)
  seen = {config.get(key, 3) for key in ("in_channels", "out_channels")}
  if seen != {3 * patch**2}:
    raise ValueError(
      f"{folder} works on pictures of {max(seen)} channels, and patches of "
      f"{patch} px have {3 * patch**2}: correct patch_size in model_index.json."
    )
  shift_C, scale_C = _normal(config, pipeline, folder)
  factor = 2 ** (len(config.get("block_out_channels", (64,))) - 1)
  # It was trained on pictures of `sample_size`: the best size of a tile.
  tile_z = max(1, (config.get("sample_size") or 512) // factor)
  tile = tile_z * factor
  whole = WHOLE_PX // patch

  @jax.jit
  def encode(params, image_pm1_BHWC):
    x_BHWC = space_to_depth(image_pm1_BHWC, patch=patch)
    moments = partial(model.apply, params, method="moments")
    if max(x_BHWC.shape[1:3]) > whole:
      z_BHWC = in_tiles(moments, x_BHWC, size=tile, size_out=tile_z)
    else:
      z_BHWC = moments(x_BHWC)
    return (split_moments(z_BHWC)[0] - shift_C) * scale_C

  @jax.jit
  def decode(params, x_BHWC):
    z_BHWC = x_BHWC / scale_C + shift_C
    to_image = partial(model.apply, params, method="decode")
    if max(z_BHWC.shape[1:3]) * factor > whole:
      y_BHWC = in_tiles(to_image, z_BHWC, size=tile_z, size_out=tile)
    else:
      y_BHWC = to_image(z_BHWC)
    return depth_to_space(y_BHWC, patch=patch)

  return Codec(
    params=model.params if weights else shapes(model.spec),
    encode=encode,
    decode=decode,
    patch=patch * factor,
    channels=int(config.get("latent_channels", 4)),
    bounded=False,
  )


def _normal(
  config: dict[str, Any], pipeline: str, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
  """The shift subtracted from latents, and the scale they are multiplied by.

  The pipelines of Stable Diffusion read `scaling_factor` of the config, those
  of SDXL also `latents_mean` and `latents_std`, if both are there; none of them
  reads `shift_factor`, which is for models without a named pipeline.

  Returns:
    Two arrays, float32, of one number or one for each channel.
  """
  shift = config.get("shift_factor") or 0.0
  scale = config.get("scaling_factor", 0.18215)  # the publisher's default
  mean_C, std_C = (config.get(f"latents_{what}") for what in ("mean", "std"))
  left_out = []
  if pipeline.startswith("StableDiffusion"):
    left_out += ["shift_factor"] * bool(shift)
    shift = 0.0
  plain = pipeline.startswith("StableDiffusion") and "XL" not in pipeline
  if plain or mean_C is None or std_C is None:
    left_out += ["latents_mean"] * (mean_C is not None)
    left_out += ["latents_std"] * (std_C is not None)
  elif shift:
    raise ValueError(
      f"{folder / 'config.json'}: shift_factor={shift} beside latents_mean "
      "is a second shift of latents: set it to 0."
    )
  else:
    shift, scale = mean_C, scale / np.asarray(std_C, np.float64)
  if left_out:
    say(
      f"{folder / 'config.json'}: {', '.join(left_out)} "
      f"{'is' if len(left_out) == 1 else 'are'} passed over, as "
      f"{pipeline or 'its publisher'} does."
    )
  return np.asarray(shift, np.float32), np.asarray(scale, np.float32)


def decode_in_parts(
  codec: Codec, params: Params, x_BHWC: jax.Array
) -> jax.Array:
  """`codec.decode` of any number of pictures, in bounded memory.

  Few or small ones are decoded in one batch, many in several batches of equal
  size: the last is padded.
  """
  num, height, width, _ = x_BHWC.shape
  pixels = num * height * width * codec.patch**2
  num_parts = min(num, -(-pixels // _PIXELS_PER_CALL))
  if num_parts <= 1 or not params:  # pixels are only rearranged
    return codec.decode(params, x_BHWC)
  size = -(-num // num_parts)
  num_parts = -(-num // size)
  filled = jnp.pad(x_BHWC, [(0, num_parts * size - num), *[(0, 0)] * 3])
  parts = filled.reshape(num_parts, size, *x_BHWC.shape[1:])
  y = lax.map(partial(codec.decode, params), parts)
  return y.reshape(-1, *y.shape[2:])[:num]


def space_to_depth(x_BHWC: jax.Array, *, patch: int) -> jax.Array:
  """(B, H, W, C) -> (B, H/patch, W/patch, patch*patch*C); loses nothing."""
  b, h, w, c = x_BHWC.shape
  x = x_BHWC.reshape(b, h // patch, patch, w // patch, patch, c)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // patch, w // patch, patch * patch * c)


def depth_to_space(x_BHWC: jax.Array, *, patch: int) -> jax.Array:
  """The inverse of `space_to_depth`."""
  b, h, w, c = x_BHWC.shape
  x = x_BHWC.reshape(b, h, w, patch, patch, c // (patch * patch))
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h * patch, w * patch, c // (patch * patch))
