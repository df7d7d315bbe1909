# SPDX-License-Identifier: Apache-2.0
"""Loads a text-to-image model from a folder in the diffusers layout.

  model_index.json           which parts there are; `patch_size`
  unet/                      config.json, diffusion_pytorch_model.safetensors
  vae/                       the same; absent in pixel models
  text_encoder/  tokenizer/  config.json, model.safetensors; tokenizer.json
  text_encoder_2/  tokenizer_2/   the same; SDXL's
  scheduler/                 scheduler_config.json

With a `patch_size` of p, the input of the U-Net, or of its autoencoder, is
(H/p, W/p, 3*p*p): space to depth, for a coarser grid. This is our choice for
small machines; published models have p = 1.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.config.values import check_kinds
from suti.diffusion.schedule import Schedule, make_schedule
from suti.hf.find import find_model
from suti.hf.model import Model, open_model
from suti.hf.model_index import check_named_parts, read_index
from suti.hf.weights import load
from suti.images import to_pm1
from suti.io.files import read_object
from suti.nn.param import functional, shapes
from suti.pipeline.codec import Codec, open_codec
from suti.pipeline.conditioning import (
  check_text,
  make_conditioning,
  null_is_zeros,
  whole_pictures,
)
from suti.pipeline.text_encoders import (
  EncodeText,
  Text,
  blank_text,
  open_text_encoders,
)

# B batch, H W C image or latent, L text tokens, D width, I numbers of a size.

Params = dict[str, Any]  # arrays by published name, or their shapes

_PIXELS_PER_CALL = 2**20  # some 6 GB in the autoencoder of Stable Diffusion
_LATENT_CHANNELS = (4, 8, 16)  # of published autoencoders


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
  """A text-to-image model: its declaration, its weights, its frozen parts.

  Attributes:
    name: the name or folder it was opened by.
    folder: the folder it was read from.
    unet: the declared U-Net, to which layers may be added.
    unet_config: its published config.
    params: the U-Net's arrays by published name.
    schedule: the noise schedule it was trained with.
    size_px: side of the images it makes.
    codec: from images to what the U-Net denoises, and back.
    encode: its text encoders, with a cache of texts.
    zero_null: whether its null text is zeros and not an empty text (SDXL).
  """

  name: str
  folder: Path
  unet: Any
  unet_config: Mapping[str, Any]
  params: Params
  schedule: Schedule
  size_px: int
  codec: Codec
  encode: EncodeText
  zero_null: bool

  def encode_text(
    self, texts: Sequence[str], *, time_ids_BI: np.ndarray | None = None
  ) -> dict[str, np.ndarray]:
    """The conditioning of texts, see `suti.pipeline.conditioning`.

    Args:
      texts: B of them.
      time_ids_BI: micro-conditioning of SDXL; None is that of whole pictures of
        the model's size, as for sampling.

    Returns: arrays with B rows.
    """
    side = self.size_px
    if time_ids_BI is None:
      time_ids_BI = whole_pictures(len(texts), height_px=side, width_px=side)
    return make_conditioning(
      self.unet_config, self.encode(texts), time_ids_BI=time_ids_BI
    )

  def null_text(self, negative: str = "") -> dict[str, np.ndarray]:
    """The conditioning of the null text: one row.

    Args:
      negative: a text in its place, that guidance leads away from.
    """
    conditioning = self.encode_text([negative])
    if negative or not self.zero_null:
      return conditioning
    kept = {
      name: conditioning[name] for name in conditioning if name == "time_ids_BI"
    }
    return {name: np.zeros_like(x) for name, x in conditioning.items()} | kept

  def to_latent(self, image_pm1_BHWC: jax.Array) -> jax.Array:
    """Images in [-1, 1] -> what the U-Net denoises.

    For calls outside of `jax.jit`, like `to_image`: inside, pass `codec.params`
    as an argument and call `codec.encode`, or they become constants.
    """
    return self.codec.encode(self.codec.params, image_pm1_BHWC)

  def encode_pictures(
    self, images_u8: Sequence[np.ndarray], *, batch_size: int = 16
  ) -> np.ndarray:
    """Any number of pictures of the model's size, uint8 -> what it denoises.

    Args:
      images_u8: (H, W, 3) each.
      batch_size: the largest batch; smaller for large pictures, as the
        activations of an autoencoder are many times their size. One program
        serves any number.

    Returns: (B, H, W, C), float32.
    """
    batch_size = max(1, min(batch_size, _PIXELS_PER_CALL // self.size_px**2))
    blocks = []
    for start in range(0, len(images_u8), batch_size):
      part = images_u8[start : start + batch_size]
      padded = [*part, *[part[-1]] * (batch_size - len(part))]
      x_BHWC = self.to_latent(to_pm1(np.stack(padded)))
      blocks.append(np.asarray(x_BHWC[: len(part)]))
    return np.concatenate(blocks)

  def to_image(self, x_BHWC: jax.Array) -> jax.Array:
    """What the U-Net denoises -> images, about [-1, 1]."""
    return self.codec.decode(self.codec.params, x_BHWC)

  def limits(self, percentile: float | None) -> dict[str, Any]:
    """How a sampler clips its estimates: pixels have a range, latents none.

    Args:
      percentile: of dynamic thresholding; None clips.

    Returns: the arguments `percentile` and `clip` of `suti.diffusion.samplers`.
    """
    return {
      "percentile": percentile if self.codec.bounded else None,
      "clip": self.codec.bounded,
    }

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of what the U-Net denoises."""
    side = self.size_px // self.codec.patch
    return side, side, int(self.unet_config["in_channels"])


def load_backbone(
  name_or_dir: str | Path,
  *,
  dtype: Any = jnp.float32,
  text_dtype: Any = jnp.float32,
  text_on_host: bool = False,
  weights: bool = True,
) -> Backbone:
  """Opens a text-to-image model.

  Args:
    name_or_dir: a folder in the published layout, or a shipped model's name.
    dtype: of the U-Net's arrays; the compute follows it.
    text_dtype: of the text encoders' arrays.
    text_on_host: see `suti.pipeline.text_encoders.open_text_encoders`.
    weights: whether to read the U-Net's weights. If not, `params` is empty; a
      caller that adds layers (an apprentice) reads them itself.

  Returns: the backbone.

  Raises:
    ValueError: no such folder, a part is missing, or weights do not fit.
  """
  backbone = describe_backbone(name_or_dir, dtype=dtype)
  folder = backbone.folder
  params = {}
  if weights:
    params = load(functional(backbone.unet)[0], folder / "unet", dtype=dtype)
  return dataclasses.replace(
    backbone,
    params=params,
    codec=open_codec(folder, patch=_patch(folder)),
    encode=open_text_encoders(folder, dtype=text_dtype, on_host=text_on_host),
  )


def describe_backbone(
  name_or_dir: str | Path, *, dtype: Any = jnp.float32
) -> Backbone:
  """Describes a text-to-image model by its configs alone, for compilation.

  Arrays are `jax.ShapeDtypeStruct`s, and texts are encoded to zeros of the
  right shape: weights and tokenizers are not needed.

  Args:
    name_or_dir: as for `load_backbone`.
    dtype: of the U-Net's arrays.

  Raises:
    ValueError: no such folder, a part is missing, or parts do not fit.
  """
  folder = find_model(name_or_dir)
  check_parts(folder)
  unet = open_model(
    folder / "unet", expected=("UNet2DConditionModel",), weights=False
  )
  codec = open_codec(folder, patch=_patch(folder), weights=False)
  _check_trainable(folder, unet.config, codec)
  text = blank_text(folder)
  check_text(folder, unet.config, unet.spec, text)

  def encode(texts: Sequence[str]) -> Text:
    return jax.tree.map(lambda x: np.repeat(x, len(texts), axis=0), text)

  return Backbone(
    name=str(name_or_dir),
    folder=folder,
    unet=unet.module,
    unet_config=unet.config,
    params=shapes(unet.spec, dtype),
    schedule=make_schedule(
      read_object(folder / "scheduler" / "scheduler_config.json")
    ),
    size_px=own_size(unet, codec),
    codec=codec,
    encode=encode,
    zero_null=null_is_zeros(folder),
  )


def _patch(folder):
  return read_index(folder).get("patch_size", 1)


def check_parts(folder: Path, *, texts: bool = True) -> None:
  """Checks that a folder has the parts of a text-to-image model.

  Args:
    folder: in the published layout.
    texts: whether a text encoder is needed; a super-resolution stage takes the
      conditioning of the stage before it.

  Raises:
    ValueError: a part is missing.
  """
  needed = ["unet/config.json", "scheduler/scheduler_config.json"]
  for part in needed + ["text_encoder/config.json"] * texts:
    if not (folder / part).is_file():
      raise ValueError(
        f"{folder} has no {part}: expected a folder in the diffusers layout, "
        "with unet/, text_encoder/, tokenizer/ and scheduler/."
      )
  second = ["text_encoder_2"] if texts else []
  check_named_parts(folder, read_index(folder), ["vae", *second])


def own_size(unet: Model, codec: Codec) -> int:
  """Side in px of the pictures that a U-Net was trained on.

  Raises:
    ValueError: it is missing in the config.
  """
  check_kinds(
    {"sample_size": unet.config.get("sample_size")},
    {"sample_size": 64},
    what="a U-Net",
  )
  side = unet.config["sample_size"]
  version = str(unet.config.get("_diffusers_version"))
  if not codec.bounded and re.match(r"0\.[0-8]\.", version):
    # Old files of Stable Diffusion have 32 for nets that were trained on 64:
    # its pipeline corrects that, too.
    side = max(side, 64)
  return side * codec.patch


def check_latents(folder: Path, channels: int, codec: Codec) -> None:
  """Refuses a latent model whose autoencoder is missing.

  Args:
    folder: of the model.
    channels: input channels of its U-Net.
    codec: of the folder.

  Raises:
    ValueError: the channels are those of latents, and there is no autoencoder.
  """
  if codec.bounded and channels in _LATENT_CHANNELS:
    raise ValueError(
      f"{folder} has no vae/, and its U-Net has in_channels={channels}, as "
      "nets of latents have: fetch the vae/ of the model."
    )


def _check_trainable(folder, config, codec):
  """Refuses nets with inputs that no stage provides, such as inpainting.

  `suti.pipeline.text_to_image` supports super-resolution too.
  """
  problems = [
    f"{key}={config[key]!r}"
    for key in ("class_embed_type", "num_class_embeds")
    if config.get(key)
  ]
  channels = codec.channels
  seen = config.get("in_channels", 4), config.get("out_channels", 4)
  if seen not in ((channels, channels), (channels, 2 * channels)):
    problems.append(f"in_channels={seen[0]}, out_channels={seen[1]}")
    check_latents(folder, seen[0], codec)
  if problems:
    raise ValueError(
      f"{folder / 'unet'} has {', '.join(problems)}: the stages train nets of "
      f"text and pictures of {channels} channels alone, as Stable Diffusion, "
      "SDXL and the first stage of IF are; nets that enlarge, inpaint or read "
      "depth are not."
    )
