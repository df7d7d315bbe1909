# SPDX-License-Identifier: Apache-2.0
"""A teacher that tunes nothing and samples three images in each other's sight.

It is no published method: it has every part that one may have. A second net of
its own, of random weights, changes the tone; images of a group are pulled to
their mean, and to the mean of the subject's pictures.
"""

import jax.numpy as jnp

from experts.teacher import NOTHING, Teacher, guided_sample
from suti.nn.layers import Conv2d

# B rows, G groups of T, K pictures, H W C latent.


def declare(backbone, config):
  """The base, and a net of one convolution."""
  del config
  channels = backbone.latent_shape[-1]
  return {"": backbone.unet, "tone": Conv2d(channels, channels, 1)}


def sample(apply, backbone, params, request, keys_B, config):
  """Guided samples of rows that see their group and the subject's pictures."""
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
  return 0.8 * x_BHWC + 0.2 * mean_HWC


TEACHER = Teacher(
  paper="https://arxiv.org/abs/2502.01720",  # whose kind it is
  declare=declare,
  trainable=NOTHING,
  loss=None,
  sample=sample,
  together=True,
  asks=("pictures",),
)
