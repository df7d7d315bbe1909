# SPDX-License-Identifier: Apache-2.0
"""SynCD: self-attention to the references' foreground, and an IP-Adapter-Plus.

arXiv 2502.01720, sections 4.2 and 4.3. In each self-attention the target's
queries see its own keys and those of all references, in one softmax; of the
references' keys only those where the subject is. What a reference gives is what
the base sees of it: it passes through the U-Net without the low-rank updates,
noised to the target's step with noise of its own and under its own text, and
what its self-attentions are given there becomes keys and values of the target's
by the updated projections. Nothing flows back through that pass. One reference
at random, the first in our random order, is also seen as a whole through CLIP.
Trained are the updates of the self-attention and the keys and values of the
pictures.

Where paper and published code differ, or the code has two ways, an option has
the code's as its default:

  references  noised, as the U-Net's are | clean, at step 0, as those of the
              FLUX model
  dropped     what a dropped picture is in training: picture, CLIP's view alone,
              so that the references are seen | all, as in sampling
  null        grey, the empty picture before CLIP's normalisation | mean, after
  picture     True, one reference is also seen as a whole | False, no adapter:
              the paper's ablation "w/o global". With dropped=picture nothing
              is then dropped with a picture
  mask_edges  soft, masks of pictures are resized to the latent by Lanczos'
              kernel, and what is in (0, 1) there lowers a position's logit, by
              1 at most | whole, each position that the subject touches counts

A dropped text is null for the references too (`Field.with_text`). In sampling
guidance is `normalised`, eq. 4 of the paper, and the branch without the subject
sees the empty picture and no references: their pass is left out, which is the
same. Masks are widened to `mask_dilation` cells of the latent a side. Left out:
the published random crops around the subject, and plain pairs of text and
picture, which its config does not use.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from apprentice.method import (
  DEMONSTRATION_MASK,
  DEMONSTRATIONS,
  IMAGE,
  TEXT,
  Encoder,
  Field,
  Method,
)
from suti.diffusion.schedule import Schedule, add_noise
from suti.nn.cells import at_positions, shares, spread, touched, widened
from suti.nn.nets import Nets, SharesFirst
from suti.nn.notes import listening
from suti.nn.param import Module
from suti.nn.surgery import adapter, listen, lora, remat
from suti.pipeline import image_prompt
from suti.pipeline.conditioning import Conditioning, apply_denoiser

# B batch, K references, M = B * K, H W C latent, S positions of one picture, L
# those of all references, D width, X what CLIP says of a picture.

_EXAMPLE = "configs/apprentice/syncd_world.py"
_CHOICES = {
  "references": ("noised", "clean"),
  "dropped": ("picture", "all"),
  "mask_edges": ("soft", "whole"),
}
_COUNTS = ("rank", "mask_dilation")
_PLAIN, _NOISING, _CELLS = "plain", "noising", "cells"  # names of nets
# Samplers draw from the same keys, by the numbers of their steps.
_NOISE = 2**31 - 2


class Shown(NamedTuple):
  """What the U-Net is given as its `context`.

  Attributes:
    keys_values, scale, mask_BL: the whole picture, as in an `ImagePrompt`; None
      where none is seen so.
    sites: {path of a transformer block: what its self-attention sees of the
      references (B, L, D)}; None if they are not there, or not seen yet.
    seen_BKHW: where the subject is in each reference, by cells of the latent, 0
      where it is not and 1 where it is for certain.
    x0_BKHWC, text, prompt: the references, clean, their texts and pictures, for
      the passes of the steps; None if there are none.
  """

  keys_values: Any
  scale: Any
  mask_BL: Any
  sites: Mapping[str, jax.Array] | None = None
  seen_BKHW: jax.Array | None = None
  x0_BKHWC: jax.Array | None = None
  text: Any = None
  prompt: Any = None


class References(Module):
  """What a self-attention sees beside its own; it has no parameters."""

  def __init__(self, site: str):
    self.site = site

  def __call__(self, x_BSD: jax.Array, context: Shown) -> Any:
    """What the references give, and where the subject is in them."""
    if context.sites is None or context.seen_BKHW is None:
      return None
    batch, num = context.seen_BKHW.shape[:2]
    seen_MHW = context.seen_BKHW.reshape(
      batch * num, *context.seen_BKHW.shape[2:]
    )
    seen_BL = at_positions(seen_MHW, num=x_BSD.shape[1]).reshape(batch, -1)
    # Published: the mask itself is added to the logits, 1 to those of its own.
    bias_BL = jnp.where(seen_BL > 0, seen_BL - 1, -jnp.inf)
    return context.sites[self.site].astype(x_BSD.dtype), bias_BL


class Noising(Module):
  """Which step references are shown at; it has no parameters."""

  def __init__(self, schedule: Schedule, *, clean: bool):
    self.schedule, self.clean = schedule, clean

  def __call__(
    self, x0_BKHWC: jax.Array, t_B: jax.Array, keys_B: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """(x_t, t) of the references, with other noise at each step."""
    if self.clean:
      return x0_BKHWC, jnp.zeros_like(t_B)

    def draw(key, t):
      key = jax.random.fold_in(jax.random.fold_in(key, _NOISE), t)
      return jax.random.normal(key, x0_BKHWC.shape[1:], jnp.float32)

    noise_BKHWC = jax.vmap(draw)(keys_B, t_B).astype(x0_BKHWC.dtype)
    x_BKHWC = add_noise(self.schedule, x0_BKHWC, noise_BKHWC, t_B)
    return x_BKHWC.astype(x0_BKHWC.dtype), t_B


class Cells(Module):
  """Where the subject is, by cells of the latent; it has no parameters."""

  def __init__(self, dilation: int, *, soft: bool):
    self.dilation, self.soft = dilation, soft

  def __call__(self, mask_BKRR: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Masks of pixels -> those of cells, widened, in [0, 1] (B, K, H, W)."""
    mask_MRR = mask_BKRR.reshape(-1, *mask_BKRR.shape[2:]).astype(bool)
    resize, widen = (shares, spread) if self.soft else (touched, widened)
    seen_MHW = resize(mask_MRR, height=grid[0], width=grid[1])
    seen_MHW = widen(seen_MHW, size=self.dilation).astype(jnp.float32)
    return seen_MHW.reshape(*mask_BKRR.shape[:2], *grid)


def declare(backbone: Any, config: Any) -> Nets:
  """The U-Net with updates and references, the same without, the adapter.

  Args:
    backbone: has `unet` and `schedule`.
    config: `config.method`: rank, mask_dilation, mask_edges, references,
      dropped, remat, and what an adapter needs, as
      configs/apprentice/syncd_world.py has them.

  Raises:
    ValueError: a field is missing or wrong, there is no such encoder, or the
      U-Net has no attention of this kind.
  """
  for name in (*_CHOICES, *_COUNTS, "picture", "remat"):
    if name not in config:
      raise ValueError(
        f"config.method.{name} is missing: copy it from {_EXAMPLE}."
      )
  for name, known in _CHOICES.items():
    if config[name] not in known:
      raise ValueError(
        f"config.method.{name}={config[name]!r}: expected one of "
        f"{', '.join(known)}; the published code has {known[0]!r}."
      )
  for name in _COUNTS:
    if type(config[name]) is not int or config[name] < 1:
      raise ValueError(
        f"config.method.{name}={config[name]!r}: expected an integer of at "
        "least 1; published are a rank of 128 and a mask_dilation of 5 cells."
      )
  image_prompt.check_section(config, example=_EXAMPLE)
  plain, nets = backbone.unet, {}
  if config.picture:
    plain, nets = image_prompt.declare(backbone.unet, config)
  net = lora(plain, r"\.attn1\.to_(q|k|v|out\.0)$", rank=config.rank)
  net = adapter(
    net,
    r"\.attn1$",
    lambda path, _: References(path.removesuffix(".attn1")),
    place="extend",
  )
  if config.remat:
    net = remat(net, r"(resnets|attentions)\.\d+$")
  return {
    "": net,
    _PLAIN: SharesFirst(listen(plain, r"transformer_blocks\.\d+$")),
    _NOISING: Noising(backbone.schedule, clean=config.references == "clean"),
    _CELLS: Cells(config.mask_dilation, soft=config.mask_edges == "soft"),
    **nets,
  }


def fields(config: Any) -> tuple[Field, ...]:
  """The target, and the references with their texts, masks and CLIP's view."""
  picture = Field(
    name="demonstration_images", source="demonstrations", made="clip"
  )
  seen = Field(name="reference_mask", source="demonstrations", made="exists")
  return (
    IMAGE,
    TEXT,
    DEMONSTRATIONS,
    DEMONSTRATION_MASK,
    Field(
      name="demonstration_text", source="captions", made="text", with_text=True
    ),
    *([picture] if config.picture else []),
    Field(
      name="demonstration_masks",
      source="demonstration_masks",
      made="plane",
      absent=1.0,
    ),
    *([seen] if config.dropped == "picture" else []),
  )


def encoders(config: Any) -> dict[str, Encoder]:
  """CLIP, where a reference is seen as a whole."""
  if not config.picture:
    return {}
  output = image_prompt.output_of(config.kind)
  return {"clip": Encoder(folder=config.encoder, output=output)}


def encode(
  apply: Callable, params: Mapping[str, jax.Array], batch: Mapping[str, Any]
) -> Shown | None:
  """What the steps need of the references, and the picture seen as a whole."""
  images_BKX = batch.get("demonstration_images")
  shown_BK = batch["demonstration_mask"]
  batch_size, num = shown_BK.shape
  if num == 0:
    return None
  whole: tuple[Any, Any, Any] = (None, None, None)
  if images_BKX is not None:
    whole = image_prompt.make_prompt(
      apply,
      params,
      images_BKX[:, :1],
      shown_BK[:, :1],
      scale=batch.get("subject_scale", 1.0),
    )
  if "demonstrations" not in batch:
    return Shown(*whole)
  x0_BKHWC = batch["demonstrations"]
  there_BK = shown_BK
  if "reference_mask" in batch:
    # A row that shows nothing was dropped: its references stay.
    dropped_B1 = ~shown_BK.any(1, keepdims=True)
    there_BK = shown_BK | (dropped_B1 & batch["reference_mask"])
  seen_BKHW = apply(
    params, batch["demonstration_masks"], x0_BKHWC.shape[2:4], net=_CELLS
  )
  prompt = None
  if images_BKX is not None:
    # Each reference is its own picture: full weight, and null where it is
    # dropped.
    images_M1X = images_BKX.reshape(-1, 1, *images_BKX.shape[2:])
    prompt = image_prompt.make_prompt(
      apply, params, images_M1X, shown_BK.reshape(-1, 1)
    )
  context = Shown(
    *whole,
    seen_BKHW=jnp.where(there_BK[:, :, None, None], seen_BKHW, 0),
    x0_BKHWC=x0_BKHWC,
    text=batch["demonstration_text"],
    prompt=prompt,
  )
  if not apply(params, net=_NOISING, method=lambda net: net.clean):
    return context
  t_B = jnp.zeros(batch_size, jnp.int32)
  return _look(apply, params, context, x0_BKHWC, t_B)._replace(x0_BKHWC=None)


def _look(apply, params, context, x_BKHWC, t_B) -> Shown:
  """The pass of the references through the U-Net without updates."""
  batch, num = x_BKHWC.shape[:2]
  x_MHWC, text = jax.tree.map(
    lambda x: x.reshape(batch * num, *x.shape[2:]),
    (x_BKHWC, dict(context.text)),
  )
  with listening() as notes:
    # What it predicts is not used, and not computed.
    apply_denoiser(
      apply,
      params,
      x_MHWC,
      jnp.repeat(t_B, num),
      text,
      context=context.prompt,
      net=_PLAIN,
    )
  sites = {
    path: jax.lax.stop_gradient(x_MSD).reshape(batch, -1, x_MSD.shape[-1])
    for path, x_MSD in notes.items()
  }
  return context._replace(sites=sites)


def refresh(
  apply: Callable,
  params: Mapping[str, jax.Array],
  context: Shown | None,
  t_B: jax.Array,
  keys_B: jax.Array,
) -> Shown | None:
  """The references at the target's step."""
  if context is None or context.x0_BKHWC is None:
    return context
  x_BKHWC, t_B = apply(params, context.x0_BKHWC, t_B, keys_B, net=_NOISING)
  return _look(apply, params, context, x_BKHWC, t_B)


def without_subject(batch: Mapping[str, Any], gone_B: jax.Array) -> dict:
  """The empty picture, and no references in any row."""
  mask_BK = batch["demonstration_mask"] & ~gone_B[:, None]
  rest = {name: x for name, x in batch.items() if name != "demonstrations"}
  return rest | {"demonstration_mask": mask_BK}


def without_masks(batch: Mapping[str, Any], gone_B: jax.Array) -> dict:
  """References count whole."""
  mask_BKRR = batch["demonstration_masks"].astype(bool)
  mask_BKRR |= gone_B[:, None, None, None]
  return {**batch, "demonstration_masks": mask_BKRR}


def denoise(
  apply: Callable,
  params: Mapping[str, jax.Array],
  x_BHWC: jax.Array,
  t_B: jax.Array,
  text: Conditioning,
  context: Shown | None,
) -> jax.Array:
  """One prediction; context None is the base, without the updates."""
  net = _PLAIN if context is None else ""
  return apply_denoiser(
    apply, params, x_BHWC, t_B, text, context=context, net=net
  )


def start(config: Any, params: Mapping[str, Any]) -> Mapping[str, Any]:
  """The adapter's arrays, if there is one."""
  return image_prompt.start(config, params) if config.picture else {}


METHOD = Method(
  paper="https://arxiv.org/abs/2502.01720",
  declare=declare,
  trainable=(
    rf"\.lora_[AB]\.weight$|^{image_prompt.ADAPTER}:.*\.to_[kv]_ip\.weight$"
  ),
  fields=fields,
  encode=encode,
  denoise=denoise,
  encoders=encoders,
  refresh=refresh,
  hide={"subject": without_subject, "mask": without_masks},
  # References are seen from the first step on.
  starts_as_base=False,
  start=start,
  scaled=lambda config: config.picture,
)
