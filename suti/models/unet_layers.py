# SPDX-License-Identifier: Apache-2.0
"""What the U-Net's blocks are made of: ResNet, Transformer, attention.

Names and order of operations are those of the published files of Stable
Diffusion (Rombach et al. 2022, "High-resolution image synthesis with latent
diffusion models") and of DeepFloyd IF, which follows Saharia et al. 2022,
"Photorealistic text-to-image diffusion models with deep language
understanding". Blocks are in `unet_blocks.py`.

Shape suffixes: B batch, H W height and width, C channels, S image tokens (H x W
row by row), L text tokens, N heads, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from suti.nn.attention import (
  attend,
  attention_weights,
  merge_heads,
  split_heads,
)
from suti.nn.layers import ACTIVATIONS, Conv2d, GroupNorm, LayerNorm, Linear
from suti.nn.notes import is_heard, note
from suti.nn.param import LECUN, Module, ModuleList, Placeholder, fan_in, slot

# Ends of residual branches start small: an untrained net is close to identity.
SMALL = fan_in(0.01)


class Condition(NamedTuple):
  """The conditioning of every block.

  Attributes:
    time_BD: the embedded time, and all that is added to it.
    text_BLD: states of the text encoder, projected where the net does so.
    text_mask: bool (B, 1, 1, L), or None where all tokens count.
    context: given to adapters as it is; None leaves them out.
  """

  time_BD: jax.Array
  text_BLD: jax.Array
  text_mask: jax.Array | None
  context: Any


class Level(NamedTuple):
  """What the blocks of one resolution have in common.

  Attributes:
    dim: channels.
    num_layers: ResNets of the down path; the up path has one more.
    attends: whether attention follows each ResNet.
    num_heads: of the attention.
    num_transformers: transformer blocks in each Transformer; one number for
      all layers of the block, or one for each.
    text_dim: width of the text's states.
    time_dim: width of the embedded time; 0 is without time.
    num_groups, eps: of the group norms.
    act: name of the activation.
    linear_projection: rank of a Transformer's projections, 2 instead of 4.
    simple: IF's kind of block: one attention to pixels and text together, and
      ResNets that change the size.
    only_cross: no attention of pixels to pixels.
    text_norm: whether IF's attention normalises the text first.
    scale_shift: whether the time scales and shifts instead of being added.
    skip_time_act: whether the embedded time was activated already.
    scale: what a ResNet's sum is divided by.
  """

  dim: int
  num_layers: int
  attends: bool
  num_heads: int
  num_transformers: int | Sequence[int]
  text_dim: int
  time_dim: int
  num_groups: int
  eps: float
  act: str
  linear_projection: bool
  simple: bool = False
  only_cross: bool = False
  text_norm: bool = False
  scale_shift: bool = False
  skip_time_act: bool = False
  scale: float = 1.0


class ResNet(Module):
  """Two convolutions with the time in between: `ResnetBlock2D`.

  An autoencoder's are without time: their level has a `time_dim` of 0.
  """

  def __init__(
    self,
    level: Level,
    *,
    d_in: int,
    resample: Callable[[jax.Array], jax.Array] | None = None,
  ):
    """Declares the layer.

    Args:
      level: of its output.
      d_in: channels of its input.
      resample: `double`, `halve` or None; before the first convolution.
    """
    dim, time_dim = level.dim, level.time_dim
    self.act, self.scale = level.act, level.scale
    self.scale_shift = level.scale_shift
    self.skip_time_act = level.skip_time_act
    self.resample = resample
    self.norm1 = GroupNorm(level.num_groups, d_in, eps=level.eps)
    self.conv1 = Conv2d(d_in, dim, 3)
    self.time_emb_proj = (
      Linear(time_dim, 2 * dim if level.scale_shift else dim)
      if time_dim
      else None
    )
    self.norm2 = GroupNorm(level.num_groups, dim, eps=level.eps)
    self.conv2 = Conv2d(dim, dim, 3, init=SMALL)
    self.conv_shortcut = None if d_in == dim else Conv2d(d_in, dim, 1)

  def __call__(
    self, x_BHWC: jax.Array, condition: Condition | None = None
  ) -> jax.Array:
    """(B, H, W, d_in) -> (B, H, W, dim), resampled if the layer does so."""
    act = ACTIVATIONS[self.act]
    h_BHWC = act(self.norm1(x_BHWC))
    if self.resample is not None:
      x_BHWC, h_BHWC = self.resample(x_BHWC), self.resample(h_BHWC)
    h_BHWC = self._norm_with_time(self.conv1(h_BHWC), condition)
    h_BHWC = self.conv2(act(h_BHWC))
    if self.conv_shortcut is not None:
      x_BHWC = self.conv_shortcut(x_BHWC)
    return (x_BHWC + h_BHWC) / self.scale

  def _norm_with_time(self, h_BHWC, condition):
    """The second norm, with the time before or after it."""
    if self.time_emb_proj is None:
      return self.norm2(h_BHWC)
    time_BD = condition.time_BD
    if not self.skip_time_act:
      time_BD = ACTIVATIONS[self.act](time_BD)
    time_BC = self.time_emb_proj(time_BD)[:, None, None]
    if not self.scale_shift:
      return self.norm2(h_BHWC + time_BC)
    scale_BC, shift_BC = jnp.split(time_BC, 2, axis=-1)
    return self.norm2(h_BHWC) * (1 + scale_BC) + shift_BC


class Transformer(Module):
  """Transformer blocks over the pixels of a map: `Transformer2DModel`."""

  def __init__(self, level: Level, *, layer: int = 0):
    """Declares the layer.

    Args:
      level: it is of.
      layer: which of its block, from 0.
    """
    dim, num = level.dim, level.num_transformers
    num = num if isinstance(num, int) else num[layer]
    # 1e-6 whatever the config's norm_eps says: the published nets have it so.
    self.norm = GroupNorm(level.num_groups, dim, eps=1e-6)
    self.proj_in = _projection(level, init=LECUN)
    self.transformer_blocks = ModuleList(
      [
        TransformerBlock(
          dim,
          num_heads=level.num_heads,
          d_text=level.text_dim,
          only_cross=level.only_cross,
        )
        for _ in range(num)
      ]
    )
    self.proj_out = _projection(level, init=SMALL)

  def __call__(self, x_BHWC: jax.Array, condition: Condition) -> jax.Array:
    """(B, H, W, C) -> the same."""
    batch, height, width, dim = x_BHWC.shape
    h = self.proj_in(self.norm(x_BHWC)).reshape(batch, height * width, dim)
    for block in self.transformer_blocks:
      h = block(h, condition)
    return x_BHWC + self.proj_out(h.reshape(x_BHWC.shape))


class TransformerBlock(Module):
  """Attention to itself, to the text, then a feed-forward.

  Between the two attentions, surgery may set `adapter`: a module called as
  `adapter(x_BSD, context)` whose output is added. It may set `instead`: called
  as `instead(x_BSD, text_BLD, text_mask, context)`, in the place of the
  attention to the text, which a call without context still has. And `before`:
  called as `before(x_BSD, context)`, it changes what the first attention is
  given. With `only_cross` the first attention reads the text too. With
  `note_as` the block notes what its first attention is given.
  """

  def __init__(
    self, dim: int, *, num_heads: int, d_text: int, only_cross: bool = False
  ):
    self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
    self.only_cross = only_cross
    self.norm1 = LayerNorm(dim)
    self.before = slot()
    self.attn1 = Attention(
      dim, num_heads=num_heads, d_context=d_text if only_cross else None
    )
    self.adapter = slot()
    self.norm2 = LayerNorm(dim)
    self.attn2 = Attention(dim, num_heads=num_heads, d_context=d_text)
    self.instead = slot()
    self.note_as = ""
    self.norm3 = LayerNorm(dim)
    self.ff = _FeedForward(dim)

  def __call__(self, x_BSD: jax.Array, condition: Condition) -> jax.Array:
    """(B, S, D) -> the same."""
    text_BLD, text_mask = condition.text_BLD, condition.text_mask
    h_BSD = self.norm1(x_BSD)
    if self.before is not None and condition.context is not None:
      h_BSD = self.before(h_BSD, condition.context)
    if self.only_cross:
      x_BSD = x_BSD + self.attn1(h_BSD, text_BLD, text_mask)
    else:
      x_BSD = x_BSD + self.attn1(h_BSD, h_BSD, None, condition.context)
    if self.note_as:
      note(self.note_as, h_BSD)
    x_BSD = _adapt(self.adapter, x_BSD, condition.context)
    to_text = self.attn2
    if self.instead is not None and condition.context is not None:
      to_text = self.instead
    x_BSD = x_BSD + to_text(
      self.norm2(x_BSD), text_BLD, text_mask, condition.context
    )
    return x_BSD + self.ff(self.norm3(x_BSD))


class Attention(Module):
  """Multi-head attention of `x_BSD` to `context_BLD`.

  Surgery may set `decoupled`: a module called as `decoupled(q_BSND, context)`
  whose output is added before `to_out`. It may set `extend`: called as
  `extend(x_BSD, context)`, it gives what is attended to as well, in the same
  softmax: more_BLD, before `to_k` and `to_v`, and which of it there is, bool
  (B, L), or what is added to its logits, float32 (B, L), -inf where there is
  none, or None for all; or None, if there is nothing more. With `note_as` the
  layer notes its weights, (B, S, L), the mean over heads.
  """

  def __init__(
    self,
    dim: int,
    *,
    num_heads: int,
    d_context: int | None = None,
    bias: bool = False,
  ):
    self.num_heads = num_heads
    self.to_q = Linear(dim, dim, bias=bias)
    self.to_k = Linear(d_context or dim, dim, bias=bias)
    self.to_v = Linear(d_context or dim, dim, bias=bias)
    self.to_out = ModuleList([Linear(dim, dim)])
    self.decoupled = slot()
    self.extend = slot()
    self.note_as = ""

  def __call__(
    self,
    x_BSD: jax.Array,
    context_BLD: jax.Array,
    mask: jax.Array | None = None,
    context: Any = None,
  ) -> jax.Array:
    """(B, S, D) -> the same; `mask` as in `attend`."""
    key_mask_BL = key_bias_BL = more = None
    if self.extend is not None and context is not None:
      assert mask is None, "the text's attention is not extended"
      more = self.extend(x_BSD, context)
    if more is not None:
      own = context_BLD.shape[1]
      more_BLD, more_BL = more
      context_BLD = jnp.concatenate([context_BLD, more_BLD], axis=1)
      if more_BL is not None:
        there_BL = more_BL
        if more_BL.dtype != bool:
          there_BL = more_BL > -jnp.inf
          bias_BL = jnp.where(there_BL, more_BL, 0)
          key_bias_BL = jnp.pad(bias_BL, ((0, 0), (own, 0)))
        key_mask_BL = jnp.pad(
          there_BL, ((0, 0), (own, 0)), constant_values=True
        )
    q_BSND = split_heads(self.to_q(x_BSD), self.num_heads)
    k_BLND = split_heads(self.to_k(context_BLD), self.num_heads)
    v_BLND = split_heads(self.to_v(context_BLD), self.num_heads)
    out_BSND = attend(
      q_BSND,
      k_BLND,
      v_BLND,
      mask,
      key_mask_BL=key_mask_BL,
      key_bias_BL=key_bias_BL,
    )
    if self.note_as and is_heard():
      note(self.note_as, attention_weights(q_BSND, k_BLND, mask).mean(1))
    if self.decoupled is not None and context is not None:
      out_BSND = out_BSND + self.decoupled(q_BSND, context)
    return self.to_out[0](merge_heads(out_BSND))


class AddedAttention(Module):
  """Attention of a map to itself and to the text, in one softmax.

  IF's: an `Attention` that has added keys and values. Behind it, surgery may
  set `adapter`, as in a `TransformerBlock`.
  """

  def __init__(self, level: Level):
    dim, text_dim = level.dim, level.text_dim
    self.dim, self.num_heads = dim, level.num_heads
    self.head_dim = dim // level.num_heads
    # 1e-5 and 32 whatever the config says: the published nets have it so.
    self.group_norm = GroupNorm(level.num_groups, dim, eps=1e-5)
    self.norm_cross = GroupNorm(32, text_dim) if level.text_norm else None
    self.to_q = Linear(dim, dim)
    self.to_k = None if level.only_cross else Linear(dim, dim)
    self.to_v = None if level.only_cross else Linear(dim, dim)
    self.add_k_proj = Linear(text_dim, dim)
    self.add_v_proj = Linear(text_dim, dim)
    self.to_out = ModuleList([Linear(dim, dim, init=SMALL)])
    self.adapter = slot()

  def __call__(self, x_BHWC: jax.Array, condition: Condition) -> jax.Array:
    """(B, H, W, C) -> the same."""
    x_BSD = x_BHWC.reshape(x_BHWC.shape[0], -1, self.dim)
    h_BSD = self.group_norm(x_BSD)
    text_BLD, mask = condition.text_BLD, condition.text_mask
    if self.norm_cross is not None:
      text_BLD = self.norm_cross(text_BLD)
    k_BLD, v_BLD = self.add_k_proj(text_BLD), self.add_v_proj(text_BLD)
    if self.to_k is not None and self.to_v is not None:
      k_BLD = jnp.concatenate([k_BLD, self.to_k(h_BSD)], axis=1)
      v_BLD = jnp.concatenate([v_BLD, self.to_v(h_BSD)], axis=1)
      if mask is not None:
        num = h_BSD.shape[1]
        mask = jnp.pad(mask, [(0, 0)] * 3 + [(0, num)], constant_values=True)
    q_BSND = split_heads(self.to_q(h_BSD), self.num_heads)
    k_BLND = split_heads(k_BLD, self.num_heads)
    v_BLND = split_heads(v_BLD, self.num_heads)
    h_BSD = merge_heads(attend(q_BSND, k_BLND, v_BLND, mask))
    x_BSD = x_BSD + self.to_out[0](h_BSD)
    x_BSD = _adapt(self.adapter, x_BSD, condition.context)
    return x_BSD.reshape(x_BHWC.shape)


def double(x_BHWC: jax.Array) -> jax.Array:
  """Twice the size, every pixel repeated."""
  return x_BHWC.repeat(2, axis=1).repeat(2, axis=2)


def halve(x_BHWC: jax.Array) -> jax.Array:
  """Half the size, the mean of every 2 x 2 pixels; sides are even."""
  batch, height, width, dim = x_BHWC.shape
  x = x_BHWC.reshape(batch, height // 2, 2, width // 2, 2, dim)
  return x.mean((2, 4))


def _adapt(adapter, x_BSD, context):
  if adapter is None or context is None:
    return x_BSD
  return x_BSD + adapter(x_BSD, context).astype(x_BSD.dtype)


class _FeedForward(Module):
  """Gated by GELU (Shazeer 2020, "GLU variants improve transformer")."""

  def __init__(self, dim):
    self.net: Any = ModuleList(
      [_GatedLinear(dim, 4 * dim), Placeholder(), Linear(4 * dim, dim)]
    )

  def __call__(self, x_BSD):
    value, gate = jnp.split(self.net[0].proj(x_BSD), 2, axis=-1)
    return self.net[2](value * ACTIVATIONS["gelu"](gate))


class _GatedLinear(Module):
  def __init__(self, d_in, d_out):
    self.proj = Linear(d_in, 2 * d_out)


def _projection(level, *, init):
  """The same product in both: published files differ in the tensor's rank."""
  if level.linear_projection:
    return Linear(level.dim, level.dim, init=init)
  return Conv2d(level.dim, level.dim, 1, init=init)
