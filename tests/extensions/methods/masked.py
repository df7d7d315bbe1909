# SPDX-License-Identifier: Apache-2.0
"""A method with two nets, an encoder, losses of its own and a mask as input.

It is no published method: it has every part that one may have. Demonstrations
are the features of a frozen encoder; a second net turns them into a token that
new layers add to every position. The mask says where, behind the U-Net's input.
"""

import jax
import jax.numpy as jnp

from apprentice.method import (
  DEMONSTRATION_MASK,
  IMAGE,
  TEXT,
  Encoder,
  Field,
  Method,
)
from suti.diffusion.objective import denoising_loss
from suti.nn.layers import Linear
from suti.nn.param import ZEROS, Module
from suti.nn.surgery import adapter, widen
from suti.pipeline.conditioning import apply_denoiser

# B batch, K demonstrations, H W C latent, S positions, D width.

WIDTH = 8


class Hint(Module):
  """Adds a token to every position; nothing before it is trained."""

  def __init__(self, dim):
    self.to_out = Linear(WIDTH, dim, bias=False, init=ZEROS)

  def __call__(self, x_BSD, context):
    return self.to_out(context["token_BD"])[:, None]


def declare(backbone, config):
  """The U-Net with hints and a wider input, and the net of the token."""
  net = adapter(
    backbone.unet, config.sites, lambda path, block: Hint(block.dim)
  )
  return {
    "": widen(net, "conv_in", 1),
    "token": Linear(config.encoder_width, WIDTH),
  }


def fields(config):
  """A target, its text and its mask; what the encoder sees of the subject."""
  del config
  return (
    IMAGE,
    TEXT,
    DEMONSTRATION_MASK,
    Field(name="demonstration_eyes", source="demonstrations", made="eye"),
    Field(name="mask", source="mask", made="plane", absent=1.0),
  )


def encoders(config):
  """The class token of an identity encoder."""
  return {
    "eye": Encoder(
      folder=config.encoder, output=lambda apply, p, x: apply(p, x)[:, 0]
    )
  }


def encode(apply, params, batch):
  """The token, a mean over demonstrations, and the mask."""
  shown_BK1 = batch["demonstration_mask"][..., None].astype(jnp.float32)
  token_BKD = apply(params, batch["demonstration_eyes"], net="token")
  total_B1 = jnp.maximum(shown_BK1.sum(1), 1.0)
  return {
    "token_BD": (token_BKD * shown_BK1).sum(1) / total_B1,
    "mask_BHW": batch["mask"],
  }


def refresh(apply, params, context, t_B, keys_B):
  """The token fades as the noise goes, and trembles a little."""
  del apply, params
  token_BD = context["token_BD"]
  noise_BD = jax.vmap(lambda key: jax.random.normal(key, token_BD.shape[1:]))(
    keys_B
  )
  share_B1 = (t_B.astype(jnp.float32) / 1000.0)[:, None]
  token_BD = share_B1 * token_BD + 1e-3 * noise_BD
  return context | {"token_BD": token_BD.astype(context["token_BD"].dtype)}


def denoise(apply, params, x_BHWC, t_B, text, context):
  """One prediction; without context that of the base, which sees no mask."""
  if context is not None:
    mask_BHW1 = context["mask_BHW"].astype(x_BHWC.dtype)[..., None]
    mask_BHW1 = jax.image.resize(
      mask_BHW1, (*x_BHWC.shape[:3], 1), "linear", antialias=True
    )
    x_BHWC = jnp.concatenate([x_BHWC, mask_BHW1], -1)
  return apply_denoiser(apply, params, x_BHWC, t_B, text, context=context)


def loss(apply, backbone, params, batch, key, config):
  """A main loss of its own: of one denoising, whatever the weighting says."""
  del config
  context = encode(apply, params, batch)
  return denoising_loss(
    backbone.schedule,
    lambda x_BHWC, t_B: denoise(
      apply, params, x_BHWC, t_B, batch["text"], context
    ),
    batch["image"],
    key,
  ).mean()


def losses(apply, params, batch, context):
  """Tokens are kept small."""
  del apply, params, batch
  return {"token": 0.01 * jnp.square(context["token_BD"]).mean()}


def without_mask(batch, gone_B):
  """Everywhere is inside the mask."""
  return batch | {"mask": batch["mask"] | gone_B[:, None, None]}


METHOD = Method(
  paper="https://arxiv.org/abs/2307.11410",  # whose kind it is
  declare=declare,
  trainable=r".",
  fields=fields,
  encode=encode,
  denoise=denoise,
  encoders=encoders,
  refresh=refresh,
  hide={"mask": without_mask},
  loss=loss,
  losses=losses,
)
