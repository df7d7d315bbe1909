# SPDX-License-Identifier: Apache-2.0
"""SuTI: cross-attention to demonstrations encoded by the U-Net's own encoder.

arXiv 2304.00186, section 3.3 and Figure 3; the encoder shared between target
and context is Re-Imagen's (arXiv 2209.14491). Each demonstration, a picture and
its caption, passes clean (t = 0) through the down path and the middle of the
same U-Net. In new attention layers every position of the target attends to
every position of every demonstration.

What the paper shows and what we infer: its Figures 1 and 3 have two encoders,
of the target and of the demonstrations, meet in an attention whose result goes
on into the decoder; its section 4 counts 400M parameters of randomly
initialised "attention layers" in 2.5B. It does not give their number, widths
and resolutions, nor what is frozen. Here a layer stands after the
self-attention of each block that `config.method.sites` matches, in the decoder
or in the target's encoder too, attends to the demonstrations' features of its
own resolution, and may have a feed-forward (`config.method.feed_forward`);
configs/apprentice/suti_imagen64.py says which of these come to 400M. Our
choices: outputs start at zero, so that training starts at the base model; the
whole U-Net is trained. Demonstrations are a set: they have no order, and a mask
marks those that exist.

This file neither samples nor trains; the training step drops demonstrations.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from apprentice.method import STANDARD, Field, Method
from suti.nn.attention import attend, merge_heads, split_heads
from suti.nn.layers import ACTIVATIONS, LayerNorm, Linear
from suti.nn.param import ZEROS, Module, ModuleList, modules
from suti.nn.surgery import adapter
from suti.pipeline.conditioning import apply_denoiser

# B batch, K demonstrations, H W C features, S tokens of one image, L tokens of
# text or of all demonstrations, N heads, D width. M = B * K.


class DemonstrationAttention(Module):
  """Cross-attention from a target's tokens to those of all demonstrations.

  `project` turns features into keys and values, which do not depend on the
  noise: sampling calls it once an image. As there are no biases after the
  attention, and a feed-forward is masked, the output without demonstrations is
  exactly zero, trained or not.
  """

  def __init__(
    self,
    width: int,
    *,
    site: str,
    sources: Mapping[str, int],
    num_heads: int,
    feed_forward: int = 0,
    encoder_gradient: bool = True,
  ):
    """Declares the layer.

    Args:
      width: of the target's tokens.
      site: path of its transformer block.
      sources: {name of an encoder feature: its width}.
      num_heads: a divisor of `width`.
      feed_forward: hidden width of a feed-forward, in widths; 0 is none.
      encoder_gradient: whether gradients flow into the encoder that made the
        features.
    """
    if width % num_heads:
      raise ValueError(
        f"config.method.num_heads={num_heads} does not divide {width}, the "
        f"width of {site}: use a divisor of every site's width."
      )
    self.site = site
    self.source_names = tuple(sources)
    self.num_heads = num_heads
    self.encoder_gradient = encoder_gradient
    # Each source has its own projections: features before and after the middle
    # of the U-Net have different statistics.
    self.norm = LayerNorm(width)
    self.source_norms = ModuleList([LayerNorm(d) for d in sources.values()])
    self.to_q = Linear(width, width, bias=False)
    self.to_k = ModuleList(
      [Linear(d, width, bias=False) for d in sources.values()]
    )
    self.to_v = ModuleList(
      [Linear(d, width, bias=False) for d in sources.values()]
    )
    self.to_out = Linear(width, width, bias=False, init=ZEROS)
    self.ff = _FeedForward(width, feed_forward) if feed_forward else None

  def project(
    self, features: Mapping[str, jax.Array], *, num: int
  ) -> tuple[jax.Array, jax.Array]:
    """Keys and values of all demonstrations.

    Args:
      features: {name: (M, H, W, C)}, as the U-Net's `encode` returns them.
      num: K; M is B * K, demonstrations of one image side by side.

    Returns:
      k_BLND, v_BLND: source by source, demonstration by demonstration.
    """
    keys, values = [], []
    for name, norm, to_k, to_v in zip(
      self.source_names, self.source_norms, self.to_k, self.to_v, strict=True
    ):
      x_MHWC = features[name]
      if not self.encoder_gradient:
        x_MHWC = jax.lax.stop_gradient(x_MHWC)
      x_BLC = x_MHWC.reshape(x_MHWC.shape[0] // num, -1, x_MHWC.shape[-1])
      x_BLC = norm(x_BLC)
      keys.append(split_heads(to_k(x_BLC), self.num_heads))
      values.append(split_heads(to_v(x_BLC), self.num_heads))
    return jnp.concatenate(keys, 1), jnp.concatenate(values, 1)

  def __call__(self, x_BSD: jax.Array, context: Mapping[str, Any]) -> jax.Array:
    """The residual of the target's tokens, (B, S, D)."""
    k_BLND, v_BLND = context["sites"][self.site]
    mask_BK = context["mask"]
    num_sources, num = len(self.source_names), mask_BK.shape[1]
    tokens = k_BLND.shape[1] // (num_sources * num)
    mask_BL = jnp.tile(jnp.repeat(mask_BK, tokens, axis=1), num_sources)
    q_BSND = split_heads(self.to_q(self.norm(x_BSD)), self.num_heads)
    y_BSND = attend(q_BSND, k_BLND, v_BLND, mask_BL[:, None, None])
    y_BSD = self.to_out(merge_heads(y_BSND))
    if self.ff is None:
      return y_BSD
    y_BSD = y_BSD + self.ff(x_BSD + y_BSD)
    # Unlike the attention, a feed-forward makes something of nothing.
    return jnp.where(mask_BK.any(1)[:, None, None], y_BSD, 0)


class _FeedForward(Module):
  """The usual two layers behind an attention, zero at first."""

  def __init__(self, width: int, multiple: int):
    self.norm = LayerNorm(width)
    self.up = Linear(width, multiple * width)
    self.down = Linear(multiple * width, width, init=ZEROS)

  def __call__(self, x_BSD: jax.Array) -> jax.Array:
    """(B, S, D) -> the same."""
    return self.down(ACTIVATIONS["gelu"](self.up(self.norm(x_BSD))))


def declare(backbone: Any, config: Any) -> Module:
  """The backbone's U-Net with new attention at `config.sites`.

  Args:
    backbone: has `unet` and `unet_config`.
    config: `config.method`: sites, num_heads, feed_forward, encoder_gradient
      (False trains with about half the arithmetic; the paper does not specify
      it).

  Returns: a declared module; the backbone's own is unchanged.

  Raises:
    ValueError: a field is missing or wrong, `sites` matches no block, or heads
      do not divide a width.
  """
  for name in ("sites", "num_heads", "feed_forward", "encoder_gradient"):
    if name not in config:
      raise ValueError(
        f"config.method.{name} is missing: copy it from configs/sections."
      )
  if type(config.feed_forward) is not int or config.feed_forward < 0:
    raise ValueError(
      f"config.method.feed_forward={config.feed_forward!r}: expected an "
      "integer of at least 0, its hidden width in widths of the site; 4 is "
      "usual, 0 is none."
    )
  widths = tuple(backbone.unet_config["block_out_channels"])

  def make(path: str, block: Any) -> DemonstrationAttention:
    return DemonstrationAttention(
      block.dim,
      site=path,
      sources=_sources(path, widths),
      num_heads=config.num_heads,
      feed_forward=config.feed_forward,
      encoder_gradient=config.encoder_gradient,
    )

  return adapter(backbone.unet, config.sites, make)


def _sources(path: str, widths: tuple[int, ...]) -> dict[str, int]:
  """The encoder features at the resolution of a block."""
  block, index = path.split(".")[:2]
  last = len(widths) - 1
  if block == "mid_block":
    return {"mid_block": widths[last]}
  level = int(index) if block == "down_blocks" else last - int(index)
  sources = {f"down_blocks.{level}": widths[level]}
  # A down block's own site comes before the middle; an up block's after it.
  if block == "up_blocks" and level == last:
    sources["mid_block"] = widths[last]
  return sources


def fields(config: Any) -> tuple[Field, ...]:
  """The fields: a target and its text, K demonstrations and theirs."""
  del config
  return STANDARD


def encode(
  apply: Callable, params: Mapping[str, jax.Array], batch: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Demonstrations -> keys and values of every site, once per image.

  Args:
    apply: of the declared module.
    params: all of its parameters.
    batch: demonstrations (B, K, H, W, C) latents, their texts and the mask
      (B, K); a demonstration that does not exist may hold anything finite.

  Returns:
    {"mask": (B, K), "sites": {path: (k_BLND, v_BLND)}}; None if K is 0.
  """
  x_BKHWC = batch["demonstrations"]
  num = x_BKHWC.shape[1]
  if num == 0:
    return None
  x_MHWC, conditioning = jax.tree.map(
    lambda x_BK: x_BK.reshape(-1, *x_BK.shape[2:]),
    (x_BKHWC, batch["demonstration_text"]),
  )
  t_M = jnp.zeros(x_MHWC.shape[0], jnp.int32)
  sites = apply_denoiser(
    apply, params, x_MHWC, t_M, conditioning, num=num, method=_project
  )
  return {"mask": batch["demonstration_mask"], "sites": sites}


def _project(unet, x_MHWC, t_M, *, num, **conditioning):
  features = unet.encode(x_MHWC, t_M, **conditioning)
  return {
    module.site: module.project(features, num=num)
    for _, module in modules(unet)
    if isinstance(module, DemonstrationAttention)
  }


METHOD = Method(
  paper="https://arxiv.org/abs/2304.00186",
  declare=declare,
  trainable=r".",
  fields=fields,
  encode=encode,
)
