# SPDX-License-Identifier: Apache-2.0
"""Subject-driven generation in context: sampling from an apprentice.

SuTI (arXiv 2304.00186), section 3.3 and Algorithm 1's last lines: 4
demonstrations, classifier-free guidance of weight 15, ancestral sampling. The
paper does not say what its null branch drops. Ours drops text and
demonstrations together ("joint"); for other modes of guidance, of any method,
see `suti.diffusion.guidance_modes`. Demonstrations are encoded once an image,
not once a step.

`suti generate` and the stage `apprentice.sample` both sample with this file.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apprentice.encoders import look, open_encoders
from apprentice.fields import (
  Picture,
  fit,
  make_fields,
  to_latents,
  without_text,
)
from apprentice.method import predict
from apprentice.model import Apprentice
from suti.config.names import suggest
from suti.diffusion.guidance_modes import (
  BASE,
  MODES,
  SUBJECT,
  TEXT,
  Turn,
  guide,
)
from suti.diffusion.samplers import SAMPLERS, draw_noise, row_keys
from suti.images import to_u8

# B images of a batch, K demonstrations, H W C image or latent.


def make_sample_fn(
  apprentice: Apprentice, sampling: Mapping[str, Any]
) -> Callable[..., jax.Array]:
  """Makes the pure function that samples images; the caller jits it.

  Args:
    apprentice: its arrays are not used: the function takes them as an argument.
    sampling: num_steps, sampler, percentile, and guidance_mode, one of
      `suti.diffusion.guidance_modes.MODES`.

  Returns:
    sample(params, vae_params, batch, null_text, seeds_B, guidance) ->
    image_pm1_BHWC. `batch` is `Method.fields` without the target, images uint8;
    `null_text` is the backbone's, one row; `guidance` is that of `weights`.
  """
  backbone, method = apprentice.backbone, apprentice.method
  sample = SAMPLERS[sampling["sampler"]]
  fields = method.fields(apprentice.config)
  turns = MODES[sampling["guidance_mode"]]
  _check_scale(apprentice, sampling["subject_scale"])

  def sample_images(params, vae_params, batch, null_text, seeds_B, guidance):
    num, text = seeds_B.shape[0], batch["text"]
    null = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (num, *x.shape[1:])), null_text
    )
    latents = to_latents(
      backbone, vae_params, batch, dtype=jnp.float32, fields=fields
    )
    if method.scaled(apprentice.config):
      scale = guidance["subject_scale"]
      latents["subject_scale"] = jnp.broadcast_to(scale, (num,))
    contexts = _encode_branches(
      apprentice, params, latents, turns, null_text=null_text, num=num
    )

    # A key an image, so that it does not depend on the rest of its batch.
    keys_B = row_keys(jax.random.key(0), seeds_B)

    def predict_without(hidden, x_BHWC, t_B):
      assert set(hidden) <= {TEXT, SUBJECT, BASE}, "no mode hides others"
      seen = None if BASE in hidden else contexts[hidden]
      x_BHWC = predict(
        method,
        apprentice.apply,
        params,
        x_BHWC,
        t_B,
        null if TEXT in hidden else text,
        seen,
        keys_B=keys_B,
      )
      return x_BHWC.astype(jnp.float32)

    denoise = guide(
      predict_without,
      turns,
      guidance,
      schedule_steps=backbone.schedule.num_steps,
      num_steps=sampling["num_steps"],
      hands_over=sampling["guidance_until"] > 0,
    )

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


def _encode_branches(
  apprentice: Apprentice,
  params: Mapping[str, Any],
  latents: Mapping[str, Any],
  turns: Sequence[Turn],
  *,
  null_text: Any,
  num: int,
) -> dict[tuple[str, ...], Any]:
  """What each branch of guidance sees of the subject, encoded once an image."""
  method, fields = (
    apprentice.method,
    apprentice.method.fields(apprentice.config),
  )
  gone_B = jnp.ones(num, bool)

  def encode_without(hidden: tuple[str, ...]) -> Any:
    seen = latents
    if TEXT in hidden:
      seen = without_text(seen, gone_B, null_text=null_text, fields=fields)
    if SUBJECT in hidden:
      # Without context the new layers are skipped, not masked: the same
      # number, for less. A method may see something in the subject's place.
      if SUBJECT not in method.hide:
        return None
      seen = method.hide[SUBJECT](seen, gone_B)
    return method.encode(apprentice.apply, params, seen)

  shown = encode_without(())
  contexts: dict[tuple[str, ...], Any] = {(): shown}
  for hidden in [each for turn in turns for each in turn.branches]:
    same = hidden == (TEXT,) and not any(each.with_text for each in fields)
    if hidden not in contexts:
      contexts[hidden] = shown if same else encode_without(hidden)
  return contexts


def weights(sampling: Mapping[str, Any]) -> dict[str, np.float32]:
  """The weights of guidance, see `suti.diffusion.guidance_modes.guide`.

  And `subject_scale`, of methods that have one.

  Args:
    sampling: `guidance` is the subject's weight and, where `text_guidance` is
      None, the text's; each has a ramp.

  Returns: float32, by name.
  """
  text = sampling["text_guidance"]
  numbers = {
    "text": sampling["guidance"] if text is None else text,
    "subject": sampling["guidance"],
    "text_ramp": sampling["text_guidance_ramp"],
    "subject_ramp": sampling["guidance_ramp"],
    "agnostic": sampling["agnostic"],
    "agnostic_above": sampling["agnostic_above"],
    "subject_scale": sampling["subject_scale"],
    "until": sampling["guidance_until"],
  }
  return {name: np.float32(number) for name, number in numbers.items()}


def make_batch(
  apprentice: Apprentice,
  rows: Sequence[tuple[str, Sequence[Picture], Sequence[str]]],
  *,
  num_demonstrations: int,
  inputs: Mapping[str, Any] | None = None,
  masks: Sequence[Sequence[np.ndarray]] | None = None,
) -> dict[str, Any]:
  """Stacks the inputs of sampling as training stacks its examples.

  Args:
    apprentice: its method says the fields.
    rows: (prompt, demonstrations, captions) of each image.
    num_demonstrations: K.
    inputs: what the method sees beside them, the same for all rows; see
      `generate`.
    masks: of each row where the subject is in its demonstrations; () if that
      is not known.

  Returns: {field: array_B..., or a text's dict of them}.

  Raises:
    ValueError: the method needs another input.
  """
  method, config = apprentice.method, apprentice.config
  encoders = open_encoders(method, config)
  arrays = [
    make_fields(
      image=None,
      prompt=prompt,
      demonstrations=see(apprentice, demonstrations),
      captions=captions,
      num_demonstrations=num_demonstrations,
      encode_text=apprentice.backbone.encode_text,
      size_px=apprentice.backbone.size_px,
      fields=method.fields(config),
      encoders=encoders,
      planes={**(inputs or {}), "demonstration_masks": shown}
      if shown
      else inputs,
    )
    for (prompt, demonstrations, captions), shown in zip(
      rows, masks or [()] * len(rows), strict=True
    )
  ]
  return jax.tree.map(lambda *rows: np.stack(rows), *arrays)


def see(apprentice: Apprentice, pictures: Sequence[Any]) -> list[Any]:
  """Pictures as the method's encoders see them, unless they are that."""
  if all(isinstance(picture, Mapping) for picture in pictures):
    return list(pictures)
  return look(pictures, open_encoders(apprentice.method, apprentice.config))


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
  text_guidance: float | None = None,
  guidance_mode: str | None = None,
  subject_scale: float | None = None,
  inputs: Mapping[str, Any] | None = None,
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
    steps, guidance: of the sampler, and weight; None is the apprentice's own.
    text_guidance: weight of the text, where the mode has one for each.
    guidance_mode: one of `suti.diffusion.guidance_modes.MODES`.
    subject_scale: how strongly pictures are seen, where a method has that.
    inputs: what a method sees beside pictures and text, by the name of what it
      stands for in an example: "mask" or "depth" of the image to generate,
      "demonstration_masks".

  Returns: `num` images, uint8 RGB.

  Raises:
    ValueError: more pictures than a demonstration set holds, an empty prompt,
      a number below 1, a seed out of range, captions or masks that do not match
      the pictures, no such mode, or a weight that the mode or the method has
      not.
  """
  check(apprentice, prompt, num_images=len(images), num=num, steps=steps)
  _check_seed(seed, num)
  given = {
    "num_steps": steps,
    "guidance": guidance,
    "text_guidance": text_guidance,
    "guidance_mode": guidance_mode,
    "subject_scale": subject_scale,
  }
  given = {name: value for name, value in given.items() if value is not None}
  sampling = {**apprentice.sampling} | given
  _check_weights(apprentice, sampling, given)
  _check_pictures(apprentice, len(images), captions, inputs or {})
  usual = int(sampling["num_demonstrations"])
  # Resized once, as every generated image has the same demonstrations.
  side = apprentice.backbone.size_px
  shown = see(apprentice, [fit(image, side) for image in images])
  batch = make_batch(
    apprentice,
    [(prompt, shown, captions)] * num,
    num_demonstrations=max(usual, len(images)),
    inputs=inputs,
  )
  image_pm1_BHWC = _compiled(apprentice, sampling)(
    apprentice.params,
    apprentice.backbone.codec.params,
    batch,
    apprentice.backbone.null_text(),
    (np.arange(num) + seed).astype(np.uint32),
    weights(sampling),
  )
  return list(to_u8(np.asarray(image_pm1_BHWC)))


def sees(apprentice: Apprentice, source: str) -> bool:
  """Whether a method sees a mask or a depth of an example, by its name."""
  return any(
    field.made == "plane" and field.source == source
    for field in apprentice.method.fields(apprentice.config)
  )


def check_inputs(apprentice: Apprentice, inputs: Mapping[str, Any]) -> None:
  """Checks that a method sees what it is given.

  Raises:
    ValueError: it does not.
  """
  fields = apprentice.method.fields(apprentice.config)
  known = [field.source for field in fields if field.made == "plane"]
  for name in inputs:
    if name not in known:
      has = f"it sees {', '.join(known)}" if known else "it sees none"
      raise ValueError(
        f"The method '{apprentice.name}' does not see a {name} beside pictures "
        f"and text: {has}; leave it out."
      )


def describe_inputs(
  apprentice: Apprentice, inputs: Mapping[str, Any]
) -> list[str]:
  """Lines on what a method sees beside pictures and text and is not given."""
  return [
    f"The method '{apprentice.name}' also sees '{field.source}', and none is "
    f"given: it is {field.absent:g} everywhere."
    for field in apprentice.method.fields(apprentice.config)
    if field.made == "plane"
    and field.absent is not None
    and field.source not in inputs
  ]


def _check_seed(seed: int, num: int) -> None:
  if not 0 <= seed <= 2**32 - num:
    raise ValueError(
      f"seed={seed}: expected 0 to {2**32 - num}, as image i is sampled with "
      "seed + i."
    )


def _check_weights(
  apprentice: Apprentice, sampling: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
  """Checks the mode and the weights.

  Here too, as a program that is compiled already does not check them again.

  Args:
    apprentice: the model.
    sampling: what it is to be sampled with.
    given: those that were asked for; the others are its own.

  Raises:
    ValueError: no such mode, or a weight that it or the method has not.
  """
  mode = sampling["guidance_mode"]
  check_mode(mode)
  alone = mode == "joint" and not sampling["guidance_until"]
  if "text_guidance" in given and alone:
    others = ", ".join(name for name in MODES if name != mode)
    raise ValueError(
      f"text_guidance={given['text_guidance']}: guidance_mode 'joint' has one "
      "weight, guidance, of text and subject; leave it out, or choose one of "
      f"{others}."
    )
  _check_scale(apprentice, sampling["subject_scale"])


def _check_pictures(
  apprentice: Apprentice,
  num_images: int,
  captions: Sequence[str],
  inputs: Mapping[str, Any],
) -> None:
  """Checks what comes with the pictures.

  Raises:
    ValueError: other numbers of captions or masks, or an input that the method
      does not see.
  """
  check_inputs(apprentice, inputs)
  of_each = {"captions": captions}
  if (masks := inputs.get("demonstration_masks")) is not None:
    of_each["demonstration_masks"] = masks
  for name, values in of_each.items():
    if len(values) != num_images:
      raise ValueError(
        f"{len(values)} {name} for {num_images} pictures: give one each."
      )


def _check_scale(apprentice: Apprentice, scale: float) -> None:
  """Checks that a weight of pictures is one, and that the method has it.

  Raises:
    ValueError: it is not, or the method has none.
  """
  if not 0 <= scale < math.inf:
    raise ValueError(
      f"subject_scale={scale}: expected 0, without the pictures, or more; 1 is "
      "usual."
    )
  if scale != 1 and not apprentice.method.scaled(apprentice.config):
    raise ValueError(
      f"subject_scale={scale}: the method '{apprentice.name}' has no such "
      "weight of its pictures as it is configured; leave it at 1, and set "
      "guidance."
    )


def check_mode(mode: str) -> None:
  """Checks the name of a mode of guidance.

  Raises:
    ValueError: there is no such mode; lists those there are, and the nearest.
  """
  if mode not in MODES:
    raise ValueError(
      f"guidance_mode={mode!r}: expected one of {', '.join(MODES)}."
      f"{suggest(mode, MODES)}"
    )


_SAMPLE_FNS: dict[Any, Callable[..., jax.Array]] = {}


def _compiled(apprentice: Apprentice, sampling: Mapping[str, Any]) -> Callable:
  """The jitted sample function of an apprentice, one for equal settings."""
  settings = ("sampler", "num_steps", "percentile", "guidance_mode")
  hands_over = sampling["guidance_until"] > 0
  key = (id(apprentice.apply), hands_over, *(sampling[n] for n in settings))
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
