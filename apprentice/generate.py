# SPDX-License-Identifier: Apache-2.0
"""Subject-driven generation in context: sampling from an apprentice.

SuTI (arXiv 2304.00186), section 3.3 and Algorithm 1's last lines: 4
demonstrations, classifier-free guidance of weight 15, ancestral sampling. The
paper does not say what its null branch drops. Ours drops text and
demonstrations together ("joint"); "two" is the two-condition form of
InstructPix2Pix (arXiv 2211.09800, eq. 3), with a weight for each, at half more
arithmetic. Demonstrations are encoded once an image, not once a step.

`suti generate` and the stage `apprentice.sample` both sample with this file.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apprentice.fields import fit, make_fields, pick, to_latents
from apprentice.model import Apprentice
from suti.diffusion.guidance import classifier_free, two_conditions
from suti.diffusion.samplers import SAMPLERS, draw_noise, row_keys
from suti.images import to_u8

# B images of a batch, K demonstrations, H W C image or latent.


def make_sample_fn(
  apprentice: Apprentice, sampling: Mapping[str, Any]
) -> Callable[..., jax.Array]:
  """Makes the pure function that samples images; the caller jits it.

  Args:
    apprentice: its arrays are not used: the function takes them as an argument.
    sampling: num_steps, sampler, percentile, and guidance_mode ("joint" or
      "two").

  Returns:
    sample(params, vae_params, batch, null_text, seeds_B, guidance) ->
    image_pm1_BHWC. `batch` is `Method.fields` without the target, images uint8;
    `null_text` is the backbone's, one row; `guidance` is (text weight, subject
    weight), of which "joint" reads the second.
  """
  backbone, method = apprentice.backbone, apprentice.method
  sample = SAMPLERS[sampling["sampler"]]
  mode = sampling["guidance_mode"]

  def sample_images(params, vae_params, batch, null_text, seeds_B, guidance):
    num, text = seeds_B.shape[0], batch["text"]
    null = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (num, *x.shape[1:])), null_text
    )
    latents = to_latents(backbone, vae_params, batch, dtype=jnp.float32)
    context = method.encode(apprentice.apply, params, latents)

    def predict(x_BHWC, t_B, text, context):
      x_BHWC = method.denoise(
        apprentice.apply, params, x_BHWC, t_B, text, context
      )
      return x_BHWC.astype(jnp.float32)

    def denoise(x_BHWC, t_B):
      full = predict(x_BHWC, t_B, text, context)
      # Without context the new layers are skipped, not masked: the same
      # number, for less.
      nothing = predict(x_BHWC, t_B, null, None)
      if mode == "joint":
        return classifier_free(full, nothing, guidance[1])
      subject = predict(x_BHWC, t_B, null, context)
      return two_conditions(
        full,
        subject,
        nothing,
        text_scale=guidance[0],
        subject_scale=guidance[1],
      )

    # A key an image, so that it does not depend on the rest of its batch.
    keys_B = row_keys(jax.random.key(0), seeds_B)
    x0_BHWC = sample(
      denoise,
      backbone.schedule,
      draw_noise(keys_B, backbone.latent_shape),
      keys_B,
      num_steps=sampling["num_steps"],
      **backbone.limits(sampling["percentile"]),
    )
    return backbone.codec.decode(vae_params, x0_BHWC)

  return sample_images


def weights(sampling: Mapping[str, Any]) -> np.ndarray:
  """(text weight, subject weight) of guidance, float32."""
  guidance = sampling["guidance"]
  text = sampling["text_guidance"]
  return np.asarray([guidance if text is None else text, guidance], np.float32)


def make_batch(
  apprentice: Apprentice,
  rows: Sequence[tuple[str, Sequence[np.ndarray], Sequence[str]]],
  *,
  num_demonstrations: int,
) -> dict[str, Any]:
  """Stacks the inputs of sampling as training stacks its examples.

  Args:
    apprentice: its method names the fields.
    rows: (prompt, demonstrations, captions) of each image.
    num_demonstrations: K.

  Returns: {field: array_B..., or a text's dict of them}.
  """
  fields = apprentice.method.fields(apprentice.config)
  fields = [name for name in fields if name != "image"]
  arrays = [
    pick(
      make_fields(
        image=None,
        prompt=prompt,
        demonstrations=demonstrations,
        captions=captions,
        num_demonstrations=num_demonstrations,
        encode_text=apprentice.backbone.encode_text,
        size_px=apprentice.backbone.size_px,
      ),
      fields,
    )
    for prompt, demonstrations, captions in rows
  ]
  return jax.tree.map(lambda *rows: np.stack(rows), *arrays)


def generate(
  apprentice: Apprentice,
  images: Sequence[np.ndarray],
  prompt: str,
  *,
  captions: Sequence[str],
  num: int = 4,
  seed: int = 0,
  steps: int | None = None,
  guidance: float | None = None,
) -> list[np.ndarray]:
  """Generates images of a subject in a new scene.

  Compiled once for each number of images, of demonstrations (up to 4 count as
  4) and of steps.

  Args:
    apprentice: from `load_apprentice`.
    images: 0 to 10 pictures of the subject, uint8 RGB of any size.
    prompt: what the images show.
    captions: one text for each picture, "a dog"; "" is the null text.
    num: how many images.
    seed: image i is sampled with seed + i. With another `num` it agrees up to
      rounding, one level of 255: a single batch shape would take twice the time
      for one image.
    steps: of the sampler; None is the apprentice's default.
    guidance: weight; None is the apprentice's default.

  Returns: `num` images, uint8 RGB.

  Raises:
    ValueError: more pictures than a demonstration set holds, an empty prompt,
      a number below 1, or captions that do not match the pictures.
  """
  check(apprentice, prompt, num_images=len(images), num=num, steps=steps)
  if len(captions) != len(images):
    raise ValueError(
      f"{len(captions)} captions for {len(images)} pictures: give one each."
    )
  sampling = dict(apprentice.sampling)
  sampling["num_steps"] = steps or sampling["num_steps"]
  sampling["guidance"] = sampling["guidance"] if guidance is None else guidance
  usual = int(sampling["num_demonstrations"])
  # Resized once, as every generated image has the same demonstrations.
  images = [fit(image, apprentice.backbone.size_px) for image in images]
  batch = make_batch(
    apprentice,
    [(prompt, images, captions)] * num,
    num_demonstrations=max(usual, len(images)),
  )
  sample_images = _compiled(apprentice, sampling)
  image_pm1_BHWC = sample_images(
    apprentice.params,
    apprentice.backbone.codec.params,
    batch,
    apprentice.backbone.null_text(),
    (np.arange(num) + seed).astype(np.uint32),
    weights(sampling),
  )
  return list(to_u8(np.asarray(image_pm1_BHWC)))


_SAMPLE_FNS: dict[Any, Callable[..., jax.Array]] = {}


def _compiled(apprentice: Apprentice, sampling: Mapping[str, Any]) -> Callable:
  """The jitted sample function of an apprentice, one for equal settings."""
  settings = ("sampler", "num_steps", "percentile", "guidance_mode")
  key = (id(apprentice.apply), *(sampling[name] for name in settings))
  if key not in _SAMPLE_FNS:
    # Without its arrays, which would live as long as the program.
    bare = dataclasses.replace(apprentice, params={})
    _SAMPLE_FNS[key] = jax.jit(make_sample_fn(bare, sampling))
  return _SAMPLE_FNS[key]


def check(
  apprentice: Apprentice,
  prompt: str,
  *,
  num_images: int,
  num: int,
  steps: int | None,
) -> None:
  """Checks the arguments of `generate` before anything is compiled.

  Raises:
    ValueError: see `generate`.
  """
  most = int(apprentice.sampling["max_demonstrations"])
  if num_images > most:
    raise ValueError(
      f"{num_images} pictures of the subject were given; this model takes "
      f"at most {most}: give the best of them."
    )
  if not prompt.strip():
    raise ValueError(
      "The prompt is empty: say what to show, e.g. 'a dog in the snow'."
    )
  for name, value in (("num", num), ("steps", steps)):
    if value is not None and value < 1:
      raise ValueError(f"{name}={value}: expected 1 or more.")
