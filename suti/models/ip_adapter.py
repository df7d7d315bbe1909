# SPDX-License-Identifier: Apache-2.0
"""IP-Adapter: a U-Net's attention to pictures beside its attention to text.

Ye et al. 2023, "IP-Adapter: text compatible image prompt adapter for
text-to-image diffusion models", section 3.2. Three published kinds differ in
how a picture becomes tokens: a projection of CLIP's embedding (ip-adapter_sd15,
ip-adapter_sdxl), a resampler of CLIP's states (ip-adapter-plus_*), an MLP on
each state (ip-adapter-full-face_sd15).

Attribute paths are the names in the published files, the U-Net's part included:
a picture's keys and values do not depend on time, so they are computed here,
once, and reach the U-Net through its `context`; it gains no parameter. CLIP is
not here, nor is FaceID, which needs a model of faces.

Shape suffixes: B batch, K pictures, S queries or CLIP's states, L tokens of the
pictures, N heads, D width.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from suti.models.unet_layers import Attention
from suti.nn.attention import attend, merge_heads, split_heads
from suti.nn.layers import ACTIVATIONS, LayerNorm, Linear
from suti.nn.param import (
  Module,
  ModuleList,
  Placeholder,
  modules,
  normal,
  param,
)
from suti.nn.surgery import adapter

HEAD_DIM = 64  # of the resampler, in every published file


class ImagePrompt(NamedTuple):
  """What a U-Net is given as its `context`.

  Attributes:
    keys_values: (k_BLD, v_BLD) for each cross-attention, in published order.
    scale: weight of the pictures, one for all or (B,); 0 is the U-Net without
      them.
    mask_BL: which of the tokens there are, one of each row at least; None is
      all of them.
  """

  keys_values: tuple[tuple[jax.Array, jax.Array], ...]
  scale: jax.Array | float
  mask_BL: jax.Array | None = None


def declare_ip_adapter(shapes: Mapping[str, tuple[int, ...]]) -> "IpAdapter":
  """Declares what a published file holds; there is no config.

  Args:
    shapes: `{name: shape}` of the file's tensors.

  Returns:
    A module; called on pictures, it returns keys and values.

  Raises:
    ValueError: the file is of a kind that is not supported.
  """
  widths = {
    int(match[1]): shape
    for name, shape in shapes.items()
    if (match := re.fullmatch(r"ip_adapter\.(\d+)\.to_k_ip\.weight", name))
  }
  lora = [name for name in shapes if "lora" in name]
  face = [name for name in shapes if "perceiver_resampler" in name]
  make = next((make for key, make in _KINDS.items() if key in shapes), None)
  if make is None or not widths or lora or face:
    example = next(iter([*lora, *face, *shapes]), None)
    raise ValueError(
      f"This is no IP-Adapter that can be read ({example!r}): ip-adapter_*, "
      "ip-adapter-plus_* and ip-adapter-full-face_* can, FaceID cannot."
    )
  within = {
    name.removeprefix("image_proj."): shape
    for name, shape in shapes.items()
    if name.startswith("image_proj.")
  }
  return IpAdapter(make(within), widths)


def decouple(unet: Module, ip_adapter: "IpAdapter") -> Module:
  """Makes a U-Net attend to pictures too.

  Args:
    unet: a declared U-Net.
    ip_adapter: declared from the file that is to be used with it.

  Returns:
    A copy without new parameters, whose `context` is an `ImagePrompt` or None.

  Raises:
    ValueError: the file is for another U-Net.
  """
  layers = cross_attentions(unet)
  order = list(layers)
  ours = [layer.to_k.d_out for layer in layers.values()]
  theirs = [x.to_k_ip.d_out for x in ip_adapter.layers]
  if ours != theirs:
    raise ValueError(
      f"This IP-Adapter is for a U-Net of {len(theirs)} cross-attentions, "
      f"{min(theirs)} to {max(theirs)} wide, and the model has {len(ours)}, "
      f"{min(ours, default=0)} to {max(ours, default=0)} wide: use the file "
      "for this model's family."
    )
  return adapter(
    unet,
    r"\.attn2$",
    lambda path, _: _Decoupled(order.index(path)),
    place="decoupled",
  )


def cross_attentions(unet: Module) -> dict[str, Attention]:
  """The attentions to the text, by path, as the files are numbered."""
  layers = {
    path: module
    for path, module in modules(unet)
    if path.endswith(".attn2") and isinstance(module, Attention)
  }
  return {path: layers[path] for path in sorted(layers, key=published_place)}


class IpAdapter(Module):
  """`image_proj` and `ip_adapter.{1, 3, 5, ...}` of a published file."""

  def __init__(self, image_proj: Module, widths: Mapping[int, tuple[int, ...]]):
    self.image_proj: Any = image_proj
    # Even numbers are the self-attentions, which stay as they are.
    self.ip_adapter = ModuleList(
      [
        _KeysValues(*widths[i][::-1]) if i in widths else Placeholder()
        for i in range(max(widths) + 1)
      ]
    )

  @property
  def reads_states(self) -> bool:
    """Whether pictures are given as CLIP's states and not its embeddings."""
    return not isinstance(self.image_proj, _Projection)

  @property
  def d_in(self) -> int:
    """Width of either."""
    return self.image_proj.d_in

  @property
  def layers(self) -> list[Any]:
    """Those that make keys and values, in published order."""
    return [x for x in self.ip_adapter if isinstance(x, _KeysValues)]

  def __call__(self, images: jax.Array) -> tuple:
    """Pictures -> keys and values for every cross-attention.

    Args:
      images: of each example K pictures' CLIP embeddings (B, K, D), not scaled
        to length 1, or for the other kinds their states after the last layer
        but one, the class token's too (B, K, S, D). Without a picture, as under
        an empty text: embeddings of 0, states of a picture of 0.

    Returns:
      `ImagePrompt.keys_values`; the tokens of all pictures in one row.
    """
    tokens_BLD = self.tokens(images)
    return tuple(layer(tokens_BLD) for layer in self.layers)

  def tokens(self, images: jax.Array) -> jax.Array:
    """Pictures, as in a call -> the tokens of all K in one row (B, L, D)."""
    batch, num = images.shape[:2]
    tokens = self.image_proj(images.reshape(batch * num, *images.shape[2:]))
    return tokens.reshape(batch, -1, tokens.shape[-1])


class _KeysValues(Module):
  def __init__(self, d_in, d_out):
    self.to_k_ip = Linear(d_in, d_out, bias=False)
    self.to_v_ip = Linear(d_in, d_out, bias=False)

  @property
  def d_out(self):
    return self.to_k_ip.d_out

  def __call__(self, tokens_BLD):
    return self.to_k_ip(tokens_BLD), self.to_v_ip(tokens_BLD)


class _Decoupled(Module):
  """What is added to the output of a cross-attention, before `to_out`.

  Section 3.2.2. It has no parameters, only its index among keys and values.
  """

  def __init__(self, place):
    self.place = place

  def __call__(self, q_BSND, prompt):
    num_heads = q_BSND.shape[2]
    k_BLND, v_BLND = (
      split_heads(x_BLD, num_heads).astype(q_BSND.dtype)
      for x_BLD in prompt.keys_values[self.place]
    )
    scale_B111 = jnp.asarray(prompt.scale, q_BSND.dtype).reshape(-1, 1, 1, 1)
    return scale_B111 * attend(
      q_BSND, k_BLND, v_BLND, key_mask_BL=prompt.mask_BL
    )


class _Projection(Module):
  """An embedding becomes a few tokens."""

  def __init__(self, shapes):
    (d_out,) = shapes["norm.weight"]
    self.d_in = shapes["proj.weight"][1]
    self.proj = Linear(*shapes["proj.weight"][::-1])
    self.norm = LayerNorm(d_out)

  def __call__(self, x_BD):
    y_BD = self.proj(x_BD)
    return self.norm(y_BD.reshape(len(x_BD), -1, self.norm.weight.shape[-1]))


class _StateProjection(Module):
  """Each state becomes a token."""

  def __init__(self, shapes):
    first, second = shapes["proj.0.weight"], shapes["proj.2.weight"]
    self.d_in = first[1]
    self.proj: Any = ModuleList(
      [
        Linear(*first[::-1]),
        Placeholder(),
        Linear(*second[::-1]),
        LayerNorm(second[0]),
      ]
    )

  def __call__(self, x_BSD):
    first, _, second, norm = self.proj
    return norm(second(ACTIVATIONS["gelu"](first(x_BSD))))


class _Resampler(Module):
  """Learned queries gather from the states, block after block.

  The perceiver of Alayrac et al. 2022, "Flamingo", section 3.1.
  """

  def __init__(self, shapes):
    _, num, dim = shapes["latents"]
    inner, _ = shapes["layers.0.0.to_q.weight"]
    hidden, _ = shapes["layers.0.1.1.weight"]
    depth = 1 + max(
      int(name.split(".")[1]) for name in shapes if name.startswith("layers.")
    )
    self.d_in = shapes["proj_in.weight"][1]
    self.latents = param(
      (1, num, dim), init=normal(dim**-0.5), axes=(None, None, "out")
    )
    self.proj_in = Linear(*shapes["proj_in.weight"][::-1])
    self.layers: Any = ModuleList(
      [
        ModuleList(
          [
            _PerceiverAttention(dim, inner),
            ModuleList(
              [
                LayerNorm(dim),
                Linear(dim, hidden, bias=False),
                Placeholder(),
                Linear(hidden, dim, bias=False),
              ]
            ),
          ]
        )
        for _ in range(depth)
      ]
    )
    self.proj_out = Linear(*shapes["proj_out.weight"][::-1])
    self.norm_out = LayerNorm(shapes["proj_out.weight"][0])

  def __call__(self, x_BSD):
    x_BSD = self.proj_in(x_BSD)
    latents_1LD = self.latents[...].astype(x_BSD.dtype)
    h_BLD = jnp.broadcast_to(latents_1LD, (len(x_BSD), *latents_1LD.shape[1:]))
    for attention, (norm, up, _, down) in self.layers:
      h_BLD = h_BLD + attention(x_BSD, h_BLD)
      h_BLD = h_BLD + down(ACTIVATIONS["gelu"](up(norm(h_BLD))))
    return self.norm_out(self.proj_out(h_BLD))


class _PerceiverAttention(Module):
  """Of the queries to the states and to each other."""

  def __init__(self, dim, inner):
    self.num_heads = inner // HEAD_DIM
    self.norm1 = LayerNorm(dim)
    self.norm2 = LayerNorm(dim)
    self.to_q = Linear(dim, inner, bias=False)
    self.to_kv = Linear(dim, 2 * inner, bias=False)
    self.to_out = Linear(inner, dim, bias=False)

  def __call__(self, x_BSD, h_BLD):
    h_BLD = self.norm2(h_BLD)
    both_BSD = jnp.concatenate([self.norm1(x_BSD), h_BLD], axis=1)
    q, k, v = (
      split_heads(y, self.num_heads)
      for y in (self.to_q(h_BLD), *jnp.split(self.to_kv(both_BSD), 2, axis=-1))
    )
    return self.to_out(merge_heads(attend(q, k, v)))


# The tensor that each kind has and no other.
_KINDS = {
  "image_proj.proj.weight": _Projection,
  "image_proj.proj.3.weight": _StateProjection,
  "image_proj.latents": _Resampler,
}


def published_place(path: str) -> tuple:
  """Sorts as the files are numbered: the down path, the up path, the middle."""
  first, *rest = path.split(".")
  side = ("down_blocks", "up_blocks", "mid_block").index(first)
  return side, [int(part) for part in rest if part.isdigit()]
