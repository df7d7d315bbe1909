# SPDX-License-Identifier: Apache-2.0
"""Runs our models on the cases of `tests.goldens`, through files."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from suti.io.weights import load
from suti.models.clip import declare_clip, declare_clip_text
from suti.models.dino import declare_dino
from suti.models.unet import declare_unet
from suti.models.vae import declare_autoencoder
from suti.nn.param import functional
from tests.goldens import cases

DECLARE = {
  "unet": declare_unet,
  "vae": declare_autoencoder,
  "clip": declare_clip,
  "clip_text": declare_clip_text,
  "dino": declare_dino,
}


def run(
  case: str, tensors: dict[str, np.ndarray], folder: pathlib.Path
) -> dict[str, np.ndarray]:
  """Writes tensors to a file, loads it, and calls our model.

  Args:
    case: a name in `cases.CASES`.
    tensors: published names and layouts.
    folder: for the file.

  Returns:
    The outputs under the names that `make.run` gives them; gradients in the
    published layout.
  """
  family, config, _ = cases.CASES[case]
  path = folder / "model.safetensors"
  safetensors.numpy.save_file(tensors, path)
  spec, apply = functional(DECLARE[family](config))
  params = load(spec, path)
  values = {k: jnp.asarray(v) for k, v in cases.inputs(case).items()}
  outputs = _CALL[family](spec, apply)(params, **values)
  return {name: np.asarray(value) for name, value in outputs.items()}


def _unet(spec, apply):
  # One program: most of a tiny model's time is the compiler's.
  @jax.jit
  def run_all(params, x, t, text, target, text_mask=None):
    features = apply(
      params, x, t, text, text_mask_BL=text_mask, method="encode"
    )

    def loss(params):
      out = apply(params, x, t, text, text_mask_BL=text_mask)
      return jnp.square(out - target).mean(), out

    gradients, out = jax.grad(loss, has_aux=True)(params)
    return out, features, gradients

  def call(params, **values):
    out, features, gradients = run_all(params, **values)
    outputs = {"out": out}
    outputs |= {f"encode.{name}": value for name, value in features.items()}
    for name, value in gradients.items():
      outputs[f"gradient.{name}"] = published_layout(spec[name], value)
    return outputs

  return call


def _vae(spec, apply):
  @jax.jit
  def run_all(params, x, z):
    def loss(params):
      mean, log_variance = apply(params, x, method="encode")
      out = apply(params, z, method="decode")
      outputs = {"mean": mean, "log_variance": log_variance, "out": out}
      return sum(jnp.square(y).mean() for y in outputs.values()), outputs

    return jax.grad(loss, has_aux=True)(params)

  def call(params, **values):
    gradients, outputs = run_all(params, **values)
    for name, value in gradients.items():
      outputs[f"gradient.{name}"] = published_layout(spec[name], value)
    return outputs

  return call


def _clip(_, apply):
  @jax.jit
  def call(params, x, ids):
    text = apply(params, ids, method="encode_text")
    image = apply(params, x, method="encode_image")
    scale = apply(params, method="similarity_scale")
    return {
      "states": apply(params, ids, method="text_states"),
      "text": text,
      "image": image,
      "logits": scale * image @ text.T,
    }

  return call


def _clip_text(_, apply):
  return jax.jit(lambda params, ids: {"states": apply(params, ids)})


def _dino(_, apply):
  return jax.jit(lambda params, x, ids: {"states": apply(params, x)})


_CALL = {
  "unet": _unet,
  "vae": _vae,
  "clip": _clip,
  "clip_text": _clip_text,
  "dino": _dino,
}


def published_layout(p, value) -> np.ndarray:
  """Transposes an array of ours to how it is published."""
  if p.torch is None:
    return np.asarray(value)
  theirs, ours = (side.split() for side in p.torch.split("->"))
  return np.transpose(value, [ours.index(letter) for letter in theirs])
