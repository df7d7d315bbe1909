# SPDX-License-Identifier: Apache-2.0
"""A teacher that tunes nothing and samples three images in each other's sight.

It is no published method: it has every part that one may have. A second net of
its own, of random weights, changes the tone; images of a group are pulled to
their mean, and inside a view's mask to the mean of the subject's pictures.
"""

import jax
import jax.numpy as jnp

from experts.teacher import NOTHING, Teacher, guided_sample
from suti.nn.layers import Conv2d

# B rows, G groups of T, K pictures, H W C latent or H W of a mask.


def declare(backbone, config):
  """The base, and a net of one convolution."""
  del config
  channels = backbone.latent_shape[-1]
  return {"": backbone.unet, "tone": Conv2d(channels, channels, 1)}


def sample(apply, backbone, params, request, keys_B, config):
  """Guided samples of rows that see their group, pictures and a view's mask."""
  together = config.together

  def seeing(params, x_BHWC, t_B, **conditioning):
    y_BHWC = apply(params, x_BHWC, t_B, **conditioning)
    y_GTHWC = y_BHWC.reshape(-1, together, *y_BHWC.shape[1:])
    mean_G1HWC = y_GTHWC.mean(1, keepdims=True)
    return (0.5 * y_GTHWC + 0.5 * mean_G1HWC).reshape(y_BHWC.shape)

  x_BHWC = guided_sample(seeing, backbone, params, request, keys_B, config)
  x_BHWC = x_BHWC + 0.1 * apply(params, x_BHWC, net="tone")
  shown_K111 = request["pictures_K"][:, None, None, None]
  shown_K111 = shown_K111.astype(jnp.float32)
  mean_HWC = (request["pictures_KHWC"] * shown_K111).sum(0) / shown_K111.sum()
  masks_THW = request["masks_THW"].astype(jnp.float32)
  masks_BHW = jnp.tile(masks_THW, (len(x_BHWC) // together, 1, 1))
  share_BHWC = 0.1 + 0.1 * jax.image.resize(
    masks_BHW[..., None], (*x_BHWC.shape[:-1], 1), "linear"
  )
  x_BHWC = (1 - share_BHWC) * x_BHWC + share_BHWC * mean_HWC
  return x_BHWC, masks_BHW


TEACHER = Teacher(
  paper="https://arxiv.org/abs/2502.01720",  # whose kind it is
  declare=declare,
  trainable=NOTHING,
  loss=None,
  sample=sample,
  together=True,
  asks=("pictures", "masks"),
  masks=True,
)
