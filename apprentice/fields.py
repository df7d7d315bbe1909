# SPDX-License-Identifier: Apache-2.0
"""The input arrays of a method: target, text and demonstrations.

Training and sampling build their batches from them, so that both preprocess
inputs the same way. Datasets are opened by `apprentice.data`, not here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from suti.images import square_crop_resize, to_pm1

# B batch, K demonstrations, H W C image.

EncodeText = Callable[[Sequence[str]], Mapping[str, np.ndarray]]


def make_fields(
  *,
  image: np.ndarray | None,
  prompt: str,
  demonstrations: Sequence[np.ndarray],
  captions: Sequence[str],
  num_demonstrations: int,
  encode_text: EncodeText,
  size_px: int,
) -> dict[str, Any]:
  """All arrays of an example; training and sampling share them.

  Args:
    image: the target; None when sampling.
    prompt: its text.
    demonstrations: at most `num_demonstrations` pictures, uint8 of any size, or
      latents like the target.
    captions: their texts.
    num_demonstrations: K.
    encode_text: texts -> their conditioning, see
      `suti.pipeline.conditioning`.
    size_px: side of the images.

  Returns: `image` (H, W, C) if there is one, `text`, `demonstrations` (K, H, W,
    C), `demonstration_mask` (K,) and `demonstration_text`, as `Method.fields`
    names them. Texts are dicts of arrays; those of demonstrations lead with
    K.
  """
  missing = num_demonstrations - len(demonstrations)
  assert missing >= 0, (num_demonstrations, len(demonstrations))
  conditioning = encode_text([prompt, *captions, *[""] * missing])
  target = [] if image is None else [fit(image, size_px)]
  pictures = [fit(x, size_px) for x in demonstrations]
  empty = np.zeros((size_px, size_px, 3), np.uint8)
  blank = np.zeros_like([*target, *pictures, empty][0])
  arrays = {
    "text": {name: x[0] for name, x in conditioning.items()},
    "demonstrations": np.asarray(
      [*pictures, *[blank] * missing], blank.dtype
    ).reshape(num_demonstrations, *blank.shape),
    "demonstration_mask": np.arange(num_demonstrations) < len(demonstrations),
    "demonstration_text": {name: x[1:] for name, x in conditioning.items()},
  }
  if target:
    arrays["image"] = target[0]
  return arrays


def pick(arrays: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
  """Selects the arrays that a method needs.

  Raises:
    ValueError: it needs one that no example has.
  """
  if unknown := sorted(set(fields) - set(arrays)):
    raise ValueError(
      f"The method needs {', '.join(unknown)}, which examples do not have: "
      f"they have {', '.join(sorted(arrays))}."
    )
  return {name: arrays[name] for name in fields}


def to_latents(
  backbone: Any,
  vae_params: Mapping[str, jax.Array],
  batch: Mapping[str, Any],
  *,
  dtype: Any,
) -> dict[str, Any]:
  """Encodes every picture of a batch, uint8, to what the U-Net denoises.

  Latents that were encoded before, float16, are cast to `dtype`.
  """

  def convert(array: jax.Array) -> jax.Array:
    if array.dtype == np.float16:
      return array.astype(dtype)
    if array.dtype != np.uint8:
      return array
    *lead, height, width, channels = array.shape
    image_pm1_BHWC = to_pm1(array.reshape(-1, height, width, channels))
    x_BHWC = backbone.codec.encode(vae_params, image_pm1_BHWC.astype(dtype))
    return x_BHWC.reshape(*lead, *x_BHWC.shape[1:])

  return jax.tree.map(convert, dict(batch))


def drop(
  batch: Mapping[str, Any], key: jax.Array, *, null_text: Any, config: Any
) -> dict[str, Any]:
  """Drops text and demonstrations of some examples.

  Of a share of examples both together, of the others independently: joint
  guidance extrapolates from the null of both, which independent shares of 10%
  would train on 1% of the rows. All four combinations occur, so that any
  guidance can be used later. Of the examples that keep their demonstrations,
  each keeps a random number of them.

  Args:
    batch: text, and demonstration_mask (B, K) if the method has
      demonstrations.
    key: of this step.
    null_text: conditioning of the null text, one row.
    config: joint_dropout, text_dropout, demonstration_dropout;
      min_demonstrations (1, or K to always show all, as the paper does).

  Returns: the batch with texts and masks replaced.
  """
  text_key, subject_key, number_key, both_key = jax.random.split(key, 4)
  (num,) = {len(x) for x in jax.tree.leaves(batch["text"])}
  both_B = jax.random.bernoulli(both_key, config.joint_dropout, (num,))
  gone_B = both_B | jax.random.bernoulli(text_key, config.text_dropout, (num,))

  def hide(null, x_B):
    return jnp.where(gone_B.reshape(num, *[1] * (x_B.ndim - 1)), null, x_B)

  batch = {**batch, "text": jax.tree.map(hide, null_text, batch["text"])}
  if "demonstration_mask" in batch:
    most = batch["demonstration_mask"].shape[1]
    shown_B = jax.random.randint(
      number_key, (num,), config.min_demonstrations, most + 1
    )
    gone_B = both_B | jax.random.bernoulli(
      subject_key, config.demonstration_dropout, (num,)
    )
    shown_B = jnp.where(gone_B, 0, shown_B)
    batch["demonstration_mask"] &= jnp.arange(most) < shown_B[:, None]
  return batch


def fit(image: np.ndarray, size_px: int) -> np.ndarray:
  """Resizes a picture to the model's size; latents have that size already."""
  if image.dtype != np.uint8 or image.shape == (size_px, size_px, 3):
    return image
  return square_crop_resize(image, size_px)
