# SPDX-License-Identifier: Apache-2.0
"""The text-conditioned U-Net, built from a published `UNet2DConditionModel`.

Rombach et al. 2022, "High-resolution image synthesis with latent diffusion
models", sections 3.2 and 3.3: Stable Diffusion 1, 2, XL, its inpainting and
upscaling nets. Saharia et al. 2022, "Photorealistic text-to-image diffusion
models with deep language understanding", section 2.4: DeepFloyd IF, which has
pixels and T5 instead of latents and CLIP. Attribute paths are the names in
the published file. Noise schedules and guidance are not here.

Shape suffixes: B batch, H W height and width, C channels, L text tokens, I
numbers of a row, D width.
"""

from collections.abc import Mapping
from typing import Any

import jax

from suti.models.unet_blocks import DownBlock, MidBlock, UpBlock
from suti.models.unet_config import complete, make_levels
from suti.models.unet_embeddings import (
  Added,
  SizeEmbedding,
  TextEmbedding,
  TimeEmbedding,
)
from suti.models.unet_layers import SMALL, Condition
from suti.nn.layers import ACTIVATIONS, Conv2d, Embed, GroupNorm, Linear
from suti.nn.param import Module, ModuleList


def declare_unet(config: Mapping[str, Any]) -> "UNet":
  """Declares a U-Net from its published config.

  Args:
    config: as in unet/config.json; what is absent has the publisher's default.
      `attention_head_dim` is the number of heads in Stable Diffusion, despite
      its name, and the width of one in IF.

  Returns:
    A module without arrays, with the methods `__call__` and `encode`.

  Raises:
    ValueError: the config has a key or a value that is not supported; the
      message names all of them.
  """
  return UNet(complete(config))


class UNet(Module):
  """`conv_in`, `time_embedding`, `{down,mid,up}_block[s]`, `conv_out`.

  Where the config has them also `class_embedding`, `add_embedding` and
  `encoder_hid_proj`.
  """

  def __init__(self, config: Mapping[str, Any]):
    dims = list(config["block_out_channels"])
    last = len(dims) - 1
    self.center = config["center_input_sample"]
    self.act = config["act_fn"]
    self.time_act = config["time_embedding_act_fn"]
    downs, mid, ups = make_levels(config)
    # IF's blocks halve a side exactly, the others round it up.
    self.multiple = 2**last if any(x.simple for x in (*downs, *ups)) else 1

    self.conv_in = Conv2d(config["in_channels"], dims[0], 3)
    self.time_embedding = _time_embedding(config)
    self.class_embedding = _class_embedding(config)
    self.add_embedding = _add_embedding(config)
    self.encoder_hid_proj = (
      Linear(config["encoder_hid_dim"], config["cross_attention_dim"])
      if config["encoder_hid_dim"]
      else None
    )
    self.down_blocks = ModuleList(
      [
        DownBlock(level, d_in=dims[max(i - 1, 0)], downsample=i < last)
        for i, level in enumerate(downs)
      ]
    )
    self.mid_block = MidBlock(mid) if mid is not None else None
    # Skips are met in reverse: an up block has its level's own outputs and,
    # last, what the level was given.
    self.up_blocks = ModuleList(
      [
        UpBlock(
          level,
          d_in=dims[min(last - i + 1, last)],
          d_skips=[level.dim] * level.num_layers + [dims[max(last - i - 1, 0)]],
          upsample=i < last,
        )
        for i, level in enumerate(ups)
      ]
    )
    self.conv_norm_out = GroupNorm(
      config["norm_num_groups"], dims[0], eps=config["norm_eps"]
    )
    self.conv_out = Conv2d(dims[0], config["out_channels"], 3, init=SMALL)

  def __call__(
    self,
    x_BHWC: jax.Array,
    t_B: jax.Array,
    text_BLD: jax.Array,
    *,
    text_mask_BL: jax.Array | None = None,
    added: Added | None = None,
    context: Any = None,
  ) -> jax.Array:
    """Predicts noise, velocity or image, as the net was trained to.

    Args:
      x_BHWC: noisy images or latents. Behind them, in C, what the net is
        trained to see beside them: for inpainting the mask and the masked
        picture, for enlarging the small picture.
      t_B: steps of the noise schedule, integers or floats.
      text_BLD: states of the text encoder.
      text_mask_BL: which tokens are attended to, bool; None is all of them, as
        Stable Diffusion and IF have it. What IF pools and normalises of a text
        is always all of it.
      added: SDXL's pooled text and sizes, or a noise level: exactly what the
        net has parameters for.
      context: handed to adapters; None leaves them out.

    Returns:
      (B, H, W, out_channels) in the dtype of the parameters; IF's last half of
      the channels is the variance.

    Raises:
      ValueError: `added` or the size of `x_BHWC` is not what the net needs.
    """
    condition = self._condition(t_B, text_BLD, text_mask_BL, added, context)
    x_BHWC, skips, _ = self._descend(x_BHWC, condition)
    for block in self.up_blocks:
      x_BHWC = block(x_BHWC, skips, condition)
    return self.conv_out(ACTIVATIONS[self.act](self.conv_norm_out(x_BHWC)))

  def encode(
    self,
    x_BHWC: jax.Array,
    t_B: jax.Array,
    text_BLD: jax.Array,
    *,
    text_mask_BL: jax.Array | None = None,
    added: Added | None = None,
  ) -> dict[str, jax.Array]:
    """Runs the down path alone, for its features.

    Args:
      x_BHWC, t_B, text_BLD, text_mask_BL, added: as in a call.

    Returns:
      `{"down_blocks.0": h_BHWC, ..., "mid_block": h_BHWC}`: after the layers of
      each down block, before its downsampler, and after the middle, or where it
      would be.
    """
    condition = self._condition(t_B, text_BLD, text_mask_BL, added, None)
    return self._descend(x_BHWC, condition)[2]

  def _condition(self, t_B, text_BLD, text_mask_BL, added, context):
    time_BD = self._embed_time(t_B, text_BLD, added or Added())
    if self.encoder_hid_proj is not None:
      text_BLD = self.encoder_hid_proj(text_BLD)
    mask = None if text_mask_BL is None else text_mask_BL[:, None, None, :]
    return Condition(time_BD, text_BLD, mask, context)

  def _embed_time(self, t_B, text_BLD, added):
    """The time, and what the net adds to it."""
    self._check(added)
    time_BD = self.time_embedding(t_B)
    if self.class_embedding is not None:
      time_BD = time_BD + self.class_embedding(added.class_labels_B)
    if isinstance(self.add_embedding, TextEmbedding):
      time_BD = time_BD + self.add_embedding(text_BLD)
    elif self.add_embedding is not None:
      time_BD = time_BD + self.add_embedding(added.pooled_BD, added.time_ids_BI)
    return ACTIVATIONS[self.time_act](time_BD) if self.time_act else time_BD

  def _check(self, added):
    """Refuses what nothing reads, and the absence of what something does."""
    needed = []
    if isinstance(self.add_embedding, SizeEmbedding):
      needed += ["pooled_BD", "time_ids_BI"]
    if self.class_embedding is not None:
      needed += ["class_labels_B"]
    given = [name for name, v in added._asdict().items() if v is not None]
    if given != needed:
      raise ValueError(
        f"This U-Net needs added with {', '.join(needed) or 'nothing'}, not "
        f"{', '.join(given) or 'nothing'}: it is what its config's "
        "addition_embed_type, class_embed_type and num_class_embeds read."
      )

  def _descend(self, x_BHWC, condition):
    _, height, width, _ = x_BHWC.shape
    if height % self.multiple or width % self.multiple:
      raise ValueError(
        f"x_BHWC has {height}x{width} px: this U-Net needs multiples of "
        f"{self.multiple} px."
      )
    if self.center:
      x_BHWC = 2 * x_BHWC - 1
    x_BHWC = self.conv_in(x_BHWC)
    skips, features = [x_BHWC], {}
    for i, block in enumerate(self.down_blocks):
      outputs = block(x_BHWC, condition)
      features[f"down_blocks.{i}"] = outputs[len(block.resnets) - 1]
      skips += outputs
      x_BHWC = outputs[-1]
    if self.mid_block is not None:
      x_BHWC = self.mid_block(x_BHWC, condition)
    features["mid_block"] = x_BHWC
    return x_BHWC, skips, features


def _time_embedding(config):
  return TimeEmbedding(
    config["block_out_channels"][0],
    config["time_embedding_dim"],
    act=config["act_fn"],
    flip=config["flip_sin_to_cos"],
    shift=config["freq_shift"],
  )


def _class_embedding(config):
  if config["class_embed_type"] == "timestep":
    return _time_embedding(config)
  if config["num_class_embeds"]:
    return Embed(config["num_class_embeds"], config["time_embedding_dim"])
  return None


def _add_embedding(config):
  dim = config["time_embedding_dim"]
  if config["addition_embed_type"] == "text":
    return TextEmbedding(
      config["encoder_hid_dim"] or config["cross_attention_dim"],
      dim,
      num_heads=config["addition_embed_type_num_heads"],
    )
  if config["addition_embed_type"] == "text_time":
    return SizeEmbedding(
      config["projection_class_embeddings_input_dim"],
      dim,
      size_dim=config["addition_time_embed_dim"],
      flip=config["flip_sin_to_cos"],
      shift=config["freq_shift"],
    )
  return None
