# SPDX-License-Identifier: Apache-2.0
"""A folder in the published diffusers layout -> `Backbone`.

  model_index.json           which parts there are; `patch_size`
  unet/                      config.json, diffusion_pytorch_model.safetensors
  vae/                       the same; absent in pixel models
  text_encoder/  tokenizer/  config.json, model.safetensors; tokenizer.json
  scheduler/                 scheduler_config.json

Where `patch_size` is p, the U-Net, or the autoencoder before it, sees an image
as (H/p, W/p, 3*p*p): space to depth, so that it works on a coarse grid. This is
our choice for small machines; published models have p = 1.

This file opens a backbone. It trains nothing and names no method.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.diffusion.schedule import Schedule, make_schedule
from suti.io.files import read_json
from suti.io.weights import load
from suti.models import vae as vae_model
from suti.models.clip import RENAMES, declare_clip_text
from suti.models.unet import declare_unet
from suti.models.vae import declare_autoencoder
from suti.nn.param import functional
from suti.text import load_tokenizer

# B batch, H W C image or latent, L text tokens, D width.

Params = dict[str, jax.Array]

PRETRAINED = Path(__file__).parent / "pretrained"
_TEXT_ROWS = 16  # texts encoded at once: one compiled program for any number
_TEXTS_KEPT = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec:
  """Between images and what a U-Net denoises.

  Attributes:
    params: the autoencoder's arrays; none in a model of pixels.
    encode: (params, image_pm1_BHWC) -> x_BHWC.
    decode: (params, x_BHWC) -> images, about [-1, 1].
    patch: pixels a side that one position of x stands for.
    bounded: whether x lies in [-1, 1], as pixels do.
  """

  params: Params
  encode: Callable[[Params, jax.Array], jax.Array]
  decode: Callable[[Params, jax.Array], jax.Array]
  patch: int
  bounded: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
  """A text-to-image model: its declaration, its weights, its frozen parts.

  Attributes:
    name: where it came from.
    folder: the folder it was read from.
    unet: the declared U-Net, open to surgery.
    unet_config: the published config of it.
    params: the U-Net's arrays by published name.
    schedule: the noise schedule it was trained with.
    size_px: side of the images it makes.
    codec: from images to what the U-Net denoises, and back.
    encode_text: texts -> (text_BLD float32, text_mask_BL bool), cached by text.
  """

  name: str
  folder: Path
  unet: Any
  unet_config: Mapping[str, Any]
  params: Params
  schedule: Schedule
  size_px: int
  codec: Codec
  encode_text: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]

  def to_latent(self, image_pm1_BHWC: jax.Array) -> jax.Array:
    """Images in [-1, 1] -> what the U-Net denoises.

    For calls outside of `jax.jit`, as `to_image`: inside, hand `codec.params`
    over as an argument and call `codec.encode`, or they become constants.
    """
    return self.codec.encode(self.codec.params, image_pm1_BHWC)

  def to_image(self, x_BHWC: jax.Array) -> jax.Array:
    """What the U-Net denoises -> images, about [-1, 1]."""
    return self.codec.decode(self.codec.params, x_BHWC)

  def limits(self, percentile: float | None) -> dict[str, Any]:
    """How a sampler may cut its estimates: pixels alone have a range.

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


def find_model(name_or_dir: str | Path) -> Path:
  """The folder of a shipped model's name, or the folder itself.

  Raises:
    ValueError: there is no such folder; names the shipped ones.
  """
  shipped = sorted(p.name for p in PRETRAINED.glob("*") if p.is_dir())
  if str(name_or_dir) in shipped:
    return PRETRAINED / str(name_or_dir)
  if Path(name_or_dir).is_dir():
    return Path(name_or_dir)
  raise ValueError(
    f"No model '{name_or_dir}': it is neither a folder nor one of the shipped "
    f"models {', '.join(shipped) or '(none)'}."
  )


def load_backbone(
  name_or_dir: str | Path, *, dtype: Any = jnp.float32, weights: bool = True
) -> Backbone:
  """Opens a text-to-image model.

  Args:
    name_or_dir: a folder in the published layout, or a shipped model's name.
    dtype: of the U-Net's arrays; the compute follows it.
    weights: whether to read the U-Net's weights. A caller that declares more
      layers on it (an apprentice) reads them itself; `params` is empty then.

  Returns: the backbone.

  Raises:
    ValueError: no such folder, a part is missing, or weights do not fit.
  """
  folder = find_model(name_or_dir)
  for part in (
    "unet/config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
  ):
    if not (folder / part).is_file():
      raise ValueError(
        f"{folder} has no {part}: expected a folder in the diffusers layout, "
        "with unet/, text_encoder/, tokenizer/ and scheduler/."
      )
  index = folder / "model_index.json"
  patch = read_json(index).get("patch_size", 1) if index.is_file() else 1
  config = read_json(folder / "unet" / "config.json")
  unet = declare_unet(config)
  spec, _ = functional(unet)
  vae = folder / "vae"
  codec = open_autoencoder(vae, patch=patch) if vae.is_dir() else _pixels(patch)
  return Backbone(
    name=str(name_or_dir),
    folder=folder,
    unet=unet,
    unet_config=config,
    params=load(spec, folder / "unet", dtype=dtype) if weights else {},
    schedule=make_schedule(
      read_json(folder / "scheduler" / "scheduler_config.json")
    ),
    size_px=int(config["sample_size"]) * codec.patch,
    codec=codec,
    encode_text=text_encoder(folder),
  )


def _pixels(patch: int) -> Codec:
  """For models of pixels, or of patches of them."""
  return Codec(
    params={},
    encode=lambda _, image: space_to_depth(image, patch=patch),
    decode=lambda _, x: depth_to_space(x, patch=patch),
    patch=patch,
    bounded=True,
  )


def open_autoencoder(folder: Path, *, patch: int = 1) -> Codec:
  """Opens the autoencoder of a latent model.

  Latents are the posterior's mean, shifted and scaled as the config says.

  Args:
    folder: in the published layout, `vae/` of a backbone.
    patch: side of the pixel patches that it works on.

  Raises:
    ValueError: its config or weights do not fit.
  """
  config = read_json(folder / "config.json")
  spec, apply = functional(declare_autoencoder(config))
  scale = config.get("scaling_factor", 0.18215)  # the publisher's defaults
  shift = config.get("shift_factor") or 0.0

  @jax.jit
  def encode(params, image_pm1_BHWC):
    x_BHWC = space_to_depth(image_pm1_BHWC, patch=patch)
    mean_BHWC, _ = apply(params, x_BHWC, method="encode")
    return (mean_BHWC - shift) * scale

  @jax.jit
  def decode(params, x_BHWC):
    y_BHWC = apply(params, x_BHWC / scale + shift, method="decode")
    return depth_to_space(y_BHWC, patch=patch)

  return Codec(
    params=load(spec, folder, renames=vae_model.RENAMES, dtype=jnp.float32),
    encode=encode,
    decode=decode,
    patch=patch * 2 ** (len(config["block_out_channels"]) - 1),
    bounded=False,
  )


def text_encoder(
  folder: Path,
) -> Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]:
  """Opens the frozen text encoder of a backbone's folder.

  Texts come again, prompts over subjects and demonstrations over steps: the
  last few thousand are remembered.

  Args:
    folder: holds `text_encoder/` and `tokenizer/`.

  Returns: texts -> (text_BLD float32, text_mask_BL bool). The mask is all true:
    CLIP's encoders are attended to padding included, as they were trained.
  """
  config = read_json(folder / "text_encoder" / "config.json")
  if (kind := config.get("model_type", "clip_text_model")) != "clip_text_model":
    raise ValueError(
      f"{folder / 'text_encoder'} is a {kind}: expected a clip_text_model, the "
      "only kind of text encoder that can be read yet."
    )
  length = int(config.get("max_position_embeddings", 77))
  spec, apply = functional(declare_clip_text(config))
  params = load(
    spec, folder / "text_encoder", renames=RENAMES, dtype=jnp.float32
  )
  encode = jax.jit(lambda params, ids_BL: apply(params, ids_BL))
  tokenize = load_tokenizer(folder / "tokenizer", max_length=length)
  known: dict[str, np.ndarray] = {}  # the oldest first

  def encode_text(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    # Threads of a loader share `known`: what this call needs, it holds.
    states = {t: found for t in texts if (found := known.get(t)) is not None}
    new = [text for text in dict.fromkeys(texts) if text not in states]
    for start in range(0, len(new), _TEXT_ROWS):
      rows = new[start : start + _TEXT_ROWS]
      padded = rows + [""] * (_TEXT_ROWS - len(rows))
      states_BLD = np.asarray(encode(params, tokenize(padded)))
      states.update(zip(rows, states_BLD, strict=False))
    known.update((text, states[text]) for text in new)
    for text in list(known)[: max(0, len(known) - _TEXTS_KEPT)]:
      known.pop(text, None)
    text_BLD = np.stack([states[text] for text in texts])
    return text_BLD, np.ones(text_BLD.shape[:2], bool)

  return encode_text
