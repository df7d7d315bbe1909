# SPDX-License-Identifier: Apache-2.0
"""Guidance by text and subject, as data: branches, and how they are combined.

A branch is a prediction with some conditions hidden; a mode is a tuple of turns
that steps take one after the other, mostly one. No net is known here, and a
method's own conditions may be hidden in a branch like these two.

  joint        one weight for text and subject together: classifier-free
               guidance (arXiv 2207.12598)
  two          a weight for each (InstructPix2Pix, arXiv 2211.09800, eq. 3)
  normalised   the same around the prediction with the subject, with both
               directions scaled to the shorter one (SynCD, arXiv 2502.01720,
               eq. 4)
  interleaved  steps guide by text and by subject in turns (Re-Imagen, arXiv
               2209.14491), two predictions a step. The paper draws by lot whose
               turn it is; here they alternate, our choice
  agnostic     above a step the subject is hidden, so that it cannot overrule
               the text (Subject-Agnostic Guidance, arXiv 2405.01356); below, a
               weight in [-1, 0] says how much of it stays hidden
  independent  each alone against neither, the two directions added (composable
               diffusion, arXiv 2206.01714). CAFE (arXiv 2312.03045) trains for
               it, as it drops its two conditions independently of each other;
               how it guides is not published, so that this is our reading

In all of them the base without the subject may take over at the end, guided by
the text alone (Subject-Diffusion, arXiv 2307.11410, eq. 4): see `guide`.

Samplers are those of `suti.diffusion.samplers`, whose steps are equally far
apart: of other spacings turns would not alternate.

Shape legend: `B` batch, `H` `W` `C` picture or latent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from suti.diffusion.guidance import classifier_free, two_conditions

Array = jax.Array
Weights = Mapping[str, Array]

TEXT, SUBJECT = "text", "subject"
BASE = "method"  # hides the method itself: what its base predicts
_FULL: tuple[str, ...] = ()
_NOTHING = (TEXT, SUBJECT)


class Turn(NamedTuple):
  """What a step predicts, and how it guides.

  Attributes:
    branches: the conditions that each prediction lacks.
    combine: (predictions of the branches, weights at this step, share_B111 of
      the noise steps that are left, in [0, 1]) -> the guided prediction.
  """

  branches: tuple[tuple[str, ...], ...]
  combine: Callable[[Sequence[Array], Weights, Array], Array]


def _joint(predictions, weights, share_B111):
  del share_B111
  full, nothing = predictions
  return classifier_free(full, nothing, weights["subject"])


def _two(predictions, weights, share_B111):
  del share_B111
  full, nothing, subject = predictions
  return two_conditions(
    full,
    subject,
    nothing,
    text_scale=weights["text"],
    subject_scale=weights["subject"],
  )


def _normalised(predictions, weights, share_B111):
  del share_B111
  full, nothing, subject = predictions
  of_subject, of_text = subject - nothing, full - subject
  subject_B111, text_B111 = _length(of_subject), _length(of_text)
  shorter_B111 = jnp.minimum(subject_B111, text_B111)
  return (
    subject
    + weights["subject"] * _ratio(shorter_B111, subject_B111) * of_subject
    + weights["text"] * _ratio(shorter_B111, text_B111) * of_text
  )


def _length(x_BHWC: Array) -> Array:
  return jnp.sqrt(jnp.square(x_BHWC).sum((1, 2, 3), keepdims=True))


def _ratio(shorter_B111: Array, length_B111: Array) -> Array:
  """At most 1; 0 for a direction of no length, which is multiplied by it."""
  is_some = length_B111 > 0
  return jnp.where(
    is_some, shorter_B111 / jnp.where(is_some, length_B111, 1), 0
  )


def _by_text(predictions, weights, share_B111):
  del share_B111
  full, subject = predictions
  return classifier_free(full, subject, weights["text"])


def _by_subject(predictions, weights, share_B111):
  del share_B111
  full, text = predictions
  return classifier_free(full, text, weights["subject"])


def _agnostic(predictions, weights, share_B111):
  full, text, nothing = predictions
  seen_B111 = jnp.where(
    share_B111 > weights["agnostic_above"], 0.0, 1.0 + weights["agnostic"]
  )
  aware = classifier_free(full, text, seen_B111)
  return classifier_free(aware, nothing, weights["subject"])


def _independent(predictions, weights, share_B111):
  del share_B111
  of_text, of_subject, nothing = predictions
  return (
    nothing
    + weights["text"] * (of_text - nothing)
    + weights["subject"] * (of_subject - nothing)
  )


_THREE = (_FULL, _NOTHING, (TEXT,))
MODES: Mapping[str, tuple[Turn, ...]] = {
  "joint": (Turn((_FULL, _NOTHING), _joint),),
  "two": (Turn(_THREE, _two),),
  "normalised": (Turn(_THREE, _normalised),),
  "interleaved": (
    Turn((_FULL, (TEXT,)), _by_text),
    Turn((_FULL, (SUBJECT,)), _by_subject),
  ),
  "agnostic": (Turn((_FULL, (SUBJECT,), _NOTHING), _agnostic),),
  "independent": (Turn(((SUBJECT,), (TEXT,), _NOTHING), _independent),),
}
# What takes over at the end.
_PLAIN = Turn(((BASE,), (BASE, TEXT)), _by_text)


def guide(
  predict: Callable[[tuple[str, ...], Array, Array], Array],
  turns: Sequence[Turn],
  weights: Weights,
  *,
  schedule_steps: int,
  num_steps: int,
  hands_over: bool = False,
) -> Callable[[Array, Array], Array]:
  """Makes a guided denoiser.

  Args:
    predict: (hidden conditions, x_BHWC, t_B) -> prediction_BHWC, float32.
    turns: of `MODES`.
    weights: `text` and `subject`; `text_ramp` and `subject_ramp`, what is added
      to them as the noise goes, all of it at t = 0, never below 0 in sum;
      `agnostic`, `agnostic_above` of that mode. Arrays: others need no new
      program.
    schedule_steps: T.
    num_steps: of the sampler, which says whose turn it is.
    hands_over: whether the base takes over, guided by text alone, once the
      share of the noise steps that are left is `weights["until"]` or less.

  Returns: (x_BHWC, t_B) -> guided prediction; t is the same for all rows.
  """

  def take(turn: Turn, x_BHWC: Array, t_B: Array) -> Array:
    share_B = t_B.astype(jnp.float32) / schedule_steps
    share_B111 = share_B[:, None, None, None]
    now = dict(weights)
    for name in ("text", "subject"):
      ramp = weights[f"{name}_ramp"] * (1 - share_B111)
      now[name] = jnp.maximum(weights[name] + ramp, 0.0)
    predictions = [predict(hidden, x_BHWC, t_B) for hidden in turn.branches]
    return turn.combine(predictions, now, share_B111)

  def denoise(x_BHWC: Array, t_B: Array) -> Array:
    if not hands_over:
      return by_turns(x_BHWC, t_B)
    share = t_B[0].astype(jnp.float32) / schedule_steps
    return jax.lax.cond(
      share <= weights["until"],
      lambda x, t: take(_PLAIN, x, t),
      by_turns,
      x_BHWC,
      t_B,
    )

  def by_turns(x_BHWC: Array, t_B: Array) -> Array:
    if len(turns) == 1:
      return take(turns[0], x_BHWC, t_B)
    gone = (schedule_steps - 1 - t_B[0]) * num_steps / schedule_steps
    number = jnp.round(gone).astype(jnp.int32) % len(turns)
    return jax.lax.switch(
      number,
      [lambda x, t, turn=turn: take(turn, x, t) for turn in turns],
      x_BHWC,
      t_B,
    )

  return denoise
