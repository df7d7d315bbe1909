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

What a layer reads of the demonstrations (`config.method.features`):

  encoder         the encoder's features of its resolution, as in the paper, by
                  projections that start at random
  self_attention  what the self-attention of its own block is given there, by
                  projections that start as that attention's own. They know from
                  the base which places belong together, where random ones
                  begin by averaging over many. The demonstrations pass through
                  the decoder too, up to the last layer that reads them.

With `config.method.positions` queries and keys also know where they are. Where
there is only noise, the target has nothing yet by which to find a part; that
subjects stand in similar places then tells it where to look.

This file neither samples nor trains; the training step drops demonstrations.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apprentice.method import STANDARD, Field, Method
from suti.nn.attention import (
  attend,
  attention_weights,
  merge_heads,
  split_heads,
)
from suti.nn.layers import ACTIVATIONS, LayerNorm, Linear
from suti.nn.notes import is_heard, listening, note
from suti.nn.param import ZEROS, Module, ModuleList, modules, normal
from suti.nn.surgery import adapter, listen
from suti.pipeline.conditioning import apply_denoiser

# B batch, K demonstrations, H W C features, S tokens of one image, L tokens of
# text or of all demonstrations, N heads, D width. M = B * K.

ENCODER, SELF_ATTENTION = FEATURES = ("encoder", "self_attention")

_WAVES = 4  # sines and cosines a side, of half a period and more
_NEEDED = (
  "positions",
  "sites",
  "features",
  "num_heads",
  "feed_forward",
  "encoder_gradient",
)
# Of a new layer: what it starts as, of its block.
_STARTS = {
  "norm": "norm1",
  "to_q": "attn1.to_q",
  "to_k.0": "attn1.to_k",
  "to_v.0": "attn1.to_v",
}


class DemonstrationAttention(Module):
  """Cross-attention from a target's tokens to those of all demonstrations.

  `project` turns features into keys and values, which do not depend on the
  noise: sampling calls it once an image. The weights are noted for those who
  listen (`suti.nn.notes`). As there are no biases after the attention, and a
  feed-forward is masked, the output without demonstrations is exactly zero,
  trained or not.
  """

  def __init__(
    self,
    width: int,
    *,
    site: str,
    sources: Mapping[str, int],
    num_heads: int,
    positions: bool = False,
    feed_forward: int = 0,
    encoder_gradient: bool = True,
  ):
    """Declares the layer.

    Args:
      width: of the target's tokens.
      site: path of its transformer block.
      sources: {name of an encoder feature: its width}; of the site alone, it is
        what the block's self-attention is given, normalised already.
      num_heads: a divisor of `width`.
      positions: whether queries and keys know where they are in the frame.
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
    self.source_norms = ModuleList(
      [LayerNorm(d) for name, d in sources.items() if name != site]
    )
    self.to_q = Linear(width, width, bias=False)
    self.to_k = ModuleList(
      [Linear(d, width, bias=False) for d in sources.values()]
    )
    self.to_v = ModuleList(
      [Linear(d, width, bias=False) for d in sources.values()]
    )
    self.place_q = _Place(width) if positions else None
    self.place_k = _Place(width) if positions else None
    self.to_out = Linear(width, width, bias=False, init=ZEROS)
    self.ff = _FeedForward(width, feed_forward) if feed_forward else None

  def project(
    self, features: Mapping[str, jax.Array], *, num: int
  ) -> tuple[jax.Array, jax.Array]:
    """Keys and values of all demonstrations.

    Args:
      features: {name: (M, H, W, C)}, as the U-Net's `encode` returns them, or
        {site: (M, S, C)}, as blocks note them.
      num: K; M is B * K, demonstrations of one image side by side.

    Returns:
      k_BLND, v_BLND: source by source, demonstration by demonstration.
    """
    keys, values = [], []
    norms = iter(self.source_norms)
    for name, to_k, to_v in zip(
      self.source_names, self.to_k, self.to_v, strict=True
    ):
      x_MHWC = features[name]
      if not self.encoder_gradient:
        x_MHWC = jax.lax.stop_gradient(x_MHWC)
      x_MSC = x_MHWC.reshape(x_MHWC.shape[0], -1, x_MHWC.shape[-1])
      if name != self.site:
        x_MSC = next(norms)(x_MSC)
      k_MSD, v_MSD = to_k(x_MSC), to_v(x_MSC)
      if self.place_k is not None:
        k_MSD = k_MSD + self.place_k(k_MSD)
      for found, x_MSD in ((keys, k_MSD), (values, v_MSD)):
        x_BLD = x_MSD.reshape(len(x_MSD) // num, -1, x_MSD.shape[-1])
        found.append(split_heads(x_BLD, self.num_heads))
    return jnp.concatenate(keys, 1), jnp.concatenate(values, 1)

  def __call__(self, x_BSD: jax.Array, context: Mapping[str, Any]) -> jax.Array:
    """The residual of the target's tokens, (B, S, D)."""
    k_BLND, v_BLND = context["sites"][self.site]
    mask_BK = context["mask"]
    num_sources, num = len(self.source_names), mask_BK.shape[1]
    tokens = k_BLND.shape[1] // (num_sources * num)
    mask_BL = jnp.tile(jnp.repeat(mask_BK, tokens, axis=1), num_sources)
    q_BSD = self.to_q(self.norm(x_BSD))
    if self.place_q is not None:
      q_BSD = q_BSD + self.place_q(q_BSD)
    q_BSND = split_heads(q_BSD, self.num_heads)
    mask_B11L = mask_BL[:, None, None]
    if is_heard():
      note(f"{self.site}.adapter", attention_weights(q_BSND, k_BLND, mask_B11L))
    y_BSND = attend(q_BSND, k_BLND, v_BLND, mask_B11L)
    y_BSD = self.to_out(merge_heads(y_BSND))
    if self.ff is None:
      return y_BSD
    y_BSD = y_BSD + self.ff(x_BSD + y_BSD)
    # Unlike the attention, a feed-forward makes something of nothing.
    return jnp.where(mask_BK.any(1)[:, None, None], y_BSD, 0)


class _Place(Module):
  """Where each position of a square map is: projected sines and cosines."""

  def __init__(self, width: int):
    # Two random projections that are alike: places attend to themselves, the
    # logits being a few units higher than half a frame away.
    self.proj = Linear(4 * _WAVES, width, bias=False, init=normal(0.3))

  def __call__(self, x_BSD: jax.Array) -> jax.Array:
    """What is added to a map, (S, D); of `x_BSD` the size and dtype count."""
    side = math.isqrt(x_BSD.shape[1])
    assert side * side == x_BSD.shape[1], x_BSD.shape
    centres_I = (np.arange(side) + 0.5) / side
    phase_IW = np.pi * centres_I[:, None] * np.arange(1, _WAVES + 1)
    wave_IF = np.concatenate([np.cos(phase_IW), np.sin(phase_IW)], -1)
    row, column = np.divmod(np.arange(side * side), side)
    place_SF = np.concatenate([wave_IF[row], wave_IF[column]], -1)
    return self.proj(jnp.asarray(place_SF, x_BSD.dtype))


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
    config: `config.method`: sites, features, num_heads (of `encoder` alone;
      self-attentions have their own), positions, feed_forward,
      encoder_gradient (False trains with about half the arithmetic; the paper
      does not specify it).

  Returns: a declared module; the backbone's own is unchanged.

  Raises:
    ValueError: a field is missing or wrong, `sites` matches no block, heads do
      not divide a width, or a block has no self-attention.
  """
  for name in _NEEDED:
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
  if config.features not in FEATURES:
    raise ValueError(
      f"config.method.features={config.features!r}: expected one of "
      f"{', '.join(FEATURES)}; the paper's is {ENCODER!r}."
    )
  own = config.features == SELF_ATTENTION
  widths = tuple(backbone.unet_config["block_out_channels"])

  def make(path: str, block: Any) -> DemonstrationAttention:
    if own and getattr(block, "only_cross", True):
      raise ValueError(
        f"config.method.features={SELF_ATTENTION!r}: {path} has no attention "
        f"of pixels alone; use {ENCODER!r}."
      )
    return DemonstrationAttention(
      block.dim,
      site=path,
      sources={path: block.dim} if own else _sources(path, widths),
      num_heads=block.num_heads if own else config.num_heads,
      positions=config.positions,
      feed_forward=config.feed_forward,
      encoder_gradient=config.encoder_gradient,
    )

  net = adapter(backbone.unet, config.sites, make)
  if not own:
    return net
  sites = [re.escape(module.site) for module in _layers(net)]
  return listen(net, rf"^({'|'.join(sites)})$")


def start(config: Any, params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """What new layers start as: their block's self-attention, equal places.

  Args:
    config: `config.method`.
    params: all of them, the base's and the new ones as they were drawn.

  Returns:
    New arrays by name: with features "self_attention" queries, keys and values;
    with positions those of keys, which know places as queries do.
  """
  own = _STARTS if config.features == SELF_ATTENTION else {}
  starts = {f".adapter.{new}.": f".{old}." for new, old in own.items()}
  starts |= {".adapter.place_k.": ".adapter.place_q."}
  # Copies: a step may be given both arrays, and donated one.
  return {
    name: jnp.array(params[name.replace(new, old)])
    for new, old in starts.items()
    for name in params
    if new in name
  }


def _layers(net: Module) -> list[DemonstrationAttention]:
  found = [module for _, module in modules(net)]
  return [each for each in found if isinstance(each, DemonstrationAttention)]


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
  layers = _layers(unet)
  if any(layer.source_names == (layer.site,) for layer in layers):
    with listening() as features:
      # What it predicts is not used, and not computed.
      unet(x_MHWC, t_M, **conditioning)
  else:
    features = unet.encode(x_MHWC, t_M, **conditioning)
  return {layer.site: layer.project(features, num=num) for layer in layers}


METHOD = Method(
  paper="https://arxiv.org/abs/2304.00186",
  declare=declare,
  trainable=r".",
  fields=fields,
  encode=encode,
  start=start,
)
