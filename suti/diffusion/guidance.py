# SPDX-License-Identifier: Apache-2.0
"""Guidance: how predictions under several conditions become one.

Classifier-free guidance (Ho and Salimans, arXiv 2207.12598), its form for two
conditions (Brooks et al., arXiv 2211.09800, eq. 3), and the dynamic
thresholding that large weights need in pixel space (Imagen, arXiv 2205.11487,
section 2.3). All are linear in the prediction or act on x_0, so they hold for
eps, v and x_0 alike. When to guide, and with what weight, is a config's choice.

Shape legend: `B` batch, `H` `W` `C` picture or latent.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def classifier_free(
  conditional_BHWC: Array, unconditional_BHWC: Array, scale: float | Array
) -> Array:
  """Moves a prediction away from the unconditional one.

  Args:
    conditional_BHWC: prediction with text (and subject).
    unconditional_BHWC: prediction without.
    scale: weight; 1 gives the conditional prediction, 0 the unconditional.

  Returns:
    The guided prediction.
  """
  return unconditional_BHWC + scale * (conditional_BHWC - unconditional_BHWC)


def classifier_free_of_mean(
  conditional_BHWC: Array, unconditional_BHWC: Array, scale: float | Array
) -> Array:
  """Guides nets whose second half of channels is a variance (DeepFloyd IF).

  Args:
    conditional_BHWC: prediction with text, twice the picture's channels.
    unconditional_BHWC: prediction without.
    scale: weight, as in `classifier_free`.

  Returns:
    The guided prediction, beside the variance predicted with text.
  """
  with_text_BHWC, variance_BHWC = jnp.split(conditional_BHWC, 2, axis=-1)
  without_BHWC, _ = jnp.split(unconditional_BHWC, 2, axis=-1)
  guided_BHWC = classifier_free(with_text_BHWC, without_BHWC, scale)
  return jnp.concatenate([guided_BHWC, variance_BHWC], axis=-1)


def two_conditions(
  both_BHWC: Array,
  subject_BHWC: Array,
  neither_BHWC: Array,
  *,
  text_scale: float | Array,
  subject_scale: float | Array,
) -> Array:
  """Guides by subject and by text with a weight each.

  Args:
    both_BHWC: prediction with text and subject.
    subject_BHWC: prediction with the subject alone.
    neither_BHWC: prediction with neither.
    text_scale: weight of the text, given the subject.
    subject_scale: weight of the subject.

  Returns:
    The guided prediction; equal weights give `classifier_free` of both and
    neither.
  """
  return (
    neither_BHWC
    + subject_scale * (subject_BHWC - neither_BHWC)
    + text_scale * (both_BHWC - subject_BHWC)
  )


def guided(
  denoise: Callable[[Array, Array, Any], Array],
  *conditions: Any,
  combine: Callable[..., Array],
) -> Callable[[Array, Array], Array]:
  """Makes a denoiser that applies the net once to all conditions.

  Example: text against null text, with weight 7.

    denoise = guided(
      lambda x, t, text: apply(params, x, t, text), text_BLD, null_BLD,
      combine=lambda with_text, without: classifier_free(with_text, without, 7))

  Args:
    denoise: (x, t, condition) -> prediction, for any number of rows.
    *conditions: trees of arrays, alike in structure, each with `B` rows.
    combine: takes the prediction under each condition, in their order.

  Returns:
    (x_BHWC, t_B) -> guided prediction. The net sees one batch of as many times
    `B` rows as there are conditions.
  """
  count = len(conditions)
  stacked = jax.tree.map(lambda *rows: jnp.concatenate(rows), *conditions)

  def denoise_guided(x_BHWC: Array, t_B: Array) -> Array:
    prediction = denoise(
      jnp.concatenate([x_BHWC] * count), jnp.concatenate([t_B] * count), stacked
    )
    return combine(*jnp.split(prediction, count))

  return denoise_guided


def dynamic_threshold(
  x0_BHWC: Array, percentile: float, *, max_value: float = math.inf
) -> Array:
  """Pulls saturated pictures back into [-1, 1] (Imagen's dynamic threshold).

  Args:
    x0_BHWC: estimates of clean pictures, meant to be in [-1, 1], float32.
    percentile: of the absolute values of a picture, in percent, (1, 100];
      Imagen's papers and code take 99.5.
    max_value: what is divided by at most; DeepFloyd IF has 1.5.

  Returns:
    Each picture clipped to its own [-s, s] and divided by s, where s is that
    percentile but at least 1 and at most `max_value`.
  """
  if not 1 < percentile <= 100:
    raise ValueError(
      f"percentile={percentile} must be above 1 and at most 100: it is given"
      " in percent, such as 99.5."
    )
  flat_BX = jnp.abs(x0_BHWC).reshape(len(x0_BHWC), -1)
  s_B = jnp.percentile(flat_BX, percentile, axis=1)
  s_B = jnp.clip(s_B, 1.0, max_value)
  s_B111 = s_B.reshape((-1,) + (1,) * (x0_BHWC.ndim - 1))
  return jnp.clip(x0_BHWC, -s_B111, s_B111) / s_B111
