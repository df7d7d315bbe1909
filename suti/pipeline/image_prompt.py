# SPDX-License-Identifier: Apache-2.0
"""An IP-Adapter that is trained: what methods that have one share.

Ye et al. 2023 (arXiv 2308.06721), sections 3.2 and 4.1.2, and its published
training code. Beside the U-Net, which attends to the tokens of pictures as to a
text, there are two nets:

  adapter:*       what a published file holds, under its names
  null:features   what CLIP says of no picture, where that is no zero

As published: keys and values start as copies of those of the text, what maps a
picture to tokens is drawn at random, and a dropped picture is an embedding of
zeros or, of kinds that read CLIP's states, the states of an empty picture. That
picture is 0 after CLIP's normalisation ("mean"; so IP-Adapter) or before it, a
grey ("grey"; so SynCD). Files of others are opened by `suti.pipeline.
ip_adapter`.

Shape suffixes: B batch, K pictures, X features of a picture, L tokens, D width.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.hf.find import find_model
from suti.hf.image_processor import pixel_reader_of
from suti.hf.model import open_model
from suti.hf.weight_files import read_headers
from suti.hf.weights import load
from suti.models.ip_adapter import (
  ImagePrompt,
  declare_ip_adapter,
  decouple,
  published_place,
)
from suti.models.ip_adapter_shapes import KINDS, shapes_for
from suti.nn.param import ZEROS, Module, functional, param, shapes

ADAPTER, NULL = "adapter", "null"  # names of the nets
NULLS = ("mean", "grey")
_ENCODERS = (
  "CLIPVisionModelWithProjection",
  "CLIPVisionModel",
  "CLIPModel",
)
_SECTION = {
  "encoder": "",
  "kind": "",
  "null": "",
  "adapter": "",
  "num_tokens": 1,
  "width": 1,
  "depth": 1,
  "num_heads": 1,
}


class NullFeatures(Module):
  """What CLIP says of no picture: stored, so that it is read with the rest."""

  def __init__(self, shape: tuple[int, ...]):
    self.features = param(shape, init=ZEROS, axes=(None,) * len(shape))

  def __call__(self) -> jax.Array:
    """The features of one picture."""
    return self.features[...]


def embedding(apply: Callable, params: Mapping[str, Any], x: Any) -> jax.Array:
  """CLIP's embedding of pictures (B, D), not of unit length."""
  return apply(
    params,
    x,
    method=lambda clip, x: clip.visual_projection(
      clip.vision_model.pool(clip.vision_model(x)[1])
    ),
  )


def states(apply: Callable, params: Mapping[str, Any], x: Any) -> jax.Array:
  """CLIP's states of pictures before its last layer (B, 1 + S, D)."""
  return apply(params, x, method=lambda clip, x: clip.vision_model(x)[0])


def output_of(kind: str) -> Callable[..., jax.Array]:
  """What an adapter of a kind reads: `embedding` or `states`."""
  return embedding if kind == "base" else states


def check_section(config: Any, *, example: str) -> None:
  """Checks `config.method` as far as this file reads it.

  Args:
    config: the section.
    example: the config that has all fields.

  Raises:
    ValueError: a field is missing or wrong.
  """
  for name, low in _SECTION.items():
    if name not in config:
      raise ValueError(
        f"config.method.{name} is missing: copy it from {example}."
      )
    value = config[name]
    if isinstance(low, int) and (type(value) is not int or value < low):
      raise ValueError(
        f"config.method.{name}={value!r}: expected an integer of at least "
        f"{low}; {example} has one that is good."
      )
  for name, known in (("kind", KINDS), ("null", NULLS)):
    if config[name] not in known:
      raise ValueError(
        f"config.method.{name}={config[name]!r}: expected one of "
        f"{', '.join(known)}; {example} says which is which."
      )


def declare(unet: Module, config: Any) -> tuple[Module, dict[str, Module]]:
  """Declares a U-Net that attends to pictures, and the nets beside it.

  Args:
    unet: declared.
    config: `config.method`, checked.

  Returns:
    The U-Net, without new parameters; its `context` has the attributes of an
    `ImagePrompt`. And {name of a net: it}.

  Raises:
    ValueError: no such encoder, or a U-Net that has no place for an adapter.
  """
  seen = _see_one(config)
  module = declare_ip_adapter(
    shapes_for(
      unet,
      kind=config.kind,
      d_image=seen[-1],
      num_tokens=config.num_tokens,
      width=config.width,
      depth=config.depth,
      num_heads=config.num_heads,
    )
  )
  nets: dict[str, Module] = {ADAPTER: module}
  if config.kind != "base":
    nets[NULL] = NullFeatures(seen)
  return decouple(unet, module), nets


def _see_one(config: Any) -> tuple[int, ...]:
  """The shape of what CLIP says of a picture, without its weights."""
  folder = find_model(config.encoder)
  clip = open_model(folder, expected=_ENCODERS, weights=False)
  read = pixel_reader_of(folder, clip.config)
  if config.kind == "base" and "visual_projection.weight" not in clip.spec:
    raise ValueError(
      f"config.method.encoder={config.encoder} is a CLIP without a projection, "
      "whose embedding config.method.kind='base' reads: give one with it, or "
      "kind 'plus', which reads states."
    )
  seen = jax.eval_shape(
    lambda params, x: output_of(config.kind)(clip.apply, params, x),
    shapes(clip.spec),
    read([np.zeros((8, 8, 3), np.uint8)]),
  )
  return seen.shape[1:]


def make_prompt(
  apply: Callable[..., Any],
  params: Mapping[str, jax.Array],
  images_BKX: jax.Array,
  shown_BK: jax.Array,
  *,
  scale: jax.Array | float = 1.0,
) -> ImagePrompt:
  """What the U-Net is shown of pictures: all of them side by side.

  Args:
    apply: of the nets.
    params: all parameters.
    images_BKX: CLIP's features of K pictures, at least one.
    shown_BK: which are shown; a row without any is shown the null picture.
    scale: weight of the pictures, or (B,).
  """
  num = images_BKX.shape[1]
  # The null picture takes the first place.
  blank_BK = ~shown_BK.any(1, keepdims=True) & (jnp.arange(num) == 0)
  null_X = jnp.zeros(images_BKX.shape[2:], images_BKX.dtype)
  if f"{NULL}:features" in params:
    null_X = apply(params, net=NULL).astype(images_BKX.dtype)
  wide = blank_BK.reshape(*blank_BK.shape, *[1] * null_X.ndim)
  images_BKX = jnp.where(wide, null_X, images_BKX)
  keys_values = apply(params, images_BKX, net=ADAPTER)
  mask_BL = None
  if num > 1:
    tokens = keys_values[0][0].shape[1] // num
    mask_BL = jnp.repeat(shown_BK | blank_BK, tokens, axis=1)
  return ImagePrompt(keys_values, scale, mask_BL)


def start(config: Any, params: Mapping[str, Any]) -> dict[str, Any]:
  """What the new arrays start as, see the module's text.

  Args:
    config: `config.method`; `adapter` is a published file or the folder of an
      apprentice that has an adapter, whose arrays are taken, or "".
    params: all of them, the base's and the new ones as they were drawn.

  Raises:
    ValueError: there is no such file, or one of another adapter.
  """
  started = {}
  if config.kind != "base":
    started[f"{NULL}:features"] = _null_features(config)
  if config.adapter:
    return started | _read(config, params)
  texts = sorted(
    (name for name in params if re.search(r"\.attn2\.to_k\.weight$", name)),
    key=published_place,
  )
  for i, name in enumerate(texts):
    for x in "kv":
      # A copy: a step may be given both arrays, and donated one.
      started[f"{ADAPTER}:ip_adapter.{1 + 2 * i}.to_{x}_ip.weight"] = jnp.array(
        params[name.replace("to_k", f"to_{x}")]
      )
  return started


def _null_features(config: Any) -> jax.Array:
  folder = find_model(config.encoder)
  clip = open_model(folder, expected=_ENCODERS)
  read = pixel_reader_of(folder, clip.config)
  # Mid-grey lies between two of the 256 levels, and what is read is linear.
  two_BHWC = read([np.full((8, 8, 3), level, np.uint8) for level in (127, 128)])
  grey_BHWC = two_BHWC.mean(0, keepdims=True)
  pixels_BHWC = grey_BHWC if config.null == "grey" else np.zeros_like(grey_BHWC)
  return output_of(config.kind)(clip.apply, clip.params, pixels_BHWC)[0]


def _read(config: Any, params: Mapping[str, Any]) -> dict[str, jax.Array]:
  """The arrays of `config.method.adapter`."""
  path = Path(config.adapter)
  field = f"config.method.adapter={config.adapter}"
  renames = {}
  if path.is_dir() or not path.is_file():
    try:
      path = find_model(config.adapter) / "unet"
    except ValueError as error:
      raise ValueError(
        f"{field}: there is no such file or folder; give a published "
        ".safetensors file, an apprentice with an adapter, or ''."
      ) from error
    start = f"^{ADAPTER}:"
    renames = {rf"^(?!{ADAPTER}:).*": "", start: ""}
  stored = {
    re.sub(f"^{ADAPTER}:", "", name): tensor.shape
    for name, tensor in read_headers(path).items()
    if not renames or name.startswith(f"{ADAPTER}:")
  }
  try:
    spec, _ = functional(declare_ip_adapter(stored))
  except ValueError as error:
    raise ValueError(f"{field}: {error}") from error
  ours = {
    name.removeprefix(f"{ADAPTER}:"): x.shape
    for name, x in params.items()
    if name.startswith(f"{ADAPTER}:")
  }
  theirs = {name: each.shape for name, each in spec.items()}
  if theirs != ours:
    names = sorted(
      name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)
    )
    raise ValueError(
      f"{field} is another adapter than config.method declares: "
      f"{len(names)} of its arrays differ, e.g. {names[0]}, "
      f"{theirs.get(names[0])} there and {ours.get(names[0])} here; set "
      "config.method.kind, num_tokens, width, depth, num_heads and encoder as "
      "it has them."
    )
  arrays = load(spec, path, renames=renames)
  return {f"{ADAPTER}:{name}": x for name, x in arrays.items()}
