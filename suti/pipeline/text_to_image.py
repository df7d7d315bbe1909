# SPDX-License-Identifier: Apache-2.0
"""Text-to-image sampling with published weights: Stable Diffusion, SDXL, IF.

A folder in the published layout is a stage: a U-Net, its sampler, and for
latents an autoencoder. A cascade is a text-to-image stage, then
super-resolution stages: DeepFloyd IF goes from 64 px to 256 px (Saharia et al.
2022, section 2.4). A latent model is a cascade of one stage. Steps, guidance
weights and the order of SDXL's time ids (Podell et al. 2023, section 2.2) are
as published.

For subject-driven generation see `apprentice.generate`.

Shape legend: `B` pictures, `H` `W` `C` picture or latent.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.config.samplers import PUBLISHED
from suti.diffusion import samplers
from suti.diffusion.cascade import augment, upscale
from suti.diffusion.guidance import (
  classifier_free,
  classifier_free_of_mean,
  guided,
)
from suti.diffusion.plan import Plan
from suti.diffusion.schedule import make_schedule
from suti.diffusion.scheduler_config import from_config
from suti.hf.model import Change, Model, open_model
from suti.hf.model_index import read_index
from suti.io.files import read_object
from suti.nn.param import Module, functional
from suti.pipeline.backbone import check_latents, check_parts, own_size
from suti.pipeline.codec import Codec, open_codec
from suti.pipeline.conditioning import (
  apply_denoiser,
  check_text,
  make_conditioning,
  null_is_zeros,
  takes_sizes,
  whole_pictures,
)
from suti.pipeline.depth_input import as_input
from suti.pipeline.text_encoders import EncodeText, Text

# Noise level of the small picture, a step of its own schedule: the published
# pipeline's value.
NOISE_LEVEL = 250
_AUGMENTATION = 1  # a stream of noise beside the sampler's, which is 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CascadeStage:
  """One net of a cascade.

  Attributes:
    folder: that it was read from.
    unet: the net, declared, with its arrays.
    codec: between pictures and what it denoises.
    scheduler: the published scheduler config.
    noising: that of the small picture's noise; None in a first stage.
    sees_depth: whether it is shown a depth beside its input.
    size_px: side of its pictures.
    zero_null: whether its null text is zeros and not an empty text (SDXL).
    steps, guidance: the defaults of its publisher's pipeline.
    advance: the compiled sampler, see `_make_sampler`.
  """

  folder: Path
  unet: Model
  codec: Codec
  scheduler: Mapping[str, Any]
  noising: Mapping[str, Any] | None
  sees_depth: bool
  size_px: int
  zero_null: bool
  steps: int
  guidance: float
  advance: Callable[..., jax.Array]


def open_cascade_stage(
  folder: Path,
  *,
  dtype: Any = jnp.float32,
  change: Change | None = None,
) -> CascadeStage:
  """Opens one net of a cascade.

  Args:
    folder: in the published layout.
    dtype: of the U-Net's arrays; the compute follows it.
    change: applied to the U-Net's arrays, such as merging a LoRA.

  Raises:
    ValueError: a part is missing or does not fit; or the net is for another
      task, such as inpainting.
  """
  check_parts(folder, texts=False)
  index = read_index(folder)
  codec = open_codec(folder, patch=index.get("patch_size", 1))
  unet = open_model(
    folder / "unet",
    expected=("UNet2DConditionModel",),
    dtype=dtype,
    change=change,
  )
  config = unet.config
  noising = folder / "image_noising_scheduler" / "scheduler_config.json"
  enlarges = noising.is_file()
  channels = int(config.get("in_channels", 4))
  check_latents(folder, channels, codec)
  # As Stable Diffusion 2's net for depth has them: the latents, and one more.
  sees_depth = not enlarges and channels == codec.channels + 1
  if channels != codec.channels * (1 + enlarges) and not sees_depth:
    raise ValueError(
      f"{folder / 'unet'} has in_channels={channels}, for pictures or latents "
      f"of {codec.channels}: nets of inpainting or editing need more inputs "
      "than a text or a depth; give a text-to-image model."
    )
  latent = not codec.bounded
  return CascadeStage(
    folder=folder,
    unet=unet,
    codec=codec,
    scheduler=_read_scheduler(folder, latent=latent),
    noising=read_object(noising) if enlarges else None,
    sees_depth=sees_depth,
    size_px=own_size(unet, codec),
    zero_null=null_is_zeros(folder),
    steps=50 if latent or enlarges else 100,
    guidance=5.0
    if takes_sizes(config)
    else 7.5
    if latent
    else 4.0
    if enlarges
    else 7.0,
    advance=_make_sampler(
      unet.apply,
      predicts_variance=config.get("out_channels", 4) == 2 * codec.channels,
    ),
  )


def _read_scheduler(folder, *, latent):
  """The published config, with the corrections of its publisher's pipeline."""
  config = read_object(folder / "scheduler" / "scheduler_config.json")
  if latent:
    config.setdefault("clip_sample", False)  # latents have no range
  if read_index(folder).get("_class_name") == "StableDiffusionPipeline":
    # Whatever the file has.
    config |= {"steps_offset": 1, "clip_sample": False}
  return config


def with_adapter(stage: CascadeStage, unet: Module) -> CascadeStage:
  """The stage with its U-Net after surgery that added no parameter.

  Args:
    stage: opened.
    unet: made of `stage.unet.module`.
  """
  spec, apply = functional(unet)
  model = dataclasses.replace(stage.unet, module=unet, spec=spec, apply=apply)
  # The second half of what is predicted is a variance in pixel models alone.
  variance = stage.unet.config.get("out_channels", 4) == (
    2 * stage.codec.channels
  )
  return dataclasses.replace(
    stage,
    unet=model,
    advance=_make_sampler(apply, predicts_variance=variance),
  )


def encode_prompts(
  encode: EncodeText,
  prompts: Sequence[str],
  *,
  negative: str | None = None,
  zero_null: bool = False,
) -> tuple[Text, Text]:
  """The conditioning of prompts, and of the null text.

  Args:
    encode: of `suti.pipeline.text_encoders.open_text_encoders`.
    prompts: one a picture.
    negative: the negative prompt; None is the model's null text.
    zero_null: see `CascadeStage`.

  Returns: both, with a row per prompt.
  """
  prompts = list(prompts)
  if negative is None and zero_null:
    text = encode(prompts)
    return text, jax.tree.map(np.zeros_like, text)
  # In one batch: an encoder that takes two rows a call is called once.
  both = encode([*prompts, *[negative or ""] * len(prompts)])
  text = jax.tree.map(lambda x: x[: len(prompts)], both)
  return text, jax.tree.map(lambda x: x[len(prompts) :], both)


def draw(
  stage: CascadeStage,
  text: Text,
  null: Text,
  *,
  seeds: Sequence[int],
  size: tuple[int, int] | None = None,
  steps: int | None = None,
  guidance: float | None = None,
  sampler: str | None = None,
  small_pm1: np.ndarray | jax.Array | None = None,
  contexts: tuple[Any, Any] | None = None,
  near_HW: np.ndarray | None = None,
  watch: Callable[[Sequence[Plan]], Iterable[Plan]] | None = None,
) -> jax.Array:
  """Samples images: one scan over the steps, compiled once per shape.

  Args:
    stage: the net.
    text, null: of `encode_prompts`.
    seeds: one per image, which determines its noise whatever the rest of the
      batch is.
    size: height and width in px; None is the model's own.
    steps: of the sampler; None is the publisher's number.
    guidance: weight of the text; up to 1 there is none, as published, so that
      the 0 of a distilled model's card works; None is the publisher's.
    sampler: a key of `PUBLISHED`; None is the model's own.
    small_pm1: (B, h, w, 3), the input of a super-resolution stage.
    contexts: what the adapters of `with_adapter` are given beside the text and
      the null text, with a row per image.
    near_HW: how near everything is, in any unit, for a net that sees depth.
    watch: wraps the iterable of pieces of work, to show progress; None is one
      piece.

  Returns:
    (B, H, W, 3), about [-1, 1].

  Raises:
    ValueError: an argument does not fit the model.
  """
  size = _check(stage, size=size, small=small_pm1 is not None)
  _check_depth(stage, near_HW)
  check_text(stage.folder, stage.unet.config, stage.unet.spec, text)
  plan = from_config(
    choose_sampler(stage.scheduler, sampler), num_steps=steps or stage.steps
  )
  keys_B = samplers.row_keys(jax.random.key(0), np.asarray(seeds))
  patch, channels = stage.codec.patch, stage.codec.channels
  shape = (size[0] // patch, size[1] // patch, channels)
  noise_BHWC = samplers.draw_noise(keys_B, shape)
  beside = _beside(stage, small_pm1, keys_B, size=size)
  if near_HW is not None:
    depth_HW1 = jnp.asarray(as_input(near_HW, shape[:2]))
    beside["beside_BHWC"] = jnp.stack([depth_HW1] * len(keys_B))
  conditions = [_condition(stage, x, size=size) | beside for x in (text, null)]
  for conditioning, context in zip(conditions, contexts or (), strict=False):
    conditioning["context"] = context
  guidance = stage.guidance if guidance is None else guidance
  if guidance <= 1:
    conditions.pop()
  slots = samplers.start(plan, noise_BHWC)
  for piece in watch(plan.pieces()) if watch else [plan]:
    slots = stage.advance(
      stage.unet.params, piece, slots, keys_B, conditions, guidance
    )
    if watch:  # so that it counts finished work, not dispatched work
      jax.block_until_ready(slots)
  return stage.codec.decode(stage.codec.params, slots[0])


def choose_sampler(
  scheduler: Mapping[str, Any], name: str | None
) -> Mapping[str, Any]:
  """The same process with another sampler.

  Args:
    scheduler: published scheduler config.
    name: a key of `PUBLISHED`; None leaves the config's own.

  Raises:
    ValueError: no such sampler, or the config's own is not supported.
  """
  if name is None:
    own = scheduler.get("_class_name")
    if own not in PUBLISHED.values():
      raise ValueError(
        f"The model's own sampler is {own!r}, which is not known here: "
        f"give --sampler (sampler=), one of {', '.join(PUBLISHED)}."
      )
    return scheduler
  if name not in PUBLISHED:
    raise ValueError(
      f"sampler={name!r} is unknown: use one of {', '.join(PUBLISHED)}."
    )
  return dict(scheduler) | {"_class_name": PUBLISHED[name]}


def _make_sampler(apply, *, predicts_variance):
  """The steps of a plan, compiled: weights and the plan are arguments."""
  guide = classifier_free_of_mean if predicts_variance else classifier_free

  @jax.jit
  def advance(params, plan, slots, keys_B, conditions, guidance):
    def denoise(x_BHWC, t_B, conditioning):
      conditioning = dict(conditioning)
      if "beside_BHWC" in conditioning:
        beside_BHWC = conditioning.pop("beside_BHWC")
        x_BHWC = jnp.concatenate([x_BHWC, beside_BHWC], axis=-1)
      return apply_denoiser(apply, params, x_BHWC, t_B, conditioning)

    def combine(conditioning, null=None):
      return (
        conditioning if null is None else guide(conditioning, null, guidance)
      )

    return samplers.advance(
      guided(denoise, *conditions, combine=combine), plan, slots, keys_B
    )

  return advance


def _check(stage, *, size, small):
  """The size in px, after checking the arguments."""
  if small != (stage.noising is not None):
    raise ValueError(
      f"{stage.folder} "
      + ("takes a text alone" if small else "enlarges a picture")
      + ": a cascade is a text-to-image model, then models that enlarge."
    )
  height, width = size or (stage.size_px, stage.size_px)
  patch = stage.codec.patch
  if height % patch or width % patch or min(height, width) < patch:
    raise ValueError(
      f"size={width}x{height} is not of whole positions of {patch} px: use "
      f"multiples of {patch}."
    )
  return height, width


def _check_depth(stage: CascadeStage, near_HW: np.ndarray | None) -> None:
  """Refuses a depth for a net that sees none, and the reverse."""
  if stage.sees_depth and near_HW is None:
    raise ValueError(
      f"{stage.folder / 'unet'} has an input more than its latents have "
      "channels, for a depth: give --depth (near_HW=), a picture in which near "
      "is bright."
    )
  if near_HW is not None and not stage.sees_depth:
    raise ValueError(
      f"--depth (near_HW=): {stage.folder / 'unet'} sees no depth beside its "
      "input: leave it out, or give a model such as Stable Diffusion 2's for "
      "depth."
    )


def _condition(stage, text, *, size):
  """The conditioning of texts, with the time ids of their pictures."""
  num = len(text.states_BLD)
  height_px, width_px = size
  time_ids_BI = whole_pictures(num, height_px=height_px, width_px=width_px)
  conditioning = make_conditioning(
    stage.unet.config, text, time_ids_BI=time_ids_BI
  )
  if stage.noising is not None:
    conditioning["class_labels_B"] = np.full((num,), NOISE_LEVEL, np.int32)
  return jax.tree.map(jnp.asarray, conditioning)


def _beside(stage, small_pm1, keys_B, *, size):
  """The small picture as the net's input; empty in a first stage."""
  if small_pm1 is None:
    return {}
  small_BHWC = upscale(
    jnp.asarray(small_pm1, jnp.float32), height_px=size[0], width_px=size[1]
  )
  keys_B = jax.vmap(lambda key: jax.random.fold_in(key, _AUGMENTATION))(keys_B)
  return {
    "beside_BHWC": augment(
      make_schedule(stage.noising),
      small_BHWC,
      samplers.draw_noise(keys_B, small_BHWC.shape[1:]),
      level=NOISE_LEVEL,
    )
  }
