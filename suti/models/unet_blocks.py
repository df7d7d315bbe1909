# SPDX-License-Identifier: Apache-2.0
"""Down, mid and up blocks of the U-Net, and what they are made of.

Names and order of operations are those of the published Stable Diffusion files
(Rombach et al. 2022, "High-resolution image synthesis with latent diffusion
models"). Which block has which width is decided in `unet.py`.

Shape suffixes: B batch, H W height and width, C channels, S image tokens (H x W
row by row), L text tokens, D width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from suti.nn.attention import attend, merge_heads, split_heads
from suti.nn.layers import ACTIVATIONS, Conv2d, GroupNorm, LayerNorm, Linear
from suti.nn.param import LECUN, Module, ModuleList, Placeholder, fan_in, slot

# Ends of residual branches start small: an untrained net is close to identity.
SMALL = fan_in(0.01)


class Condition(NamedTuple):
  """What every block is told beside its features.

  Attributes:
    time_BD: the embedded time.
    text_BLD: states of the text encoder.
    text_mask: bool (B, 1, 1, L), or None where all tokens count.
    context: given to adapters as it is; None leaves them out.
  """

  time_BD: jax.Array
  text_BLD: jax.Array
  text_mask: jax.Array | None
  context: Any


class Level(NamedTuple):
  """What the blocks of one resolution have in common."""

  dim: int
  num_layers: int
  attends: bool
  num_heads: int
  num_transformers: int
  text_dim: int
  time_dim: int
  num_groups: int
  eps: float
  act: str
  linear_projection: bool


class DownBlock(Module):
  """Layers, then half the size: `DownBlock2D` and `CrossAttnDownBlock2D`."""

  def __init__(self, level: Level, *, d_in: int, downsample: bool):
    widths = [d_in] + [level.dim] * (level.num_layers - 1)
    self.resnets = ModuleList([ResNet(level, d_in=d) for d in widths])
    self.attentions = _transformers(level, level.num_layers)
    self.downsamplers = (
      ModuleList([_Resample(level.dim, stride=2)]) if downsample else None
    )

  def __call__(self, x_BHWC: jax.Array, condition: Condition) -> list:
    """Returns the features after each layer, then the downsampled ones."""
    outputs = []
    for i, resnet in enumerate(self.resnets):
      x_BHWC = resnet(x_BHWC, condition)
      if self.attentions is not None:
        x_BHWC = self.attentions[i](x_BHWC, condition)
      outputs.append(x_BHWC)
    if self.downsamplers is not None:
      outputs.append(self.downsamplers[0].conv(x_BHWC))
    return outputs


class MidBlock(Module):
  """ResNet, attention, ResNet: `UNetMidBlock2DCrossAttn`."""

  def __init__(self, level: Level, *, scale: float):
    self.resnets = ModuleList(
      [ResNet(level, d_in=level.dim, scale=scale) for _ in range(2)]
    )
    self.attentions = ModuleList([Transformer(level)])

  def __call__(self, x_BHWC: jax.Array, condition: Condition) -> jax.Array:
    """(B, H, W, C) -> the same."""
    x_BHWC = self.resnets[0](x_BHWC, condition)
    x_BHWC = self.attentions[0](x_BHWC, condition)
    return self.resnets[1](x_BHWC, condition)


class UpBlock(Module):
  """Layers that join skips, then twice the size: `[CrossAttn]UpBlock2D`."""

  def __init__(
    self, level: Level, *, d_in: int, d_skips: list[int], upsample: bool
  ):
    widths = [d_in] + [level.dim] * (len(d_skips) - 1)
    self.resnets = ModuleList(
      [
        ResNet(level, d_in=d + skip)
        for d, skip in zip(widths, d_skips, strict=True)
      ]
    )
    self.attentions = _transformers(level, len(d_skips))
    self.upsamplers = (
      ModuleList([_Resample(level.dim, stride=1)]) if upsample else None
    )

  def __call__(
    self, x_BHWC: jax.Array, skips: list[jax.Array], condition: Condition
  ) -> jax.Array:
    """Takes its skips from the end of `skips`, which it shortens."""
    for i, resnet in enumerate(self.resnets):
      x_BHWC = jnp.concatenate([x_BHWC, skips.pop()], axis=-1)
      x_BHWC = resnet(x_BHWC, condition)
      if self.attentions is not None:
        x_BHWC = self.attentions[i](x_BHWC, condition)
    if self.upsamplers is not None:
      _, height, width, _ = skips[-1].shape  # odd sizes were rounded up
      x_BHWC = x_BHWC.repeat(2, axis=1).repeat(2, axis=2)
      x_BHWC = self.upsamplers[0].conv(x_BHWC[:, :height, :width])
    return x_BHWC


class ResNet(Module):
  """Two convolutions with the time in between: `ResnetBlock2D`.

  An autoencoder's are told no time: their level has a `time_dim` of 0.
  """

  def __init__(self, level: Level, *, d_in: int, scale: float = 1.0):
    dim = level.dim
    self.act, self.scale = level.act, scale
    self.norm1 = GroupNorm(level.num_groups, d_in, eps=level.eps)
    self.conv1 = Conv2d(d_in, dim, 3)
    self.time_emb_proj = Linear(level.time_dim, dim) if level.time_dim else None
    self.norm2 = GroupNorm(level.num_groups, dim, eps=level.eps)
    self.conv2 = Conv2d(dim, dim, 3, init=SMALL)
    self.conv_shortcut = None if d_in == dim else Conv2d(d_in, dim, 1)

  def __call__(
    self, x_BHWC: jax.Array, condition: Condition | None = None
  ) -> jax.Array:
    """(B, H, W, d_in) -> (B, H, W, dim)."""
    act = ACTIVATIONS[self.act]
    h_BHWC = self.conv1(act(self.norm1(x_BHWC)))
    if self.time_emb_proj is not None:
      assert condition is not None
      time_BC = self.time_emb_proj(act(condition.time_BD))
      h_BHWC = h_BHWC + time_BC[:, None, None]
    h_BHWC = self.conv2(act(self.norm2(h_BHWC)))
    if self.conv_shortcut is not None:
      x_BHWC = self.conv_shortcut(x_BHWC)
    return (x_BHWC + h_BHWC) / self.scale


class Transformer(Module):
  """Transformer blocks over the pixels of a map: `Transformer2DModel`."""

  def __init__(self, level: Level):
    dim = level.dim
    # 1e-6 whatever the config's norm_eps says: the published nets have it so.
    self.norm = GroupNorm(level.num_groups, dim, eps=1e-6)
    self.proj_in = _projection(level, init=LECUN)
    self.transformer_blocks = ModuleList(
      [
        TransformerBlock(dim, num_heads=level.num_heads, d_text=level.text_dim)
        for _ in range(level.num_transformers)
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
  `adapter(x_BSD, context)` whose output is added.
  """

  def __init__(self, dim: int, *, num_heads: int, d_text: int):
    self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
    self.norm1 = LayerNorm(dim)
    self.attn1 = Attention(dim, num_heads=num_heads)
    self.adapter = slot()
    self.norm2 = LayerNorm(dim)
    self.attn2 = Attention(dim, num_heads=num_heads, d_context=d_text)
    self.norm3 = LayerNorm(dim)
    self.ff = _FeedForward(dim)

  def __call__(self, x_BSD: jax.Array, condition: Condition) -> jax.Array:
    """(B, S, D) -> the same."""
    h_BSD = self.norm1(x_BSD)
    x_BSD = x_BSD + self.attn1(h_BSD, h_BSD)
    if self.adapter is not None and condition.context is not None:
      added_BSD = self.adapter(x_BSD, condition.context)
      x_BSD = x_BSD + added_BSD.astype(x_BSD.dtype)
    x_BSD = x_BSD + self.attn2(
      self.norm2(x_BSD),
      condition.text_BLD,
      condition.text_mask,
      condition.context,
    )
    return x_BSD + self.ff(self.norm3(x_BSD))


class Attention(Module):
  """Multi-head attention of `x_BSD` to `context_BLD`.

  Surgery may set `decoupled`: a module called as `decoupled(q_BSND, context)`
  whose output is added before `to_out`.
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

  def __call__(
    self,
    x_BSD: jax.Array,
    context_BLD: jax.Array,
    mask: jax.Array | None = None,
    context: Any = None,
  ) -> jax.Array:
    """(B, S, D) -> the same; `mask` as in `attend`."""
    q_BSND = split_heads(self.to_q(x_BSD), self.num_heads)
    k_BLND = split_heads(self.to_k(context_BLD), self.num_heads)
    v_BLND = split_heads(self.to_v(context_BLD), self.num_heads)
    out_BSND = attend(q_BSND, k_BLND, v_BLND, mask)
    if self.decoupled is not None and context is not None:
      out_BSND = out_BSND + self.decoupled(q_BSND, context)
    return self.to_out[0](merge_heads(out_BSND))


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


class _Resample(Module):
  def __init__(self, dim, *, stride):
    self.conv = Conv2d(dim, dim, 3, stride=stride)


def _transformers(level, num):
  if not level.attends:
    return None
  return ModuleList([Transformer(level) for _ in range(num)])


def _projection(level, *, init):
  """The same product in both: published files differ in the tensor's rank."""
  if level.linear_projection:
    return Linear(level.dim, level.dim, init=init)
  return Conv2d(level.dim, level.dim, 1, init=init)
