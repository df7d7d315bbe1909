# SPDX-License-Identifier: Apache-2.0
"""SynCD's teacher: several images of a subject at once, and nothing is tuned.

SynCD (arXiv 2502.01720, section 3.2) makes training sets by a base alone. The
images of a set attend to each other's subjects (masked shared attention), each
with its own prompt and scene. Of its two variants `config.finetune.depth_net`
chooses one:

  deformable   the subject is where the image looks at its noun: the attention
               to the text, by Otsu's threshold, updated at each step
  rigid        each image is given the depth of one view of the subject, by a
               net that sees depths; where the subject is and which pixels
               correspond follow from the geometry, and early on what is
               denoised is warped from one image to the others

The publishers' net is FLUX, whose one attention holds text and image; that of a
U-Net is two. Masks are made on its finest map that attends, where theirs are,
and coarser maps follow. Paper and published code (commit d6b082a) differ in how
they warp: each order is a field of `config.sample.syncd`, the code's is the
default. Not here: their random placement of renders in the frame, and the
rotary positions that a U-Net has none of.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experts.teacher import NOTHING, Teacher, depth_net_folder
from suti.diffusion.guidance import classifier_free
from suti.diffusion.samplers import draw_noise, own_plan, sample_remembering
from suti.diffusion.schedule import Schedule
from suti.diffusion.subject_mask import noun_map, otsu
from suti.hf.model import open_model
from suti.nn.notes import listening
from suti.nn.shared_attention import (
  SEEN,
  attending_sides,
  seen_of,
  share,
  token_masks,
)
from suti.nn.surgery import listen
from suti.nn.warp import WARPING, Warping, link, warp_features, warp_rows
from suti.pipeline.backbone import Backbone
from suti.pipeline.conditioning import apply_denoiser

# B rows, sets of T side by side, H W C latent or H W picture, R side of a mask
# or of a grid, S positions, L tokens.

Array = jax.Array
Memory = Mapping[str, Array]  # of the deformable variant
# Side of the neighbourhood that a subject is widened by, of the finest map: in
# the published code 9 of 32 positions, and 3 of 64.
_DILATE = {True: 9, False: 3}  # by whether it is rigid
_FINE = 128  # side of the grid that values are carried on, at most, as theirs


def is_rigid(config: Any) -> bool:
  """Whether a section `finetune` is of the rigid variant."""
  return config.depth_net != ""


def weights(backbone: Backbone, config: Any) -> Mapping[str, str]:
  """The net that sees depths, in the place of the backbone's."""
  del backbone
  folder = depth_net_folder(config)
  return {"": str(folder)} if folder else {}


def declare(backbone: Backbone, config: Any) -> Any:
  """The base, or the net that sees depths; rows see each other."""
  unet = backbone.unet
  for folder in weights(backbone, config).values():
    net = open_model(
      Path(folder), expected=("UNet2DConditionModel",), weights=False
    )
    channels = backbone.latent_shape[-1]
    if net.config["in_channels"] != 2 * channels:
      raise ValueError(
        f"config.finetune.depth_net='{config.depth_net}' has in_channels="
        f"{net.config['in_channels']}: expected {2 * channels}, those of "
        f"config.backbone and as many of the depth, as suti.pretrain.depth "
        "trains."
      )
    unet = net.module
  if any("Simple" in k for k in backbone.unet_config["down_block_types"]):
    raise ValueError(
      f"config.finetune.teacher='syncd': config.backbone='{backbone.name}' has "
      "no self-attention apart from that to its text, as nets of IF's kind: "
      "take a base as Stable Diffusion or SDXL."
    )
  net = warp_features(share(unet))
  return net if is_rigid(config) else listen(net, r"attn2$")


def asks(config: Any) -> tuple[str, ...]:
  """Views of known geometry, or which tokens are the noun; a whole config."""
  if is_rigid(config.finetune):
    return "masks", "depth_latents", "correspondence"
  return ("noun",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sets:
  """Some rows that are sampled in sets: what stays the same in all steps.

  Attributes:
    request: as `sample` is given it.
    config: the section `sample`.
    schedule: of the base.
    sides: of the maps that attend, the finest first.
    first_t: the first step of the sampler.
  """

  request: Mapping[str, Any]
  config: Any
  schedule: Schedule
  sides: Sequence[int]
  first_t: int

  @property
  def is_rigid(self) -> bool:
    return "depth_THWC" in self.request

  @property
  def own(self) -> Any:
    return self.config.syncd

  def rows(self, x_T: Array) -> Array:
    """Of each row what its view has: B rows are sets of T."""
    num_sets = len(self.request["conditioning"]["text_BLD"]) // len(x_T)
    return jnp.tile(x_T, (num_sets, *[1] * (x_T.ndim - 1)))

  def mask(self, memory: Memory) -> Array:
    """Where the subject is, as far as it is known: bool (B, R, R)."""
    if self.is_rigid:
      # Of all pixels, as theirs: a position is the subject's if any of its is.
      return self.rows(self.request["masks_THW"])
    return otsu(memory["map_BRR"])

  def seen(self, memory: Memory, t: Array) -> dict[str, Array]:
    """Of each map which positions of the others a row attends to."""
    size = self.own.dilate or _DILATE[self.is_rigid]
    masks = token_masks(self.mask(memory), sides=self.sides, dilate=size)
    is_open = (t == self.first_t) & self.own.open_first_step
    seen = seen_of(masks, together=self.config.together)
    return {name: seen_BL | is_open for name, seen_BL in seen.items()}

  def links(self) -> dict[str, Array]:
    """What each view can be given, see `suti.nn.warp.warp`."""
    places_TTHW2 = self.request["places_TTHW2"]
    # In pixels of the grid, whose side may be less than the picture's.
    places_TTHW2 = _coarse(places_TTHW2, axis=2) * (
      min(_FINE, places_TTHW2.shape[2]) / places_TTHW2.shape[2]
    )
    return link(
      places_TTHW2,
      _coarse(self.request["seen_TTHW"], axis=2),
      source=self.config.view_source,
    )

  def warping(self, t: Array) -> Warping:
    """What is carried from one image to the others at a step."""
    # Of a flow, whose noise is a share, the same ratio of noise to signal.
    alpha, sigma = self.schedule.alpha_T, self.schedule.sigma_T
    share = jnp.asarray(sigma / (alpha + sigma))[t]
    return Warping(
      links={name: self.rows(x_T) for name, x_T in self.links().items()},
      on=share > self.own.warp_above,
      thin=share < self.own.thin_below,
      together=self.config.together,
      source=self.config.view_source,
      method=self.own.warp_method,
      chain=self.own.warp_chain,
    )

  def context(self, memory: Memory, t: Array) -> dict[str, Any]:
    """What layers are told, of B rows."""
    context: dict[str, Any] = {}
    if self.own.share:
      context[SEEN] = self.seen(memory, t)
    if self.is_rigid and self.own.warp == "features":
      context[WARPING] = self.warping(t)
    return context

  def remember(self, memory: Memory, notes: Mapping[str, Array]) -> Memory:
    """The memory after a step: the mean of the maps so far, or the last one."""
    if self.is_rigid:
      return memory
    noun_BL = self.request["noun_BL"]
    with_text = [x[: len(noun_BL)] for x in notes.values()]
    map_BRR = noun_map(with_text, noun_BL, side=self.sides[0])
    steps = memory["steps"] + 1
    if self.own.average_steps:
      before_BRR = memory["map_BRR"]
      map_BRR = before_BRR + (map_BRR - before_BRR) / steps
    return {"map_BRR": map_BRR, "steps": steps}


def _coarse(x: Array, *, axis: int = 1) -> Array:
  """Planes of at most `_FINE` pixels a side, of those nearest."""
  side = x.shape[axis]
  if side <= _FINE:
    return x
  at = ((np.arange(_FINE) + 0.5) * side / _FINE).astype(int)
  return x.take(at, axis=axis).take(at, axis=axis + 1)


def sample(
  apply: Any,
  backbone: Backbone,
  params: Mapping[str, Array],
  request: Mapping[str, Any],
  keys_B: Array,
  config: Any,
) -> tuple[Array, Array]:
  """Samples rows in sets; returns x_BHWC, and the subject's masks (B, R, R)."""
  plan = own_plan(
    config.sampler,
    backbone.schedule,
    num_steps=config.num_steps,
    **backbone.limits(config.percentile),
  )
  sets = _Sets(
    request=request,
    config=config,
    schedule=backbone.schedule,
    sides=attending_sides(backbone.unet_config, backbone.latent_shape[0]),
    first_t=int(plan.t_N[0]),
  )
  channels = backbone.latent_shape[-1]
  sees_depth = params["conv_in.weight"].shape[-2] == 2 * channels
  # With text, then without, in one batch of 2B rows.
  text = jax.tree.map(
    lambda row, x: jnp.concatenate([x, jnp.broadcast_to(row, x.shape)]),
    request["null"],
    request["conditioning"],
  )

  def denoise(x_BHWC, t_B, memory):
    is_first = t_B[0] == sets.first_t
    if sees_depth:
      depth_BHWC = sets.rows(request["depth_THWC"])
      x_BHWC = jnp.concatenate([x_BHWC, depth_BHWC], axis=-1)
    x_BHWC, t_B, context = jax.tree.map(
      lambda each: jnp.concatenate([each, each]) if each.ndim else each,
      (x_BHWC, t_B, sets.context(memory, t_B[0])),
    )
    with listening() as notes:
      both_BHWC = apply_denoiser(
        apply, params, x_BHWC, t_B, text, context=context
      )
    is_guided = ~is_first | config.syncd.guide_first_step
    with_text, without = jnp.split(both_BHWC, 2)
    scale = jnp.where(is_guided, config.guidance, 1.0)
    prediction_BHWC = classifier_free(with_text, without, scale)
    return prediction_BHWC, sets.remember(memory, notes)

  def change(x_BHWC, t_B):
    warping = sets.warping(t_B[0])
    if config.syncd.warp == "latents" or not backbone.codec.bounded:
      return warp_rows(x_BHWC, warping)
    # Pixels lie in the channels: taken out, they are carried one by one.
    codec = backbone.codec
    image_BHWC = warp_rows(codec.decode({}, x_BHWC), warping)
    return codec.encode({}, image_BHWC)

  map_BRR = jnp.zeros((len(keys_B), sets.sides[0], sets.sides[0]))
  is_warped = sets.is_rigid and config.syncd.warp in ("latents", "finest")
  x_BHWC, memory = sample_remembering(
    denoise,
    plan,
    draw_noise(keys_B, backbone.latent_shape),
    keys_B,
    memory={}
    if sets.is_rigid
    else {"map_BRR": map_BRR, "steps": jnp.zeros(())},
    change=change if is_warped else None,
  )
  return x_BHWC, sets.mask(memory)


TEACHER = Teacher(
  paper="https://arxiv.org/abs/2502.01720",
  declare=declare,
  trainable=NOTHING,
  loss=None,
  sample=sample,
  together=True,
  asks=asks,
  weights=weights,
  masks=True,
)
