# SPDX-License-Identifier: Apache-2.0
"""SynCD's method against what its publishers' own code returned.

See `tests.goldens.make_syncd`: nothing of it is run here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from apprentice.methods import syncd
from suti.diffusion.guidance_modes import MODES, SUBJECT, TEXT, guide
from tests.goldens import syncd_cases as cases

# What each of their branches hides, as our modes name it.
HIDES = {"nothing": (TEXT, SUBJECT), "subject": (TEXT,), "full": ()}


@pytest.fixture(scope="module")
def golden():
  return safetensors.numpy.load_file(cases.FILE)


def batch_of(golden, shape):
  """Steps and branches as rows: what `encode` is given, t, x, references.

  Args:
    golden: what they returned.
    shape: of the features of a picture.
  """
  rows = [(s, b) for s in range(cases.STEPS) for b in cases.BRANCHES]
  texts = [cases.texts(TEXT in HIDES[branch]) for _, branch in rows]
  is_shown = [SUBJECT not in HIDES[branch] for _, branch in rows]

  def each(x):
    return np.stack([x] * len(rows))

  batch = {
    "demonstrations": each(cases.latents()[1:]),
    "demonstration_mask": np.repeat(np.asarray(is_shown)[:, None], cases.K, 1),
    "demonstration_text": {
      name: np.stack([text[name][1:] for text in texts]) for name in texts[0]
    },
    "demonstration_images": each(cases.features(shape)),
    "demonstration_masks": each(cases.silhouettes()),
    "subject_scale": np.full(len(rows), cases.SCALE, np.float32),
  }
  text = {n: np.stack([text[n][0] for text in texts]) for n in texts[0]}
  parts = {
    name: np.stack([golden[f"method.{step}.{name}"] for step, _ in rows])
    for name in ("t", "x", "references")
  }
  return batch, text, parts


def test_both_passes_are_the_publishers(
  golden, tiny_clip, tmp_path, record_property
):
  """Three branches at two steps: 3 references, masks, texts, pictures."""
  _, spec, apply = cases.nets(tmp_path, tiny_clip)
  params = {name: jnp.asarray(x) for name, x in cases.ours(spec).items()}
  batch, text, parts = batch_of(golden, spec["null:features"].shape)
  t_B = parts["t"].reshape(-1)

  @jax.jit
  def predict(params, batch, x_BHWC, noised_BKHWC):
    def with_theirs(params, *args, net="", **kw):
      if net == "noising" and not kw:
        return noised_BKHWC, t_B
      if net == "cells":
        return jnp.broadcast_to(cases.masks(), args[0].shape[:2] + args[1])
      return apply(params, *args, net=net, **kw)

    keys_B = jax.random.split(jax.random.key(0), len(t_B))
    context = syncd.encode(with_theirs, params, batch)
    context = syncd.refresh(with_theirs, params, context, t_B, keys_B)
    return syncd.denoise(apply, params, x_BHWC, t_B, text, context)

  x_BHWC = parts["x"].reshape(len(t_B), *parts["x"].shape[2:])
  found = np.asarray(predict(params, batch, x_BHWC, parts["references"]))
  expected = np.concatenate(
    [golden[f"method.{step}.out"] for step in range(cases.STEPS)]
  )
  error = np.abs(found - expected).max()
  record_property("largest_error", float(error))
  assert error < 1e-4
  # The branches differ by far more than that, so that each part counts.
  apart = expected.reshape(cases.STEPS, 3, -1)
  assert np.abs(np.diff(apart, axis=1)).max(2).min() > 0.1


def test_masks_on_the_latent_are_the_publishers(golden, record_property):
  """By Lanczos' kernel, in steps of 1/255, and widened."""
  cells = syncd.Cells(cases.DILATION, soft=True)
  found = jax.jit(lambda mask: cells(mask, (cases.SIDE, cases.SIDE)))(
    jnp.asarray(cases.silhouettes()[None])
  )
  expected = golden["cells.mask"]
  error = float(np.abs(found[0] - expected).max())
  record_property("largest_error", error)
  assert error < 1e-5
  # Edges are soft, and cells that no pixel lies in are not.
  assert ((expected > 0) & (expected < 1)).any((1, 2)).all()
  assert (expected == 0).any((1, 2)).all()


def guided(parts, t, ramp):
  """Eq. 4 of given predictions, as sampling computes it."""
  by_hidden = {HIDES[name]: jnp.asarray(x) for name, x in parts.items()}
  weights = {
    "text": cases.TEXT_SCALE,
    "text_ramp": 0.0,
    "subject": cases.SUBJECT_SCALE,
    "subject_ramp": ramp,
  }
  denoise = guide(
    lambda hidden, x_BHWC, t_B: by_hidden[hidden],
    MODES["normalised"],
    {name: jnp.float32(x) for name, x in weights.items()},
    schedule_steps=1000,
    num_steps=cases.STEPS,
  )
  size = len(parts["full"])
  return np.asarray(denoise(jnp.zeros(size), jnp.full(size, t)))


def test_guidance_is_the_publishers(golden, record_property):
  """Eq. 4 alone, and with the weight that grows along their sampler's steps.

  Errors are shares of a row's largest value, as rounding in float32 is.
  """
  pairs = [
    (guided(cases.predictions(), 500, 0.0), golden["guidance.guided"]),
  ]
  for step in range(cases.STEPS):
    out = golden[f"method.{step}.out"]
    parts = {n: out[i : i + 1] for i, n in enumerate(cases.BRANCHES)}
    t = int(golden[f"method.{step}.t"].item())
    found = guided(parts, t, cases.SUBJECT_RAMP)
    pairs.append((found, golden[f"method.{step}.guided"]))
  errors = [
    float(
      (
        np.abs(found - expected)
        / np.abs(expected).max((1, 2, 3), keepdims=True)
      ).max()
    )
    for found, expected in pairs
  ]
  record_property("largest_errors", errors)
  assert max(errors) < 1e-6, errors
