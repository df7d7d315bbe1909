# SPDX-License-Identifier: Apache-2.0
"""The input arrays of a method, made as its fields say.

Training and sampling build their batches from them, so that both preprocess
inputs the same way. Datasets are opened by `apprentice.data`, not here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apprentice.encoders import Opened
from apprentice.method import STANDARD, Field
from suti.diffusion.guidance_modes import SUBJECT
from suti.images import square_crop_resize, square_crop_resize_plane, to_pm1

# B batch, K demonstrations, H W C image.

EncodeText = Callable[[Sequence[str]], Mapping[str, np.ndarray]]
# A picture, uint8 of any size or a latent; or, of a method with encoders, what
# is made of it: {"latent": a picture, NAME of an encoder: its features}.
Picture = np.ndarray | Mapping[str, np.ndarray]


def make_fields(
  *,
  image: Picture | None,
  prompt: str,
  demonstrations: Sequence[Picture],
  captions: Sequence[str],
  num_demonstrations: int,
  encode_text: EncodeText,
  size_px: int,
  fields: Sequence[Field] = STANDARD,
  encoders: Mapping[str, Opened] | None = None,
  planes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """The arrays of an example; training and sampling share them.

  Args:
    image: the target; None when sampling.
    prompt: its text.
    demonstrations: at most `num_demonstrations` pictures.
    captions: their texts.
    num_demonstrations: K.
    encode_text: texts -> their conditioning, see
      `suti.pipeline.conditioning`.
    size_px: side of the images.
    fields: what to make; without a target, what is made of one is left out.
    encoders: of the method, for the shapes of what is not there.
    planes: `mask` and `depth` of the target and `demonstration_masks`, those
      that there are; cropped as their pictures are.

  Returns: an array for each field, or a text's dict of arrays. Those of
    demonstrations lead with K.

  Raises:
    ValueError: a field is made of a plane that is not there.
  """
  missing = num_demonstrations - len(demonstrations)
  assert missing >= 0, (num_demonstrations, len(demonstrations))
  planes = planes or {}
  conditioning = encode_text([prompt, *captions, *[""] * missing])

  def see(picture: Picture | None, made: str) -> np.ndarray:
    assert picture is not None, "fields of a target are left out without one"
    if isinstance(picture, Mapping):
      picture = picture[made]
    return fit(picture, size_px) if made == "latent" else picture

  def blank(made: str) -> np.ndarray:
    if made != "latent":
      return np.zeros((encoders or {})[made].shape, np.float16)
    if pictures := [*([] if image is None else [image]), *demonstrations]:
      return np.zeros_like(see(pictures[0], made))
    return np.zeros((size_px, size_px, 3), np.uint8)

  def make(field: Field) -> Any:
    if field.made == "text":
      rows = 0 if field.source == "prompt" else slice(1, None)
      return {name: x[rows] for name, x in conditioning.items()}
    if field.made == "exists":
      return np.arange(num_demonstrations) < len(demonstrations)
    if field.made == "plane":
      return _plane(field, planes, num=num_demonstrations, size_px=size_px)
    if field.source == "image":
      return see(image, field.made)
    empty = blank(field.made)
    seen = [see(picture, field.made) for picture in demonstrations]
    return np.asarray([*seen, *[empty] * missing], empty.dtype).reshape(
      num_demonstrations, *empty.shape
    )

  return {
    field.name: make(field)
    for field in fields
    if image is not None or field.source != "image"
  }


def _plane(
  field: Field, planes: Mapping[str, Any], *, num: int, size_px: int
) -> np.ndarray:
  """A mask or a depth, (H, W) or (K, H, W), float16 or bool."""
  given = planes.get(field.source)
  is_each = field.source == "demonstration_masks"
  if given is None or (is_each and not len(given)):
    if field.absent is None:
      raise ValueError(
        f"The method needs {field.name}, and an example or a request has no "
        f"{field.source}: label the pictures, config.label.source."
      )
    dtype = np.float16 if field.source == "depth" else np.bool_
    shape = (num, size_px, size_px) if is_each else (size_px, size_px)
    return np.full(shape, field.absent, dtype)
  if not is_each:
    return square_crop_resize_plane(given, size_px)
  fitted = np.zeros((num, size_px, size_px), bool)
  for index, mask_HW in enumerate(given[:num]):
    fitted[index] = square_crop_resize_plane(mask_HW, size_px)
  return fitted


def to_latents(
  backbone: Any,
  vae_params: Mapping[str, jax.Array],
  batch: Mapping[str, Any],
  *,
  dtype: Any,
  fields: Sequence[Field] = STANDARD,
) -> dict[str, Any]:
  """Encodes the pictures of a batch, uint8, to what the U-Net denoises.

  Those are the fields made "latent", and no other. Latents and features that
  were encoded before, float16, are cast to `dtype`.
  """
  latents = {field.name for field in fields if field.made == "latent"}

  def convert(name: str, array: Any) -> Any:
    if isinstance(array, Mapping):
      return {key: convert(name, x) for key, x in array.items()}  # a text
    if array.dtype == np.float16:
      return array.astype(dtype)
    if name not in latents or array.dtype != np.uint8:
      return array
    *lead, height, width, channels = array.shape
    image_pm1_BHWC = to_pm1(array.reshape(-1, height, width, channels))
    x_BHWC = backbone.codec.encode(vae_params, image_pm1_BHWC.astype(dtype))
    return x_BHWC.reshape(*lead, *x_BHWC.shape[1:])

  return {name: convert(name, array) for name, array in batch.items()}


def drop(
  batch: Mapping[str, Any],
  key: jax.Array,
  *,
  null_text: Any,
  config: Any,
  hide: Mapping[str, Callable[..., Any]] | None = None,
  fields: Sequence[Field] = STANDARD,
) -> dict[str, Any]:
  """Drops text, demonstrations and a method's own conditions of some examples.

  Of a share of examples both together, of the others independently: joint
  guidance extrapolates from the null of both, which independent shares of 10%
  would train on 1% of the rows. All four combinations occur, so that any
  guidance can be used later. With `exclusive_dropout` no other examples lack
  both. Of the examples that keep their demonstrations, each keeps a random
  number of them.

  Args:
    batch: text, and demonstration_mask (B, K) if the method has
      demonstrations.
    key: of this step.
    null_text: conditioning of the null text, one row.
    config: joint_dropout, text_dropout, demonstration_dropout,
      exclusive_dropout; min_demonstrations (1, or K to always show all, as the
      paper does); condition_dropout, of the method's own.
    hide: the method's own conditions, see `apprentice.method.Method`.
    fields: of the method.

  Returns: the batch with texts and masks replaced.
  """
  text_key, subject_key, number_key, both_key, own_key = jax.random.split(
    key, 5
  )
  (num,) = {len(x) for x in jax.tree.leaves(batch["text"])}
  if config.exclusive_dropout:
    u_B = jax.random.uniform(both_key, (num,))
    both_B = u_B < config.joint_dropout
    below_text = config.joint_dropout + config.text_dropout
    text_gone_B = u_B < below_text
    no_text_B = u_B >= below_text
    below_both = below_text + config.demonstration_dropout
    subject_gone_B = both_B | (no_text_B & (u_B < below_both))
  else:
    both_B = jax.random.bernoulli(both_key, config.joint_dropout, (num,))
    text_gone_B, subject_gone_B = (
      both_B | jax.random.bernoulli(each_key, share, (num,))
      for each_key, share in (
        (text_key, config.text_dropout),
        (subject_key, config.demonstration_dropout),
      )
    )
  batch = without_text(batch, text_gone_B, null_text=null_text, fields=fields)
  if "demonstration_mask" in batch:
    most = batch["demonstration_mask"].shape[1]
    shown_B = jax.random.randint(
      number_key, (num,), config.min_demonstrations, most + 1
    )
    shown_B = jnp.where(subject_gone_B, 0, shown_B)
    batch["demonstration_mask"] &= jnp.arange(most) < shown_B[:, None]
  own = {name: each for name, each in (hide or {}).items() if name != SUBJECT}
  for number, (_, without) in enumerate(sorted(own.items())):
    each_key = jax.random.fold_in(own_key, number)
    gone_B = jax.random.bernoulli(each_key, config.condition_dropout, (num,))
    batch = dict(without(batch, gone_B))
  return batch


def without_text(
  batch: Mapping[str, Any],
  gone_B: Any,
  *,
  null_text: Any,
  fields: Sequence[Field],
) -> dict[str, Any]:
  """The null text in the place of the prompts of these rows.

  And of what else the method sees with the prompt (`Field.with_text`).
  """

  def blank(null, x_B):
    return jnp.where(
      gone_B.reshape(-1, *[1] * (x_B.ndim - 1)),
      jnp.expand_dims(null, tuple(range(1, 1 + x_B.ndim - null.ndim))),
      x_B,
    )

  names = ["text", *(field.name for field in fields if field.with_text)]
  return {**batch} | {
    name: jax.tree.map(blank, dict(null_text), dict(batch[name]))
    for name in names
  }


def mirrored(picture: np.ndarray) -> np.ndarray:
  """The mirror image of a picture, or of a mask."""
  return np.ascontiguousarray(picture[:, ::-1])


def fit(image: np.ndarray, size_px: int) -> np.ndarray:
  """Resizes a picture to the model's size; latents have that size already."""
  if image.dtype != np.uint8 or image.shape == (size_px, size_px, 3):
    return image
  return square_crop_resize(image, size_px)
